"""What runs the phases on a GPU: shares of the time, processes that hang, fail or lose their GPU."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import __main__ as driver
from bench.gpu import machine, measuring, phase, sanitizer
from bench.gpu.measuring import Bench, Case

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
# Stands for python: `python -u -m bench.gpu.phase NAME --part K/N ...`.
STAND_IN = """#!/bin/sh
[ "$2" = bench.gpu.machine ] && echo noise && echo '{"device": "none"}' && exit
name=$4
shift 4
echo "$name $@"
case $name in
    headline) sleep 1000 & wait;;
    proof) exit 3;;
    sanitizer) (sleep 1; touch "$FOLDER/left_over") & exit 0;;
    policy) (sleep 3; touch "$FOLDER/left_over") & wait;;
esac
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> driver.Run:
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("FOLDER", str(tmp_path))
    monkeypatch.setattr(driver, "GRACE", 0.1)
    return driver.Run(tmp_path, driver.TOTAL / 10, [])


def test_a_phase_that_hangs_is_ended_and_the_next_one_runs(run: driver.Run, tmp_path: Path):
    names = {"smoke": 10.0, "headline": 10.0, "proof": 10.0, "sanitizer": 10.0}
    ended = run.phases(tuple(driver.Phase(name, share) for name, share in names.items()))
    run.end()
    assert ended["smoke"].startswith("ended well")
    assert "STOPPED: its time was over" in ended["headline"]
    assert "FAILED with status 3" in ended["proof"]
    assert ended["sanitizer"].startswith("ended well")
    assert all(process.poll() is not None for process in run._alive)
    log = (tmp_path / "gpu.log").read_text()
    assert "headline --part 0/1 --until" in log
    assert log.count("[headline warm] headline --part") == 6  # compiled while smoke ran, and ended at its start
    assert log.index("== smoke ended well") < log.index(" headline --part 0/1") < log.index(" proof --part 0/1")


def test_time_that_is_left_over_goes_to_the_next_phase(run: driver.Run, tmp_path: Path):
    began = time.time()
    run.phases((driver.Phase("smoke", 200.0), driver.Phase("sanitizer", 40.0)))
    assert time.time() < began + 10.0  # both ended at once, but the time of the second one is that from the beginning
    first, second = (
        float(line.split("--until ")[1].split()[0]) - began
        for line in (tmp_path / "gpu.log").read_text().splitlines()
        if "--until" in line
    )
    assert 10.0 < first < 20.1 < second < 24.1


def test_what_a_phase_leaves_behind_ends_with_it(run: driver.Run, tmp_path: Path):
    assert run.phases((driver.Phase("sanitizer", 100.0),))["sanitizer"].startswith("ended well")
    time.sleep(1.3)
    assert not (tmp_path / "left_over").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_processes(number, run: driver.Run, tmp_path: Path):
    begin = (
        "import signal, sys; from bench.gpu import __main__ as driver;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        f"sys.executable = {sys.executable!r};"
        f"sys.argv = ['bench.gpu', 'policy', '--results', {str(tmp_path)!r}];"
        "sys.exit(driver.main())"
    )
    began = time.monotonic()
    process = subprocess.Popen([PYTHON, "-c", begin], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "policy --part" not in process.stdout.readline():
        pass
    process.send_signal(number)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)  # as a person who does not wait
    said = process.communicate(timeout=10)[0]
    assert process.returncode == 128 + number
    assert "policy     was not finished" in said
    assert "Traceback" not in said
    time.sleep(max(0.0, began + 4.5 - time.monotonic()))
    assert not (tmp_path / "left_over").exists()


def test_a_log_that_cannot_be_written_stops_nothing(run: driver.Run, tmp_path: Path, capsys):
    (tmp_path / "gpu.log").mkdir()
    assert run.phases((driver.Phase("smoke", 100.0),))["smoke"].startswith("ended well")
    assert capsys.readouterr().out.count("gpu.log is not complete") == 1


def test_a_folder_that_cannot_be_written_is_said_before_any_phase(run: driver.Run, tmp_path: Path):
    assert run.describe() == ""
    (tmp_path / "file").write_text("")
    assert "give another folder with --results" in driver.Run(tmp_path / "file" / "folder", 10.0, []).describe()


