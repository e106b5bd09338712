"""`TensorBoard`: its log, read back by TensorBoard."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monitor_runs import COEF, F64, Clock, a_run, a_view, some_losses
from torch import Tensor

from polyfit.monitor import MonitorWarning, TensorBoard, View
from polyfit.monitor.calling import MonitorGroup
from polyfit.training import Losses


def read_log(folder: Path) -> Any:
    """All that TensorBoard reads from the one file in a folder."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert len(list(folder.iterdir())) == 1
    log = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    log.Reload()
    return log


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_tensorboard_holds_each_record_once_and_in_order(tmp_path: Path, seconds: float, batch: tuple[int, ...]):
    pytest.importorskip("tensorboard")
    clock = Clock()

    class Slowed(TensorBoard):
        n_calls = 0

        def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
            super().__call__(epoch, loss, coef)
            clock.now += seconds
            self.n_calls += 1

    board, losses = Slowed(tmp_path / "log"), some_losses(300, *batch)
    a_run(MonitorGroup(board, share=0.04, clock=clock), losses, COEF.expand(*batch, 3), clock=clock, seconds=0.01)
    assert (board.n_calls == 300) == (seconds == 0.0)
    log = read_log(tmp_path / "log")
    assert log.Tags()["scalars"] == ["loss"]
    events = log.Scalars("loss")
    assert [event.step for event in events] == losses.epochs.tolist()
    written = np.array([event.value for event in events])
    expected = losses.values.numpy().reshape(300, -1).mean(1).astype(np.float32)
    # a mean in float64 depends on the order of its sum, and may round to the neighbouring float32
    np.testing.assert_allclose(written, expected, rtol=2.0**-23 if batch else 0.0, atol=0.0)
    times = [event.wall_time for event in events]
    assert times == sorted(times)


def test_tensorboard_shows_the_curve(tmp_path: Path):
    pytest.importorskip("tensorboard")
    image = pytest.importorskip("PIL.Image")
    a_run(MonitorGroup(TensorBoard(str(tmp_path))), some_losses(20), COEF)
    log = read_log(tmp_path)
    assert log.Tags()["images"] == ["fit"]
    (event,) = log.Images("fit")
    assert event.step == 190
    pixels = np.asarray(image.open(io.BytesIO(event.encoded_image_string)).convert("RGB")).astype(int)
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 2 * pixels.shape[0]
    left, right = np.split(pixels[:, : pixels.shape[1] // 2 * 2], 2, axis=1)
    is_red, is_blue = ((half[..., c] > 1.5 * half[..., 2 - c]).sum() for half, c in ((left, 0), (right, 2)))
    assert is_red > 100  # the loss
    assert is_blue > 100  # the polynomial


def test_tensorboard_of_a_run_that_became_infinite(tmp_path: Path):
    pytest.importorskip("tensorboard")
    losses = Losses(torch.tensor([0, 10, 17]), torch.tensor([1.0, 1e200, torch.inf], dtype=F64))
    board = TensorBoard(tmp_path)
    monitors = MonitorGroup(board)
    monitors.begin(a_view())
    for epoch, loss in ((0, 1.0), (10, 1e200), (20, float("nan"))):  # a call may come later than the last kept record
        monitors(epoch, lambda loss=loss: loss, lambda: COEF * torch.nan)
    monitors.end(losses, COEF * torch.inf)
    log = read_log(tmp_path)
    assert [(event.step, event.value) for event in log.Scalars("loss")] == [(0, 1.0), (10, torch.inf), (17, torch.inf)]
    assert len(log.Images("fit")) == 1


def test_tensorboard_keeps_the_losses_where_the_picture_fails(tmp_path: Path):
    pytest.importorskip("tensorboard")
    x = torch.linspace(-1.0, 1.0, 5)

    def refuse(x: Tensor, coef: Tensor) -> Tensor:
        raise RuntimeError("no memory")

    losses = some_losses(3)
    monitors = MonitorGroup(TensorBoard(tmp_path))
    monitors.begin(View(x, x, 20, refuse))
    monitors(0, lambda: float(losses.values[0]), lambda: COEF)
    with pytest.warns(MonitorWarning, match="TensorBoard raised .*no memory"):
        monitors.end(losses, COEF)
    assert [event.step for event in read_log(tmp_path).Scalars("loss")] == [0, 10, 20]
