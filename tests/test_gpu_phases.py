"""The phases of `python -m bench.gpu`, at small sizes on the stand-in for a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
from stand_ins import installed

from bench.gpu import phase, smoke

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


def _half_percent_off(kernel):
    return lambda *operands, **wants: tuple(1.005 * part for part in kernel(*operands, **wants))


def _coefficients_of_the_first_series(kernel):
    return lambda x, y, coef, *rest, **wants: kernel(x, y, coef[:1].expand_as(coef), *rest, **wants)


def _without_the_last_sample(kernel):
    def moments(x, y, *rest):
        return kernel(x, torch.cat([y[:, :-1], torch.zeros_like(y[:, -1:])], 1), *rest)

    return moments


@pytest.mark.parametrize(
    ("kernel", "fault", "cases"),
    [
        ("moments", _half_percent_off, "moments float16 n=1000"),
        ("objective", _coefficients_of_the_first_series, "objective float32 3 series"),
        ("moments", _without_the_last_sample, "moments bfloat16 n=1000"),
    ],
)
def test_smoke_finds_a_fault(kernel, fault, cases, monkeypatch, tmp_path: Path):
    arguments = ["smoke", "--small", "--results", str(tmp_path), "--only", cases]
    assert phase.main(arguments) == 0
    monkeypatch.setattr(smoke, kernel, fault(getattr(smoke, kernel)))
    assert phase.main(arguments) == 1
    right, wrong = (json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text(encoding="utf-8").splitlines())
    assert right["wrong"] == 0
    assert wrong["wrong"] > 0
