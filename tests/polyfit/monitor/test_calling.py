"""`MonitorGroup`: when it calls monitors, with which arguments, and after errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monitor_runs import COEF, Clock, Slow, Thorough, a_run, a_view, some_losses
from torch import Tensor

from polyfit.monitor import MonitorWarning, Recorder, View
from polyfit.monitor.calling import MonitorGroup
from polyfit.training import Losses


@pytest.mark.parametrize("marks_last", [True, False])
@pytest.mark.parametrize("costs", [[1e-5], [0.01], [3.0], [0.01, 0.05], [0.01, 1e-6, 0.3]])
def test_calls_take_their_share_of_the_time(costs: list[float], marks_last: bool):
    clock = Clock()
    slow = [Slow(clock, seconds) for seconds in costs]
    losses = some_losses(5000)
    a_run(MonitorGroup(slow, share=0.04, clock=clock), losses, COEF, clock=clock, marks_last=marks_last)
    epochs = losses.epochs.tolist()
    for one in slow:
        allowed = 0.04 / len(slow) * clock.now
        assert (
            one.spent <= allowed + 2 * one.seconds
        )  # the last call within the share may pass it, and the last record is always shown
        assert one.epochs == epochs or one.spent >= allowed - one.seconds - 1e-3
        assert (one.epochs[0], one.epochs[-1]) == (epochs[0], epochs[-1])
        assert one.epochs == sorted(set(one.epochs))
        assert one.losses == [float(losses.values[epoch // 10]) for epoch in one.epochs]


def test_the_share_is_of_the_time_since_the_beginning():
    clock = Clock()
    slow = Slow(clock, 0.01)
    monitors = MonitorGroup(slow, share=0.04, clock=clock)
    clock.now += 1e6
    a_run(monitors, some_losses(100), COEF, clock=clock)
    assert len(slow.epochs) == 2  # 4 % of 100 ms is less than one call


def test_monitors_are_given_two_percent():
    clock = Clock()
    slow = Slow(clock, 0.01)
    a_run(MonitorGroup(slow, clock=clock), some_losses(20_000), COEF, clock=clock)
    assert slow.spent == pytest.approx(0.02 * clock.now, rel=0.1)


def test_the_time_of_loss_and_coefficients_counts_too():
    clock = Clock()
    light = Slow(clock, 0.0)
    monitors = MonitorGroup(light, share=0.04, clock=clock)
    monitors.begin(a_view())

    def costly() -> Tensor:
        clock.now += 0.01
        return COEF

    for epoch in range(1000):
        clock.now += 1e-3
        monitors(epoch, lambda: 1.0, costly)
    assert 0.03 * clock.now < 0.01 * len(light.epochs) < 0.05 * clock.now


def test_loss_and_coefficients_are_not_computed_without_a_call():
    clock = Clock()
    monitors = MonitorGroup(Slow(clock, 10.0), share=0.04, clock=clock)
    monitors.begin(a_view())
    monitors(0, lambda: 1.0, lambda: COEF)
    monitors(1, lambda: pytest.fail("made"), lambda: pytest.fail("made"))


def test_every_record_means_each_one_at_no_cost_to_other_monitors():
    clock = Clock()
    losses = some_losses(1000)
    thorough, slow = Thorough(clock, 1e-3), Slow(clock, 0.01)
    a_run(MonitorGroup([thorough, slow], share=0.04, clock=clock), losses, COEF, clock=clock)
    assert thorough.epochs == losses.epochs.tolist()
    assert 0.03 * clock.now < slow.spent < 0.05 * clock.now


def test_a_skipped_last_record_is_shown_once_at_the_end():
    clock = Clock()
    slow, thorough = Slow(clock, 10.0), Thorough(clock, 0.0)
    losses = some_losses(3, 4)
    a_run(MonitorGroup([slow, thorough], share=0.04, clock=clock), losses, COEF, clock=clock, marks_last=False)
    assert slow.epochs == [0, 20]
    assert thorough.epochs == [0, 10, 20]
    assert slow.losses[1] == pytest.approx(float(losses.values[2].mean()), rel=1e-15)


def test_each_monitor_gets_its_own_copy():
    coef = COEF.clone().requires_grad_()
    seen = []

    def spoil(epoch: int, loss: float, coef: Tensor) -> None:
        seen.append(coef.clone())
        coef.fill_(7.0)

    class Spoiler:
        def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
            spoil(epoch, loss, coef)

        def end(self, losses: Losses, coef: Tensor) -> None:
            spoil(0, 0.0, coef)

    a_run(MonitorGroup([Spoiler(), spoil, Spoiler()]), some_losses(1), coef)
    assert len(seen) == 5
    for one in seen:
        assert torch.equal(one, COEF)
        assert not one.requires_grad
    assert torch.equal(coef, COEF)


def test_begin_gets_the_view_and_end_gets_losses_and_coefficients():
    told = []

    class Listener:
        def begin(self, view: View) -> None:
            told.append(view)

        def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
            told.append(epoch)

        def end(self, losses: Losses, coef: Tensor) -> None:
            told.append((losses, coef))

    view, losses = a_view(), some_losses(1)
    a_run(MonitorGroup(Listener()), losses, COEF, view=view)
    assert told[0] is view
    assert told[1] == 0
    assert told[2][0] is losses
    assert torch.equal(told[2][1], COEF)
    assert len(told) == 3


class Fails:
    """A monitor that raises an error in one of its calls."""

    every_record = True

    def __init__(self, when: str, error: BaseException) -> None:
        self.when, self.error = when, error
        self.calls: list[str] = []

    def _at(self, name: str) -> None:
        self.calls.append(name)
        if name == self.when:
            raise self.error

    def begin(self, view: View) -> None:
        self._at("begin")

    def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
        self._at(f"record {epoch}")

    def end(self, losses: Losses, coef: Tensor) -> None:
        self._at("end")


WHEN = {"begin": 1, "record 0": 2, "record 10": 3, "record 20": 4, "end": 5}


@pytest.mark.parametrize("when", WHEN)
def test_a_monitor_that_fails_gives_one_warning_and_the_run_continues(when: str):
    fails, recorder = Fails(when, OSError("disk full")), Recorder()
    monitors = MonitorGroup([fails, recorder])
    losses = some_losses(3)
    with pytest.warns(MonitorWarning) as caught:
        a_run(monitors, losses, COEF)
    assert [str(one.message) for one in caught] == [
        "the monitor Fails raised OSError: disk full; it is not called any more, and the run continues"
    ]
    assert caught[0].filename == a_run.__code__.co_filename  # the line outside polyfit that called it
    assert fails.calls == ["begin", "record 0", "record 10", "record 20", "end"][: WHEN[when]]
    assert recorder.epochs == losses.epochs.tolist()
    assert monitors


def test_the_path_of_a_file_error_is_shown(tmp_path):
    def save(epoch: int, loss: float, coef: object) -> None:
        (tmp_path / "none" / "coef.txt").write_text("")

    with pytest.warns(MonitorWarning, match=r"raised FileNotFoundError: .*none.coef\.txt"):
        a_run(MonitorGroup(save), some_losses(3), COEF)


def test_a_group_is_false_after_its_last_monitor_failed():
    monitors = MonitorGroup(lambda epoch, loss, coef: 1 / 0)
    assert monitors
    monitors.begin(a_view())
    with pytest.warns(MonitorWarning, match=r"<lambda> raised ZeroDivisionError"):
        monitors(0, lambda: 1.0, lambda: COEF)
    assert not monitors
    assert not MonitorGroup(None)
    assert not MonitorGroup([])


@pytest.mark.parametrize("when", WHEN)
def test_ctrl_c_ends_the_run(when: str):
    with pytest.raises(KeyboardInterrupt):
        a_run(MonitorGroup(Fails(when, KeyboardInterrupt())), some_losses(3), COEF)


def test_an_error_of_the_run_is_raised_and_removes_no_monitor():
    monitors = MonitorGroup(Recorder())
    monitors.begin(a_view())
    with pytest.raises(ZeroDivisionError):
        monitors(0, lambda: 1 / 0, lambda: COEF)
    assert monitors


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (3, "monitor is int; pass a function"),
        ("bar", "monitor is str; pass a function"),
        ([Recorder(), None], "monitor is NoneType; pass a function"),
        (Recorder, r"monitor is the class Recorder; pass one of its objects: Recorder\(...\)"),
    ],
)
def test_objects_that_are_not_monitors_are_refused(wrong: Any, message: str):
    with pytest.raises(TypeError, match=message):
        MonitorGroup(wrong)
