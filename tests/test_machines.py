"""What `make gpu` and the benchmarks do on a machine that lacks something."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import describe_machine

ROOT = Path(__file__).parents[1]


def test_without_git_a_benchmark_has_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_machine("cpu")["commit"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["pytest", "-q", "-p", "no:cacheprovider", "--require-gpu", "-m", "cuda", "tests/test_cuda.py"],
            "require-gpu",
        ),
        (["bench", "--device", "cuda"], "--device cuda"),
    ],
)
def test_a_machine_whose_gpu_cannot_be_used_is_not_green(arguments, said):
    ended = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "PYTHONPATH": ".:kernels"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode not in (0, 5)
    assert f"{said}: torch" in ended.stderr
    assert "can use no GPU here; check the driver" in ended.stderr


def test_a_rehearsal_is_not_taken_for_a_run_on_a_gpu():
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--require-gpu", "-m", "cuda", "tests/test_cuda.py"],
        cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode not in (0, 5)
    assert "with TRITON_INTERPRET=1 no kernel runs on a GPU; unset it" in ended.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("tests", "benchmarks", "status"), [(0, 0, 0), (1, 0, 2), (0, 1, 2), (1, 1, 2)])
def test_make_gpu_runs_the_benchmarks_after_tests_that_fail(tmp_path: Path, tests, benchmarks, status):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho ran $2\ncase $2 in pytest) exit {tests};; bench) exit {benchmarks};; esac\n")
    python.chmod(0o755)
    ended = subprocess.run(
        ["make", "--silent", "gpu", f"PYTHON={python}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.stdout == "ran pytest\nran bench\n"
    assert ended.returncode == status
