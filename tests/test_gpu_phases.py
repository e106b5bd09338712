"""The phases of `python -m bench.gpu`, at small sizes on the stand-in for a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("triton")
from stand_ins import installed

from bench.gpu import phase

pytestmark = pytest.mark.interpreter

# Not here: "proof" runs tests (tests/bench/test_proof.py), and each of them has a rehearsal of its own (test_cuda.py);
# "sanitizer" runs a program that only comes with CUDA (tests/bench/test_gpu_driver.py reads what it prints).
PHASES = ("smoke", "headline", "policy")


@pytest.mark.parametrize("is_warming", [False, True])
@pytest.mark.parametrize("name", PHASES)
def test_a_phase(name, is_warming, tmp_path: Path):
    with installed() as gpu:
        status = phase.main([name, "--small", "--results", str(tmp_path), *(["--warm"] if is_warming else [])])
        assert gpu.launched
    assert status == 0
    path = tmp_path / "gpu.jsonl"
    if is_warming:
        assert not path.exists()
        return
    results = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(results) > 20
    for result in results:
        assert result["device"] == "a stand-in for a GPU"
        assert "failed" not in result, result
        assert "failed_peers" not in result, result
        assert not result.get("wrong"), result
