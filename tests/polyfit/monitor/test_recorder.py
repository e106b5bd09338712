"""`Recorder`: it keeps every record."""

from __future__ import annotations

from monitor_runs import COEF, a_run, some_losses

from polyfit.monitor import Recorder
from polyfit.monitor.calling import MonitorGroup


def test_recorder_keeps_all():
    recorder, losses = Recorder(), some_losses(200)
    a_run(MonitorGroup(recorder), losses, COEF)
    assert recorder.epochs == losses.epochs.tolist()
    assert recorder.losses == losses.values.tolist()
    assert len(recorder.coefs) == 200
    assert len({coef.data_ptr() for coef in recorder.coefs}) == 200
