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

from __future__ import annotations

import importlib
import math
import os
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from polyfit import plotting

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Monitor = Callable[[int, float, Tensor], object]


class MonitorWarning(UserWarning):
    """A monitor failed, and is called no more."""


class Losses(NamedTuple):
    """The recorded losses.

    Attributes:
        epochs: after how many epochs a loss was recorded, (records,) int64, on the CPU.
        values: the losses, (records,) float64, on the CPU; (records, *batch) with ``per_series=True``.
    """

    epochs: Tensor
    values: Tensor


@dataclass(frozen=True, eq=False)
class View:
    """What a monitor is told of a run that begins.

    Attributes:
        x: samples, (N,) or (*batch, N), as the caller gave them.
        y: targets, likewise.
        epochs: how many are to be made.
        evaluate: of x and coefficients: values of the polynomial in the basis and domain of the run.
    """

    x: Tensor
    y: Tensor
    epochs: int
    evaluate: Callable[[Tensor, Tensor], Tensor]


# --- calling them ---


@dataclass(eq=False)
class _Watched:
    monitor: Any
    shown: int | None = None  # the last epoch
    spent: float = 0.0  # seconds

    @property
    def wants_all(self) -> bool:
        return bool(getattr(self.monitor, "every_record", False))

    @property
    def name(self) -> str:
        return getattr(self.monitor, "__qualname__", type(self.monitor).__name__)


class Watchers:
    """The monitors of one run, called as the head of this file says.

    Args:
        monitor: a monitor, several, or None.
        share: of the time since `begin`, for all of them together but those that want every record.
        clock: gives seconds.

    Raises:
        TypeError: a monitor is none.
    """

    def __init__(
        self,
        monitor: Monitor | Sequence[Monitor] | None,
        *,
        share: float = 0.02,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if monitor is None:
            several: Sequence[Any] = ()
        else:
            several = monitor if isinstance(monitor, Sequence) and not callable(monitor) else (monitor,)
        for one in several:
            if isinstance(one, type):
                raise TypeError(f"monitor is the class {one.__name__}; pass one of its objects: {one.__name__}(...)")
            if not callable(one):
                raise TypeError(f"monitor is {type(one).__name__}; pass a function of epoch, loss and coefficients")
        self._watched = [_Watched(one) for one in several]
        self._share = share / max(1, sum(not watched.wants_all for watched in self._watched))
        self._clock = clock
        self._began = clock()

    def __bool__(self) -> bool:
        """Whether there is any left."""
        return bool(self._watched)

    def begin(self, view: View) -> None:
        """The run begins."""
        for watched in tuple(self._watched):
            if hasattr(watched.monitor, "begin"):
                self._try(watched, watched.monitor.begin, view)
        self._began = self._clock()

    def __call__(
        self, epoch: int, loss: Callable[[], float], coef: Callable[[], Tensor], *, is_last: bool = False
    ) -> None:
        """A record; loss and coefficients are made only if they are shown to someone."""
        began = self._clock()
        allowed = self._share * (began - self._began)
        due = [one for one in self._watched if is_last or one.shown is None or one.spent <= allowed or one.wants_all]
        if due:
            value, current = loss(), coef()
            making = self._clock() - began
            for watched in due:
                self._show(watched, epoch, value, current, making)

    def end(self, losses: Losses, coef: Tensor) -> None:
        """The run has ended. Who was not shown its last record (a run may end at any) is shown it now."""
        for watched in tuple(self._watched):
            if len(losses.epochs) and (watched.shown is None or watched.shown < int(losses.epochs[-1])):
                self._show(watched, int(losses.epochs[-1]), float(losses.values[-1].mean()), coef)
        for watched in tuple(self._watched):
            if hasattr(watched.monitor, "end"):
                self._try(watched, watched.monitor.end, losses, coef.detach().clone())

    def _show(self, watched: _Watched, epoch: int, loss: float, coef: Tensor, spent: float = 0.0) -> None:
        began = self._clock()
        self._try(watched, watched.monitor, epoch, loss, coef.detach().clone())
        watched.shown = epoch
        watched.spent += spent + self._clock() - began

    def _try(self, watched: _Watched, function: Callable[..., object], *args: Any) -> None:
        try:
            function(*args)
        except Exception as error:  # whatever it is, the run is worth more
            self._watched.remove(watched)
            _warn(f"the monitor {watched.name} failed and is called no more, the run goes on: {error!r}")


def _warn(message: str) -> None:
    """Warn at the line that called this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "polyfit":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, MonitorWarning, stacklevel=level)


# --- what several of those below do ---

# Points of long data that are drawn: some all over them.
_MOST_POINTS = 5000


def _import(module: str, who: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{who} needs {module}: {error}; pip install 'fused-polyfit[{extra}]'") from error


def _of_all(losses: Losses) -> Losses:
    """The mean over the series, if there are several: what monitors are shown."""
    return losses if losses.values.dim() == 1 else losses._replace(values=losses.values.flatten(1).mean(1))


def _data_and_fit(view: View, coef: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ascending x, y and the polynomial there: float64 on the CPU; of many series those of the first."""
    x, y = torch.broadcast_tensors(view.x, view.y)
    if coef.dim() == 1:  # one polynomial for all samples
        x, y = x.reshape(-1), y.reshape(-1)
    else:
        x, y, coef = (values[(0,) * (values.dim() - 1)] for values in (x, y, coef))
    step = max(1, math.ceil(len(x) / _MOST_POINTS))
    x, y = x[::step], y[::step]
    order = x.argsort()
    x, y = x[order], y[order]
    fitted = view.evaluate(x, coef)
    x, y, fitted = (values.detach().cpu().double() for values in (x, y, fitted))
    return x, y, fitted


# --- ready ones ---


class ProgressBar:
    """A progress bar with the current loss. Needs rich (extra `cli`).

    Args:
        epochs: of the run; None for as many as it is told of.
        description: what stands before the bar.

    It shows itself while a run lasts::

        polyfit.train(..., monitor=ProgressBar())

    As a context manager it also ends where the run ends by an error::

        with ProgressBar() as bar:
            polyfit.train(..., monitor=bar)
    """

    def __init__(self, epochs: int | None = None, description: str = "training") -> None:
        progress = _import("rich.progress", "ProgressBar", "cli")
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("loss {task.fields[loss]:.6g}"),
            progress.TimeElapsedColumn(),
            refresh_per_second=4,  # by a thread, which takes its time from the run
        )
        self._epochs = epochs
        self._is_running = False
        self._task = self._progress.add_task(description, total=epochs, loss=math.nan, start=False)

    def _start(self) -> None:
        if not self._is_running:
            self._is_running = True
            self._progress.start_task(self._task)
            self._progress.start()

    def _stop(self) -> None:
        if self._is_running:
            self._is_running = False
            self._progress.stop_task(self._task)
            self._progress.stop()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def begin(self, view: View) -> None:
        """Show the bar, from the start."""
        total = view.epochs if self._epochs is None else self._epochs
        self._progress.reset(self._task, total=total, loss=math.nan)
        self._start()

    def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
        """Move the bar to `epoch` and show `loss`."""
        self._progress.update(self._task, completed=epoch, loss=loss)

    def end(self, losses: Losses, coef: Tensor) -> None:
        """Leave it as it is."""
        self._stop()


