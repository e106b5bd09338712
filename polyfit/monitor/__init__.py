"""Monitors: what watches a run of `polyfit.train`, and how it is called.

A monitor is a function of the epoch, the loss (of many series: their mean) and the coefficients (a copy)::

    polyfit.train(..., monitor=lambda epoch, loss, coef: print(epoch, loss))
    polyfit.train(..., monitor=[ProgressBar(), TensorBoard("logs/first")])

It is called at records of the loss, as often as 2 % of the run's time allow for all monitors together, and at the first
and the last record in any case. An object may say more of itself:

- ``begin(view)`` is called before the first record, with a `View` of the run;
- ``end(losses, coef)`` after the last, with all recorded `Losses`: what must be complete is
  written here;
- a true ``every_record`` asks to be called at each record, whatever that costs.

A monitor that raises is warned of (`MonitorWarning`) and called no more; the run goes on. Ctrl-C ends the run.
"""

from polyfit.monitor.calling import Monitor, MonitorWarning
from polyfit.monitor.progress import ProgressBar
from polyfit.monitor.recorder import Recorder
from polyfit.monitor.records import Losses, View
from polyfit.monitor.tensorboard import TensorBoard
from polyfit.monitor.visdom import Visdom

__all__ = [
    "Losses",
    "Monitor",
    "MonitorWarning",
    "ProgressBar",
    "Recorder",
    "TensorBoard",
    "View",
    "Visdom",
]
