"""`Visdom`, a monitor that draws in two windows of a Visdom server."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from polyfit._optional import import_optional
from polyfit.monitor.records import Losses, View, data_and_fit, of_all_series


class Visdom:
    """Shows the loss, and at the end the data and the polynomial, in two windows of a Visdom server.

    Of many series, it shows their mean loss and the polynomial of the first. Needs visdom (extra `visdom`), and a
    server or a file to log to.

    Args:
        connection: a `visdom.Visdom` to use, or None to make one.
        env: the Visdom environment of the windows.
        window: the name of the window of the loss. The window of the polynomial has this name followed by "fit".
        options: arguments of `visdom.Visdom` for a new connection. ``raise_exceptions`` is True unless given here, so
            that a missing server is an error.

    Raises:
        ImportError: visdom is not installed.
        TypeError: both a connection and options are given.

    Start a server with ``python -m visdom.server``, then::

        polyfit.train(..., monitor=Visdom(port=8097))

    Without a server, write a file; ``visdom.Visdom().replay_log("run.log")`` shows it later::

        polyfit.train(..., monitor=Visdom(log_to_filename="run.log", offline=True))
    """

    def __init__(self, connection: Any = None, *, env: str = "main", window: str = "training", **options: Any) -> None:
        if connection is None:
            options.setdefault("raise_exceptions", True)
            connection = import_optional("visdom", "Visdom", "visdom").Visdom(env=env, **options)
        elif options:
            raise TypeError(
                f"connection is given with options of a new one ({', '.join(options)}); pass only one of the two"
            )
        self._connection, self._env, self._window = connection, env, window

    def begin(self, view: View) -> None:
        """Keep the view of the run for the end."""
        self._view = view
        self._shown: list[int] = []

    def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
        """Append the loss to its curve."""
        self._show_losses(np.array([epoch]), np.array([loss]), update="append" if self._shown else None)
        self._shown.append(epoch)

    def end(self, losses: Losses, coef: Tensor) -> None:
        """Show all losses and the polynomial."""
        losses = of_all_series(losses)
        if losses.epochs.tolist() != self._shown:  # draw a new curve: visdom joins points in the order of arrival
            self._show_losses(losses.epochs.numpy(), losses.values.numpy(), update=None)
        x, y, fitted = (_finite(values.numpy()) for values in data_and_fit(self._view, coef))
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
        if (values > 0).any() and not (values < 0).any():
            options["ytype"] = "log"
        self._connection.line(
            X=epochs, Y=_finite(values), win=self._window, env=self._env, update=update, opts=options
        )  # visdom changes opts: each call gets its own


def _finite(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The values with NaN in place of infinity, which JSON cannot hold. Visdom leaves NaN out."""
    return np.where(np.isfinite(values), values, np.nan)