class Recorder:
    """Keeps every record.

    Attributes:
        epochs: of the records.
        losses: at each of them.
        coefs: at each of them.

    >>> from polyfit import optimizers, train
    >>> recorder, x = Recorder(), torch.tensor([-1.0, 1.0])
    >>> _ = train(x, x, torch.zeros(2), optimizer=optimizers.SGD(0.25), epochs=2, record_every=1, monitor=recorder)
    >>> recorder.epochs, recorder.losses
    ([0, 1, 2], [1.0, 0.25, 0.0625])
    >>> recorder.coefs[1]
    tensor([0.0000, 0.5000])
    """

    every_record = True

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.losses: list[float] = []
        self.coefs: list[Tensor] = []

    def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
        """Keep it."""
        self.epochs.append(epoch)
        self.losses.append(loss)
        self.coefs.append(coef.detach().clone())


class TensorBoard:
    """Writes a log for TensorBoard: the scalar `loss` and, at the end, the image `fit`.

    The image is the loss curve beside the data and the polynomial; of many series it shows the first, and `loss` is
    their mean. Needs tensorboard and matplotlib (extra `tensorboard`).

    While the run lasts the log holds what there was time for; in the end it holds each record once, in order. (The file
    is then replaced by a whole one: TensorBoard takes an earlier step after a later one for a new start and forgets the
    later.)

    Args:
        logdir: folder of the run, one for each; it is made if needed.

    Example, to be looked at with ``tensorboard --logdir logs``::

        polyfit.train(..., monitor=TensorBoard("logs/first"))
    """

    def __init__(self, logdir: str | os.PathLike[str]) -> None:
        self._writer_class: type[SummaryWriter] = _import(
            "torch.utils.tensorboard", "TensorBoard", "tensorboard"
        ).SummaryWriter
        _import("matplotlib", "TensorBoard", "tensorboard")
        self._logdir = Path(logdir)

    def _open(self) -> tuple[SummaryWriter, str]:
        mark = f".{uuid.uuid4().hex}"  # by which the file is found again
        return self._writer_class(str(self._logdir), flush_secs=1, filename_suffix=mark), mark

    def begin(self, view: View) -> None:
        """Open the log."""
        self._view = view
        self._times: dict[int, float] = {}
        self._writer, self._mark = self._open()

    def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
        """Write the loss."""
        self._times[epoch] = time.time()
        self._writer.add_scalar("loss", loss, epoch, walltime=self._times[epoch])

    def end(self, losses: Losses, coef: Tensor) -> None:
        """Complete the log."""
        losses = _of_all(losses)
        epochs = losses.epochs.tolist()
        replaced: list[Path] = []
        if list(self._times) != epochs:
            self._writer.close()
            replaced = list(self._logdir.glob(f"*{self._mark}"))
            self._writer, self._mark = self._open()
            seen = self._times or {0: time.time()}
            times = np.interp(epochs, list(seen), list(seen.values()))
            for epoch, value, at in zip(epochs, losses.values.tolist(), times.tolist(), strict=True):
                self._writer.add_scalar("loss", value, epoch, walltime=at)
        try:
            self._writer.add_image("fit", self._image(losses, coef), epochs[-1], dataformats="HWC")
        finally:
            self._writer.close()
            for path in replaced:
                path.unlink()

    def _image(self, losses: Losses, coef: Tensor) -> np.ndarray[Any, Any]:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(plotting.training_figure(losses, *_data_and_fit(self._view, coef)))
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3]