def test_a_result_that_cannot_be_written_is_printed(tmp_path: Path, capsys):
    (tmp_path / "file").write_text("")
    measuring.Report(str(tmp_path / "file"), "smoke", "cpu")("case", wrong=0)
    assert '"benchmark": "case", "wrong": 0' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"), [(["smok"], "the phases are smoke"), (["--seconds", "0"], "give a positive number")]
)
def test_wrong_arguments_are_named(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.gpu", *arguments])
    with pytest.raises(SystemExit, match="2"):
        driver.main()
    assert said in capsys.readouterr().err


# --- a phase in its process ---


def fails(error: Exception) -> Any:
    def measure() -> dict[str, Any]:
        raise error

    return measure


@pytest.fixture
def run_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run cases as those of "smoke": the status, and the results."""

    def run(cases: list[Case], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        monkeypatch.setattr("bench.gpu.smoke.cases", lambda bench: iter(cases))
        status = phase.main(["smoke", "--small", "--results", str(tmp_path), *arguments])
        path = tmp_path / measuring.RESULTS
        return status, [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return run


RIGHT, WRONG = Case("right", lambda: {"wrong": 0}), Case("wrong", lambda: {"wrong": 2})


def test_results_are_written_one_by_one_and_a_case_that_fails_stops_nothing(run_cases):
    status, lines = run_cases([RIGHT, Case("fails", fails(ValueError("no"))), WRONG, RIGHT])
    assert status == 1
    assert [(line["benchmark"], line.get("wrong"), line.get("failed")) for line in lines] == [
        ("right", 0, None), ("fails", None, "ValueError: no"), ("wrong", 2, None), ("right", 0, None),
    ]  # fmt: skip
    assert {line["phase"] for line in lines} == {"smoke"}
    assert run_cases([RIGHT])[0] == 0


def test_a_part_takes_its_cases(run_cases):
    cases = [Case(str(number), dict) for number in range(10)]
    assert [line["benchmark"] for line in run_cases(cases, "--part", "1/3")[1]] == ["1", "4", "7"]


def test_results_of_smoke_say_how_many_there_are_to_be(run_cases):
    cases = [Case(str(number), dict) for number in range(10)]
    assert {line["of"] for line in run_cases(cases, "--part", "1/3")[1]} == {10}


def test_cases_whose_time_does_not_come_are_named(run_cases):
    status, lines = run_cases([RIGHT, WRONG], "--until", "0")
    assert (status, lines[0]["benchmark"], lines[0]["cases"]) == (0, "not measured", ["right", "wrong"])


def test_after_a_lost_context_a_new_process_goes_on_with_the_next_case(run_cases, monkeypatch):
    class Replaced(BaseException):
        pass

    def replace(program: str, arguments: list[str]) -> None:
        raise Replaced(arguments)

    monkeypatch.setattr("os.execv", replace)
    monkeypatch.setattr(sys, "argv", ["phase.py", "smoke"])
    lost = Case("lost", fails(RuntimeError("CUDA error: an illegal memory access was encountered")))
    with pytest.raises(Replaced) as caught:
        run_cases([RIGHT, lost, RIGHT])
    assert caught.value.args[0][2:] == ["bench.gpu.phase", "smoke", "--first", "2"]
    # That process skips what was measured, and its status tells of the failure.
    status, lines = run_cases([RIGHT, lost, RIGHT], "--first", "2")
    assert (status, [line["benchmark"] for line in lines]) == (1, ["right", "lost", "right"])


def test_an_error_that_comes_late_is_not_one_of_the_next_case(run_cases, monkeypatch):
    """A peer's error is no failure of a case, but may leave a context that nothing else can use."""
    gone_on = []
    waits = iter([None, RuntimeError("CUDA error: an illegal memory access was encountered"), None])

    def wait(bench: Bench) -> None:
        if (error := next(waits)) is not None:
            raise error

    monkeypatch.setattr(Bench, "wait", wait)
    monkeypatch.setattr(phase, "_go_on", gone_on.append)
    status, lines = run_cases([RIGHT, Case("unlucky", lambda: {"seconds": 1.0}), RIGHT])
    assert (status, gone_on) == (1, [2])
    assert [line["benchmark"] for line in lines] == ["right", "unlucky", "unlucky, after it", "right"]


def test_a_peer_that_fails_is_named_and_the_others_are_timed():
    bench = Bench("cpu", has_gpu=False, is_small=True)
    found = bench.peers(
        {"good": measuring.Peer(lambda: lambda: None, scale=2.0), "bad": measuring.Peer(fails(KeyError()))}
    )
    assert found["peers"].keys() == {"good"}
    assert "KeyError" in found["failed_peers"]["bad"]


def test_what_a_run_does_once_is_not_scaled():
    once, work = 0.02, 0.08
    assert measuring.whole(once + work, once + work / 4, 80.0) == pytest.approx(once + 80 * work)
    assert measuring.whole(1.0, 1.1, 80.0) == 1.0  # noise


def test_a_cache_that_triton_cannot_write_is_said(tmp_path: Path, monkeypatch):
    pytest.importorskip("triton")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert "set TRITON_CACHE_DIR" in machine._why_not_compile()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    assert machine._why_not_compile() == ""


# --- what compute-sanitizer prints ---

CLEAN = "========= COMPUTE-SANITIZER\nsmoke: 8 of 8 cases passed\n========= ERROR SUMMARY: 0 errors\n"
RACE = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at _resident_kernel+0x10
smoke: 8 of 8 cases passed
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""


def test_reading_what_the_sanitizer_found():
    assert sanitizer.read(CLEAN) == {"wrong": 0, "which": [], "cases": 8}
    found = sanitizer.read(RACE)
    assert found["wrong"] == 1
    assert "_resident_kernel" in found["which"][0]


@pytest.mark.parametrize(
    "output", ["", "Device not supported", CLEAN.replace("8 of 8", "7 of 8"), CLEAN.replace("8 of 8", "0 of 0")]
)
def test_no_verdict_is_not_a_good_one(output):
    with pytest.raises(RuntimeError, match="no verdict"):
        sanitizer.read(output)
