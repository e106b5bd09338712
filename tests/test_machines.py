"""What `make gpu` and the benchmarks do on a machine that lacks something."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import describe_machine

ROOT = Path(__file__).parents[1]


def test_without_git_a_benchmark_has_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("POLYFIT_COMMIT", raising=False)
    assert describe_machine("cpu")["commit"] is None
    monkeypatch.setenv("POLYFIT_COMMIT", "abc1234")  # of a copy of the files
    assert describe_machine("cpu")["commit"] == "abc1234"


def test_a_machine_whose_gpu_cannot_be_used_is_not_green():
    arguments = ["pytest", "-q", "-p", "no:cacheprovider", "--require-gpu", "-m", "cuda", "tests/test_cuda.py"]
    ended = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "PYTHONPATH": ".:kernels"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode not in (0, 5)
    assert "--require-gpu: torch" in ended.stderr
    assert "can use no GPU here; check the driver" in ended.stderr


def test_a_rehearsal_is_not_taken_for_a_run_on_a_gpu():
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--require-gpu", "-m", "cuda", "tests/test_cuda.py"],
        cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode not in (0, 5)
    assert "with TRITON_INTERPRET=1 no kernel runs on a GPU; unset it" in ended.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="checks `make gpu`, and this machine has no make")
def test_make_gpu_without_a_gpu_ends_with_one_line(tmp_path: Path):
    ended = subprocess.run(
        ["make", "--silent", "gpu", f"PYTHON={sys.executable}", f"RESULTS={tmp_path / 'results'}"],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    said, by_make = ended.stderr.splitlines()
    assert said.startswith("torch ")
    assert "can use no GPU here; check the driver" in said
    assert re.match(r"make(\[\d+\])?: \*\*\*", by_make)  # with its level where a make runs the tests
    assert (ended.stdout, ended.returncode) == ("", 2)  # make's own status for a command that ended with 1
    assert not (tmp_path / "results").exists()
