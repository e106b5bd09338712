"""The counts of `threads`."""

from __future__ import annotations

import threads

SET_UP = """
import numpy as np, torch
few, many = torch.ones(100, 6), torch.ones(400, 400)
array = many.numpy()
"""


@threads.needs_counts
def test_calls_that_wake_threads_are_told_from_others():
    calls = {"few": "few + 1; few.numpy() + 1", "torch": "many @ many", "numpy": "array @ array", "nothing": "pass"}
    counts = threads.switches(SET_UP, calls)
    assert counts["few"] == counts["nothing"] == 0
    assert counts["torch"] >= 20
    assert counts["numpy"] >= 20
