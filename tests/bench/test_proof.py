"""The phase that runs all tests of a GPU, on small stand-ins for them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import order

ROOT = Path(__file__).resolve().parents[2]
STAND_INS = """
import os, time
import pytest

pytestmark = pytest.mark.cuda

@pytest.mark.parametrize("n_samples", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["half", "float"])
def test_sum(n_samples, dtype):
    assert n_samples > 0

def test_wrong_value():
    print("seen before the failure")
    computed = 1.25
    assert computed == 1.5

@pytest.mark.parametrize("weighted", [False])
def test_fatal(weighted):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

def test_skipped():
    pytest.skip("stands for a test that skips itself on this GPU")

def test_streams():
    pass

@pytest.mark.skipif("ENDS" not in os.environ, reason="ends its process: runs where a test sets ENDS")
def test_process_ends():
    os._exit(3)

@pytest.mark.skipif("SLOW" not in os.environ, reason="outlasts the deadline: runs where a test sets SLOW")
def test_slow_training():
    open("started", "w").close()
    time.sleep(60)

@pytest.mark.skipif("OFTEN" not in os.environ, reason="ends its process often: runs where a test sets OFTEN")
@pytest.mark.parametrize("n_samples", range(6))
@pytest.mark.parametrize("kind", range(5))
def test_often(n_samples, kind):
    if (n_samples, kind) in {(0, 0), (5, 1), (2, 2), (5, 4)}:
        raise RuntimeError("CUDA error: device-side assert triggered")
    if (n_samples, kind) == (3, 3):
        os._exit(3)
"""
RUN = """
import json, sys
from bench.gpu.proof import proof
folder, seconds, workers, *arguments = sys.argv[1:]
def report(name, **figures):
    with open(folder + "/lines", "a") as file:
        file.write(json.dumps({"benchmark": name, **figures}) + "\\n")
tests = ["-m", "cuda", "-c", folder + "/pytest.ini", folder]
sys.exit(proof(float(seconds), folder, report, tests=tests, pytest_arguments=arguments, workers=int(workers)))
"""
WITHOUT_XDIST = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n: None if n == 'xdist' else f(n)\n"


def command(folder: Path, seconds: float, *arguments: str, workers: int = 2, head: str = "") -> list[str]:
    """A run of the stand-ins."""
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = cuda: needs a GPU\n")
    (folder / "test_stand_ins.py").write_text(STAND_INS)
    xdist = [] if head else ["-p", "xdist"]
    return [sys.executable, "-c", head + RUN, str(folder), str(seconds), str(workers), *xdist, *arguments]


def environment(**more: str) -> dict[str, str]:
    """That of this process, but without what pytest-xdist adds, and without plugins that only take time."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **more}


def result(folder: Path) -> dict[str, Any]:
    """The one result of a run."""
    (line,) = (folder / "lines").read_text().splitlines()
    return json.loads(line)


