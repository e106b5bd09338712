"""A few points of the map, one of each kind; all of them: `python -m bench.map`. Checked first, timed after."""

from __future__ import annotations

import math

import pytest

from bench.map.forms import make
from bench.map.points import FORMS, LAYERS, Point
from bench.map.runner import agree, seconds_of

POINTS = [
    Point(form, 2048 if form in LAYERS else 2000, series=100 if form == "vmap" else 1)
    for form in FORMS
    if form != "series-step"
]
POINTS += [
    Point("step", 2000, loss="huber"),
    Point("step", 100_000),
    Point("values", 100_000),
    Point("step", 64, 3, series=1000, own_x=True),
    Point("series-step", 64, 3, series=1000),
]


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_map(point, in_turn):
    case = make(point)
    assert agree(case.ours(), case.peer())
    calls = math.ceil(2e-3 / seconds_of(case.ours, 10))

    def several(function):
        return lambda: [function() for _ in range(calls)]

    in_turn(several(case.ours), {"eager": several(case.peer)}, rounds=25, calls=calls)