class Visdom:
    """Shows the loss, and at the end the data and the polynomial, in two windows of a Visdom server.

    Of many series it shows the mean loss, and the first. Needs visdom (extra `visdom`), and a server or a file
    to log to.

    Args:
        connection: a `visdom.Visdom` to use; without it one is made.
        env: environment of the windows.
        window: name of the one with the loss; the other's is that and "fit".
        options: of a new connection: arguments of `visdom.Visdom`. It raises without a server, unless they say
            otherwise.

    Raises:
        TypeError: options for a connection that is there already.

    Start ``python -m visdom.server``, then::

        polyfit.train(..., monitor=Visdom(port=8097))

    or write a file, to be shown later by ``visdom.Visdom().replay_log("run.log")``::

        polyfit.train(..., monitor=Visdom(log_to_filename="run.log", offline=True))
    """

    def __init__(self, connection: Any = None, *, env: str = "main", window: str = "training", **options: Any) -> None:
        if connection is None:
            options.setdefault("raise_exceptions", True)
            connection = _import("visdom", "Visdom", "visdom").Visdom(env=env, **options)
        elif options:
            raise TypeError(f"{', '.join(options)}: options of a new connection; pass them, or connection, not both")
        self._connection, self._env, self._window = connection, env, window

    def begin(self, view: View) -> None:
        """Keep what is shown at the end."""
        self._view = view
        self._shown: list[int] = []

    def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
        """Append the loss to its line."""
        self._show_losses(np.array([epoch]), np.array([loss]), update="append" if self._shown else None)
        self._shown.append(epoch)

    def end(self, losses: Losses, coef: Tensor) -> None:
        """Show all losses, and the polynomial."""
        losses = _of_all(losses)
        if losses.epochs.tolist() != self._shown:  # the line anew: points are joined in the order that they came in
            self._show_losses(losses.epochs.numpy(), losses.values.numpy(), update=None)
        x, y, fitted = (_finite(values.numpy()) for values in _data_and_fit(self._view, coef))
        self._connection.line(
            X=np.stack([x, x], 1),
            Y=np.stack([y, fitted], 1),
            win=f"{self._window} fit",
            env=self._env,
            opts={
                "title": "data and polynomial",
                "xlabel": "x",
                "ylabel": "y",
                "legend": ["data", "polynomial"],
                "traceopts": {"plotly": {"data": {"mode": "markers", "marker": {"size": 3, "color": "#8c8c8c"}}}},
            },
        )

    def _show_losses(self, epochs: np.ndarray[Any, Any], values: np.ndarray[Any, Any], update: str | None) -> None:
        options = {"title": "loss", "xlabel": "epoch", "ylabel": "loss"}
        if (values > 0).any():
            options["ytype"] = "log"
        self._connection.line(
            X=epochs, Y=_finite(values), win=self._window, env=self._env, update=update, opts=options
        )  # visdom writes into opts: a dictionary for each call


def _finite(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """With nan, which visdom leaves out, for infinities, which JSON has no word for."""
    return np.where(np.isfinite(values), values, np.nan)
