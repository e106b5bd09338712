"""The phases of `python -m bench.gpu`, at small sizes on the stand-in for a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("triton")
from stand_ins import installed

from bench.gpu.__main__ import PHASES
from bench.gpu.timing import Bench, Report

pytestmark = pytest.mark.interpreter


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase(phase, tmp_path: Path):
    with installed() as gpu:
        report = Report(str(tmp_path), "cuda")
        PHASES[phase](Bench("cuda", small=True, report=report, warm=True))
        assert gpu.launched
        assert report._file is not None
        report._file.close()
    results = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text(encoding="utf-8").splitlines()]
    assert results
    for result in results:
        assert result["device"] == "a stand-in for a GPU"
        assert "failed" not in result, result
        assert not result.get("wrong"), result