def run(folder: Path, seconds: float, *arguments: str, head: str = "", **more: str) -> tuple[int, dict[str, Any], str]:
    """The status, the result and the failures of a run that ends by itself."""
    done = subprocess.run(
        command(folder, seconds, *arguments, head=head), env=environment(**more), cwd=folder, timeout=150, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (folder / "lines").exists(), done.stdout + done.stderr
    return done.returncode, result(folder), (folder / "failures.txt").read_text()


def test_tests_that_pass(tmp_path):
    status, line, failures = run(tmp_path, 100, "-k", "sum or streams", head=WITHOUT_XDIST)
    assert status == 0
    assert [line[name] for name in ("passed", "failed", "skipped", "not_run", "processes")] == [7, 0, 0, 0, 1]
    assert failures == ""
    cases = [json.loads(text) for text in (tmp_path / "cuda_cases.jsonl").read_text().splitlines()]
    assert sorted(entry["case"] for entry in cases)[:2] == ["test_streams", "test_sum[float-1]"]
    # Beside those of earlier runs.
    assert order.Durations.read(tmp_path / "cuda_durations.json").functions.keys() >= {"test_sum", "test_streams"}


def test_a_fatal_error_ends_its_process_and_the_other_tests_count(tmp_path):
    status, line, failures = run(tmp_path, 100, ENDS="1")
    assert status == 1
    assert [line[name] for name in ("passed", "failed", "skipped", "not_run")] == [7, 3, 32, 0]
    assert sorted(line["which"]) == ["test_fatal[False]", "test_process_ends", "test_wrong_value"]
    assert line["fatal"] == ["test_fatal[False]"]
    parts = {part.split("\n")[0].split("::")[1].split(" ")[0]: part for part in failures.split("=== ")[1:]}
    assert parts.keys() == set(line["which"])
    assert "parameters: weighted=False" in parts["test_fatal[False]"]
    assert "an illegal memory access" in parts["test_fatal[False]"]
    assert "before it, the same process ran " in parts["test_fatal[False]"]
    assert "assert 1.25 == 1.5" in parts["test_wrong_value"]
    assert "seen before the failure" in parts["test_wrong_value"]
    assert "crashed while running" in parts["test_process_ends"]
    assert all(len(part) < 3500 for part in parts.values())


def test_fatal_errors_in_many_tests_lose_no_other_test(tmp_path):
    status, line, _ = run(tmp_path, 100, "-k", "often", OFTEN="1")
    assert status == 1
    assert [line[name] for name in ("passed", "failed", "skipped", "not_run")] == [25, 5, 0, 0]
    assert [line["processes"], line["replaced"], len(line["fatal"])] == [2, 5, 4]
    cases = [json.loads(text)["case"] for text in (tmp_path / "cuda_cases.jsonl").read_text().splitlines()]
    assert len(set(cases)) == len(cases) == 30


def test_without_xdist_a_fatal_error_ends_the_run(tmp_path):
    status, line, failures = run(tmp_path, 100, head=WITHOUT_XDIST)
    assert status == 1
    assert line["fatal"] == ["test_fatal[False]"]
    assert line["not_run"] > 0
    assert sum(line[name] for name in ("passed", "failed", "skipped", "not_run")) == 42
    assert "assert 1.25 == 1.5" in failures


@pytest.mark.parametrize("head", ["", WITHOUT_XDIST], ids=["xdist", "one process"])
def test_the_time_is_over(tmp_path, head):
    began = time.perf_counter()
    status, line, _ = run(tmp_path, 6 if head else 12, "-k", "slow or sum", head=head, SLOW="1")
    assert time.perf_counter() - began < 30  # the slow test takes 60
    assert status == 1
    assert line["not_run_kinds"]["test_slow_training"] == 1
    assert line["not_run"] == sum(line["not_run_kinds"].values())
    assert "s were over" in line["stopped"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_ended_leaves_what_it_had(tmp_path, number):
    arguments = command(tmp_path, 60, "-k", "slow or wrong")
    process = subprocess.Popen(arguments, env=environment(SLOW="1"), cwd=tmp_path, stdout=subprocess.DEVNULL)
    cases = tmp_path / "cuda_cases.jsonl"
    try:
        ends = time.perf_counter() + 100
        while time.perf_counter() < ends and not (
            cases.exists() and cases.read_text() and (tmp_path / "started").exists()
        ):
            time.sleep(0.05)
        time.sleep(0.5)  # until the news of it has arrived
        process.send_signal(number)
        process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert json.loads(cases.read_text())["case"] == "test_wrong_value"
    assert "assert 1.25 == 1.5" in (tmp_path / "failures.txt").read_text()
    if number == signal.SIGTERM:  # there was time for the result
        line = result(tmp_path)
        assert [line[name] for name in ("failed", "not_run", "unfinished")] == [1, 1, ["test_slow_training"]]


def test_arguments_that_pytest_refuses(tmp_path):
    status, line, _ = run(tmp_path, 100, "--no-such-option", head=WITHOUT_XDIST)
    assert status == 1
    assert line["stopped"] == "pytest refused to run: status 4"


@pytest.mark.parametrize("head", ["", WITHOUT_XDIST], ids=["xdist", "one process"])
def test_a_file_that_cannot_be_imported(tmp_path, head):
    arguments = command(tmp_path, 100, head=head)
    (tmp_path / "test_stand_ins.py").write_text("import no_such_module\n")
    assert subprocess.run(arguments, env=environment(), cwd=tmp_path, timeout=150, check=False).returncode == 1
    assert result(tmp_path)["stopped"] == "no test was found"
    assert "no_such_module" in (tmp_path / "failures.txt").read_text()


def test_the_order_is_every_function_once_then_risky_and_slow_tests_first():
    tests = {f"f.py::test_{name}[{n}]": {"n_samples": n, "name": name} for name in "ab" for n in (1, 2)}
    tests |= {f"f.py::test_train[{rule}-{n}]": {"n_samples": n, "rule": rule} for rule in "st" for n in (1, 2)}
    durations = order.Durations({"test_a": 1.0, "test_b": 2.0, "test_train": 0.5}, {"test_train[t-2]": 3.0})
    assert order.groups(tests, durations) == [
        ["f.py::test_train[t-1]", "f.py::test_train[t-2]"],
        ["f.py::test_b[1]", "f.py::test_b[2]"],
        ["f.py::test_a[1]", "f.py::test_a[2]"],
        ["f.py::test_train[s-1]", "f.py::test_train[s-2]"],
    ]


def test_cases_that_take_long_together_are_divided():
    tests = {f"f.py::test_a[{n}]": {"n_samples": n} for n in range(13)}
    assert order.groups(tests, order.Durations({}, {})) == [[nodeid] for nodeid in tests]
    assert order.groups(tests, order.Durations({"test_a": 0.5}, {})) == [list(tests)]


def test_durations_are_kept(tmp_path):
    path = tmp_path / "durations.json"
    assert order.Durations.read(path)["f.py::test_a[1]@g5"] == order.UNKNOWN_SECONDS
    first = order.Durations.of({"f.py::test_a[1]@g5": 1.0, "f.py::test_a[2]@g5": 1.0, "f.py::test_a[3]@g5": 16.0})
    first.updated(order.Durations.of({"f.py::test_b": 3.0})).write(path)
    kept = order.Durations.read(path)
    assert [kept[f"f.py::test_{name}"] for name in ("a[1]", "a[3]", "b")] == [1.0, 16.0, 3.0]


def test_all_tests_of_a_gpu_are_in_the_file_that_the_phase_runs():
    marked = [path for path in (ROOT / "tests").rglob("*.py") if "pytestmark = pytest.mark.cuda" in path.read_text()]
    marked.remove(Path(__file__))
    assert marked == [ROOT / "tests" / "test_cuda.py"]
