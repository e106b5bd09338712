"""Pictures of runs and fits. They need matplotlib (extra `cli`) and no display."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from polyfit import _checks
from polyfit._optional import import_optional
from polyfit.io.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# The most samples that a picture shows. At 130 dots an inch it is about 1000 pixels wide: five samples a pixel column.
_MOST_SAMPLES = 5000
# The points of a curve: one for two pixels.
_CURVE_POINTS = 500


def new_figure(**options: Any) -> Figure:
    """An empty figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    return import_optional("matplotlib.figure", "a picture", "cli").Figure(**options)


def sample_step(n_samples: int) -> int:
    """The step k for which every k-th of the samples is shown, so that a picture shows at most 5000.

    >>> sample_step(5000), sample_step(5001), sample_step(12_001)
    (1, 2, 3)
    """
    return max(1, -(-n_samples // _MOST_SAMPLES))


def _thinned(values: Tensor) -> Tensor:
    """Up to 5000 elements at even steps, and the last one."""
    step = sample_step(len(values))
    if step == 1:
        return values
    return torch.cat((values[:-1:step], values[-1:]))


def training_figure(
    losses: tuple[Tensor, Tensor],
    x: Tensor,
    y: Tensor,
    fitted: Tensor,
    *,
    x_label: str = "x",
    y_label: str = "y",
    fitted_label: str = "polynomial",
    x_is_days: bool = False,
    title: str = "",
) -> Figure:
    """The loss curve (log axis) beside the data and the fit.

    Args:
        losses: epochs and losses, as `polyfit.Training.losses` has them. Of more than 5000 records, or samples, an even
            part is drawn, the last one always.
        x: samples, (N,).
        y: targets, (N,).
        fitted: values of the polynomial at x on the scale of y, (N,).
        x_label: label of the axis of x.
        y_label: label of the axis of y.
        fitted_label: label of the fitted curve.
        x_is_days: whether x is in days since 1970-01-01, and is shown as dates.
        title: title of the picture, or "".
    """
    figure = new_figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs, values = (_thinned(numbers) for numbers in losses)
    is_finite = values.isfinite()
    marker = "o" if int(is_finite.sum()) == 1 else ""  # a line through one point is invisible
    left.plot(epochs.numpy(), values.numpy(), color="tab:red", linewidth=1.6, marker=marker)
    shown = values[is_finite]
    if bool((shown > 0).any()) and not bool((shown < 0).any()):  # a log axis would hide losses below zero
        left.set_yscale("log")
    left.set_xlabel("epoch")
    left.set_ylabel("loss")
    left.grid(alpha=0.3, which="both")

    order = _thinned(x.argsort())
    x, y, fitted = (values.detach()[order].cpu().double() for values in (x, y, fitted))
    right.plot(x.numpy(), y.numpy(), ".", color="0.55", markersize=3, label="data")
    right.plot(x.numpy(), fitted.numpy(), color="tab:blue", linewidth=1.8, label=fitted_label)
    if x_is_days:  # matplotlib's dates are days since 1970-01-01 too
        right.xaxis_date()
        right.margins(x=0)  # a margin may lie beyond the last date of the calendar
    # Names are plain text: dollar signs in them do not begin a formula.
    right.set_xlabel(x_label, parse_math=False)
    right.set_ylabel(y_label, parse_math=False)
    right.grid(alpha=0.3)
    right.legend()
    if title:
        figure.suptitle(title, parse_math=False)
    return figure


@dataclass(frozen=True)
class Curve:
    """A fitted curve.

    Attributes:
        values: of the curve, a function of x.
        interval: lower and upper confidence bounds, a function of x and the level.
        domain: the range of x to draw; with samples, theirs too.
        label: of the curve.
        title: of the picture.
    """

    values: Callable[[Tensor], Tensor]
    interval: Callable[[Tensor, float], tuple[Tensor, Tensor]]
    domain: tuple[float, float]
    label: str
    title: str


def fit_figure(
    curve: Curve,
    x: ArrayLike | Tensor | None,
    y: ArrayLike | Tensor | None,
    level: float = 0.95,
    *,
    x_label: str = "x",
    y_label: str = "y",
    x_is_days: bool = False,
) -> Figure:
    """The data with the curve and the confidence band of a fit, and the residuals below; see `polyfit.Fit.plot`."""
    if (x is None) != (y is None):
        raise ValueError("only one of x and y is given; pass both to show the data, or neither")
    figure = new_figure(figsize=(7.5, 5.5 if x is not None else 4.2), layout="constrained")
    lo, hi = curve.domain
    if x is None or y is None:
        upper, lower = figure.subplots(), None
    else:
        data = _checks.data_tensors({"x": x, "y": y})
        _checks.check_one_series(data)
        x, y = (values.detach().cpu().double() for values in data.values() if values is not None)
        if not len(x):
            raise ValueError("x and y hold no samples; pass samples to show, or leave both out for the curve alone")
        known = x[x.isfinite()].tolist()
        lo, hi = min(lo, *known), max(hi, *known)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        residuals = y - curve.values(x)
        step = sample_step(x.shape[0])
        style = {"color": "0.55", "markersize": 3, "zorder": 1}
        upper.plot(x[::step].numpy(), y[::step].numpy(), ".", label="data", **style)
        lower.plot(x[::step].numpy(), residuals[::step].numpy(), ".", **style)
        lower.axhline(0.0, color="tab:blue", linewidth=1.2)
        lower.set_ylabel("residual")
        lower.grid(alpha=0.3)
    grid = torch.linspace(lo, hi, _CURVE_POINTS, dtype=torch.float64, device="cpu")
    below, above = curve.interval(grid, level)
    upper.plot(grid.numpy(), curve.values(grid).numpy(), color="tab:blue", linewidth=1.8, label=curve.label)
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
    upper.set_title(curve.title, fontsize="medium")
    return figure


def selection_figure(
    degrees: Sequence[int], values: Sequence[float], degree: int, label: str, *, is_log: bool
) -> Figure:
    """The criterion for each degree; see `polyfit.least_squares.result.Selection.plot`.

    Args:
        degrees: the degrees.
        values: the criterion of each.
        degree: the degree that was chosen.
        label: the name of the criterion.
        is_log: whether its axis is logarithmic.
    """
    figure = new_figure(figsize=(6.5, 4.2), layout="constrained")
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    axes.plot(degrees, values, "o-", color="tab:blue", markersize=5)
    chosen = values[degrees.index(degree)]
    axes.plot([degree], [chosen], "o", color="tab:red", markersize=9, label=f"degree {degree}")
    axes.set_ylabel(label)
    if is_log:
        axes.set_yscale("log")
    axes.set_xlabel("degree")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


def supported_formats() -> list[str]:
    """The endings of file names that select a format, without the dot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    return sorted(set(FigureCanvasAgg.get_supported_filetypes()) - {"pgf"})  # pgf needs an installation of LaTeX


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the ending of `path` names. After an error, an older file is unchanged."""
    with replacing(path) as part, warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; matplotlib warns of each letter.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        warnings.filterwarnings("ignore", "Creating legend with loc=", UserWarning)
        figure.savefig(part, dpi=130, format=path.suffix[1:])
