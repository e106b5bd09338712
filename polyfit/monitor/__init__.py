"""Monitors show or record a run of `polyfit.train` while it lasts.

A monitor is a function of the epoch, the loss (the mean over many series) and the coefficients (a copy)::

    polyfit.train(..., monitor=lambda epoch, loss, coef: print(epoch, loss))
    polyfit.train(..., monitor=[ProgressBar(), TensorBoard("logs/first")])

Monitors are called at the first and the last record of the loss. In between, they are called at as many records as fit
into 2 % of the time of the run, for all monitors together. An object may have more:

- a method ``begin(view)``, called before the first record with a `View` of the run;
- a method ``end(losses, coef)``, called after the last record with all recorded `Losses`; a monitor whose output must
  be complete writes it here;
- a true attribute ``every_record``: the monitor is then called at each record, however long the calls take.

If a monitor raises an error, a `MonitorWarning` says so and the monitor is not called any more. The run continues.
Ctrl-C in a monitor ends the run.
"""

from polyfit.monitor.calling import Monitor, MonitorWarning
from polyfit.monitor.printer import Printer
from polyfit.monitor.progress import ProgressBar
from polyfit.monitor.recorder import Recorder
from polyfit.monitor.records import Losses, View
from polyfit.monitor.tensorboard import TensorBoard
from polyfit.monitor.visdom import Visdom

__all__ = [
    "Losses",
    "Monitor",
    "MonitorWarning",
    "Printer",
    "ProgressBar",
    "Recorder",
    "TensorBoard",
    "View",
    "Visdom",
]
