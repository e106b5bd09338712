"""`Printer`: a line each so many epochs, and one at the end."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import polyfit
from polyfit.monitor import Printer
from polyfit.optimizers import Adam

X = torch.linspace(-1, 1, 30, dtype=torch.float64)


def printed(capsys: pytest.CaptureFixture[str], printer: Printer, **options: Any) -> list[int]:
    result = polyfit.train(X, X, torch.zeros(2, dtype=torch.float64), optimizer=Adam(0.1), monitor=printer, **options)
    by_epoch = dict(zip(result.losses.epochs.tolist(), result.losses.values.tolist(), strict=True))
    epochs = []
    for line in capsys.readouterr().out.splitlines():
        epochs.append(int(line.split(":")[0].removeprefix("epoch ")))
        assert line == f"epoch {epochs[-1]}: loss {by_epoch[epochs[-1]]:.6g}"
    return epochs


def test_a_line_each_so_many_epochs(capsys):
    assert printed(capsys, Printer(20), epochs=50, record_every=10) == [0, 20, 40, 50]
    assert printed(capsys, Printer(), epochs=20, record_every=10) == [0, 10, 20]
    printer = Printer(20)
    for _ in range(2):  # the last line is not printed twice, nor left out of the second run
        assert printed(capsys, printer, epochs=40, record_every=20) == [0, 20, 40]


def test_every_is_checked():
    with pytest.raises(ValueError, match="every=0 is too small; pass at least 1"):
        Printer(0)
