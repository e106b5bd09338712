"""`ProgressBar`: what it prints, and that it stops."""

from __future__ import annotations

import threading

import pytest
from monitor_runs import COEF, a_run, a_view, some_losses

from polyfit.monitor import ProgressBar
from polyfit.monitor.calling import MonitorGroup


def assert_ended(threads: list[threading.Thread]) -> None:
    """All threads that were started since then have ended, or end within 5 seconds."""
    for thread in threading.enumerate():
        if thread not in threads:
            thread.join(5.0)
            assert not thread.is_alive()


@pytest.mark.parametrize("epochs", [None, 2000])
@pytest.mark.parametrize("as_context", [True, False])
def test_progress_bar_without_a_terminal(capsys: pytest.CaptureFixture[str], epochs: int | None, as_context: bool):
    threads = threading.enumerate()
    losses = some_losses(101)
    bar = ProgressBar(epochs, "polishing")
    if as_context:
        with bar:
            a_run(MonitorGroup(bar), losses, COEF, view=a_view(epochs=1000))
    else:
        a_run(MonitorGroup(bar), losses, COEF, view=a_view(epochs=1000))
    out = capsys.readouterr().out
    assert_ended(threads)
    assert out.count("polishing") == 1
    assert f"1000/{epochs or 1000} " in out
    assert f"loss {float(losses.values[-1]):.6g} " in out


@pytest.mark.parametrize("description", ["speed [m/s]", "run [/s]", "[bold]"])
def test_a_description_is_shown_as_it_is(capsys: pytest.CaptureFixture[str], description: str):
    a_run(MonitorGroup(ProgressBar(description=description)), some_losses(11), COEF, view=a_view(epochs=100))
    assert description in capsys.readouterr().out


def test_progress_bar_serves_one_run_after_the_other(capsys: pytest.CaptureFixture[str]):
    with ProgressBar() as bar:
        for epochs in (10, 40):
            a_run(MonitorGroup(bar), some_losses(epochs // 10 + 1), COEF, view=a_view(epochs=epochs))
    out = capsys.readouterr().out
    assert "10/10 " in out
    assert "40/40 " in out
    assert out.count("training") == 2


def test_progress_bar_stops_when_a_run_fails_in_its_context(capsys: pytest.CaptureFixture[str]):
    threads = threading.enumerate()

    def fail() -> None:
        with ProgressBar() as bar:
            bar.begin(a_view())
            bar(10, 0.5, COEF)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert_ended(threads)
    assert "10/100 loss 0.5" in capsys.readouterr().out
