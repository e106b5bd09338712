"""Pictures of runs show every kind of loss, and stay small."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")
from polyfit import plotting

X = torch.linspace(0, 1, 10, dtype=torch.float64)


def axes(values: list[float], n_samples: int = 10):
    losses = (torch.arange(len(values)), torch.tensor(values, dtype=torch.float64))
    x = torch.linspace(0, 1, n_samples, dtype=torch.float64)
    return plotting.training_figure(losses, x, x, x).axes


def test_a_picture_of_many_samples_and_records_draws_some_of_them():
    left, right = axes([1.0] * 30_001, 100_001)
    for line, last in ((left.lines[0], 30_000.0), *((line, 1.0) for line in right.lines)):
        drawn = np.asarray(line.get_xdata())
        assert len(drawn) <= 5001
        assert (drawn[0], drawn[-1]) == (0.0, last)


@pytest.mark.parametrize("values", [[2.0], [2.0, math.nan], [2.0, math.inf, math.nan]])
def test_a_single_finite_loss_is_a_point(values):
    assert axes(values)[0].lines[0].get_marker() == "o"


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([3.0, 1.0], "log"),
        ([3.0, 0.0], "log"),
        ([3.0, math.nan], "log"),
        ([3.0, -1.0], "linear"),
        ([0.0, 0.0], "linear"),
    ],
)
def test_losses_below_zero_are_seen(values, scale):
    assert axes(values)[0].get_yscale() == scale
