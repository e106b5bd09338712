"""Training and fits of few data wake no thread: beside other processes each would wait for them for milliseconds."""

from __future__ import annotations

import threads

SET_UP = """
import math, torch, polyfit
from polyfit.optimizers import SGD, Adam
x = torch.linspace(-math.pi, math.pi, 2000)
y, weight, start = torch.sin(x), torch.rand(2000) + 0.1, torch.randn(6)
long, values = x.repeat(4), y.repeat(4)
options = dict(epochs=80_000, reduction="sum")
"""
CALLS = {
    "the tutorial's run": "polyfit.train(x, y, start, optimizer=SGD(0.55e-7), **options)",
    "weights": "polyfit.train(x, y, start, optimizer=SGD(0.55e-7), weight=weight, **options)",
    "8000 samples": "polyfit.train(long, values, start, optimizer=SGD(1e-8), **options)",
    "degree 20": "polyfit.train(long, values, torch.zeros(21), optimizer=SGD(0.1), epochs=9, basis='chebyshev',"
    " domain=(-4, 4))",
    "Adam": "polyfit.train(x, y, start, optimizer=Adam(), epochs=9, engine='moments')",
    "a fit": "polyfit.fit(long, values, 5)",
    "a fit in float64, degree 20": "polyfit.fit(long, values, 20, precision='double')",
}


@threads.needs_counts
def test_few_data_wake_no_thread():
    assert threads.switches(SET_UP, CALLS) == dict.fromkeys(CALLS, 0)
