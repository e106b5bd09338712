"""Pictures of a run. Needs matplotlib (extra `cli`); figures are made without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from polyfit.io.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class _Fit(Protocol):
    """What is read of a `polyfit.Fit`."""

    @property
    def estimate(self) -> Any: ...
    @property
    def degree(self) -> int: ...
    @property
    def r_squared(self) -> float: ...
    @property
    def residual_std(self) -> float: ...
    def __call__(self, x: Tensor) -> Any: ...
    def interval(self, x: Tensor, level: float) -> tuple[Any, Any]: ...


class _Selection(Protocol):
    """What is read of a `polyfit.least_squares.result.Selection`."""

    @property
    def degrees(self) -> Sequence[int]: ...
    @property
    def values(self) -> Sequence[float]: ...
    @property
    def degree(self) -> int: ...
    @property
    def criterion(self) -> str: ...
    @property
    def folds(self) -> int: ...


def training_figure(
    losses: tuple[Tensor, Tensor],
    x: Tensor,
    y: Tensor,
    fitted: Tensor,
    *,
    x_label: str = "x",
    y_label: str = "y",
    x_is_days: bool = False,
    title: str = "",
) -> Figure:
    """The loss curve (log axis) beside the data and the fit.

    Args:
        losses: `polyfit.Training.losses`: epochs, and values.
        x: where the data are, (N,).
        y: the data, (N,).
        fitted: the polynomial at x, (N,).
        x_label: what x is.
        y_label: what y is.
        x_is_days: whether x counts days since 1970-01-01, to be shown as dates.
        title: of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs, values = losses
    marker = "o" if len(epochs) == 1 else ""  # a line through one point would not be seen
    left.plot(epochs.numpy(), values.numpy(), color="tab:red", linewidth=1.6, marker=marker)
    if bool((values > 0).any()):
        left.set_yscale("log")
    left.set_xlabel("epoch")
    left.set_ylabel("loss")
    left.grid(alpha=0.3, which="both")

    order = x.argsort()
    x, y, fitted = (values.detach()[order].cpu().double() for values in (x, y, fitted))
    right.plot(x.numpy(), y.numpy(), ".", color="0.55", markersize=3, label="data")
    right.plot(x.numpy(), fitted.numpy(), color="tab:blue", linewidth=1.8, label="polynomial")
    if x_is_days:  # matplotlib counts days from the same epoch
        right.xaxis_date()
        right.margins(x=0)  # beyond the data there may be no calendar
    # Names are text, whatever dollar signs they hold.
    right.set_xlabel(x_label, parse_math=False)
    right.set_ylabel(y_label, parse_math=False)
    right.grid(alpha=0.3)
    right.legend()
    if title:
        figure.suptitle(title, parse_math=False)
    return figure


# Points that a picture shows of data, and that a curve is drawn through.
_MOST_POINTS = 5000
_CURVE_POINTS = 500


def fit_figure(
    fit: _Fit,
    x: Tensor | None,
    y: Tensor | None,
    level: float = 0.95,
    *,
    x_label: str = "x",
    y_label: str = "y",
    x_is_days: bool = False,
) -> Figure:
    """Curve and confidence band of a fit over its data, and the residuals below; see `polyfit.Fit.plot`."""
    from matplotlib.figure import Figure

    if (x is None) != (y is None):
        raise ValueError("one of x and y is given; pass both, to see the data, or neither")
    figure = Figure(figsize=(7.5, 5.5 if x is not None else 4.2), layout="constrained")
    lo, hi = fit.estimate.domain
    if x is None or y is None:
        upper, lower = figure.subplots(), None
    else:
        x, y = (values.detach().cpu().double() for values in (x, y))
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        residuals = y - fit(x)
        step = -(-x.shape[0] // _MOST_POINTS)  # of long data, some all over them
        style = {"color": "0.55", "markersize": 3, "zorder": 1}
        upper.plot(x[::step].numpy(), y[::step].numpy(), ".", label="data", **style)
        lower.plot(x[::step].numpy(), residuals[::step].numpy(), ".", **style)
        lower.axhline(0.0, color="tab:blue", linewidth=1.2)
        lower.set_ylabel("residual")
        lower.grid(alpha=0.3)
    grid = torch.linspace(lo, hi, _CURVE_POINTS, dtype=torch.float64)
    below, above = fit.interval(grid, level)
    upper.plot(grid.numpy(), fit(grid).numpy(), color="tab:blue", linewidth=1.8, label=f"degree {fit.degree}")
    if bool(below.isfinite().any()):
        label = f"{100 * level:g} % confidence"
        upper.fill_between(grid.numpy(), below.numpy(), above.numpy(), color="tab:blue", alpha=0.25, lw=0, label=label)
    upper.set_ylabel(y_label, parse_math=False)
    lowest = upper if lower is None else lower
    lowest.set_xlabel(x_label, parse_math=False)
    if x_is_days:
        lowest.xaxis_date()
        lowest.margins(x=0)
    upper.grid(alpha=0.3)
    upper.legend()
    upper.set_title(f"$R^2$ = {fit.r_squared:.5g}, residual std {fit.residual_std:.4g}", fontsize="medium")
    return figure


def selection_figure(selection: _Selection) -> Figure:
    """The criterion against the degree; see `polyfit.least_squares.result.Selection.plot`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(selection.degrees, selection.values, "o-", color="tab:blue", markersize=5)
    chosen = selection.values[selection.degrees.index(selection.degree)]
    axes.plot([selection.degree], [chosen], "o", color="tab:red", markersize=9, label=f"degree {selection.degree}")
    if selection.criterion == "cv":
        axes.set_ylabel(f"mean squared error, {selection.folds} folds")
        if min(selection.values) > 0.0:
            axes.set_yscale("log")
    else:
        axes.set_ylabel(selection.criterion.upper().replace("AICC", "AICc"))
    axes.set_xlabel("degree")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


def supported_formats() -> list[str]:
    """File name endings that a figure can be saved under, without the dot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    return sorted(set(FigureCanvasAgg.get_supported_filetypes()) - {"pgf"})  # which needs an installation of LaTeX


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to `path`, in the format of its ending; whole or not at all."""
    with replacing(path) as part:
        figure.savefig(part, dpi=130, format=path.suffix[1:])
