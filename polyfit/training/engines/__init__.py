"""The engines of `polyfit.train`: how coefficients get from one epoch to another.

`base` says what every engine has. `Stepping` makes update after update in Python, `Graphed` as replays of a CUDA graph;
`Adaptive` makes those of Adam on the quadratic of one series;
`Launching` makes many updates in a loop that is compiled, C++ or a kernel; `ClosedForm` computes any epoch at once.
"""

from polyfit.training.engines.adaptive import Adaptive
from polyfit.training.engines.base import Engine, State
from polyfit.training.engines.closed_form import ClosedForm
from polyfit.training.engines.launching import Launching, Loop
from polyfit.training.engines.stepping import Batches, Graphed, Pass, Stepping

__all__ = ["Adaptive", "Batches", "ClosedForm", "Engine", "Graphed", "Launching", "Loop", "Pass", "State", "Stepping"]
