"""Pictures of a run. Needs matplotlib (extra `cli`); figures are made without a display."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from polyfit.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from polyfit.training import Losses


def training_figure(
    losses: Losses,
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
        losses: of a `polyfit.Training`.
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
    left.plot(losses.epochs.numpy(), losses.values.numpy(), color="tab:red", linewidth=1.6)
    if bool((losses.values > 0).any()):
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


def supported_formats() -> list[str]:
    """File name endings that a figure can be saved under, without the dot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    return sorted(set(FigureCanvasAgg.get_supported_filetypes()) - {"pgf"})  # which needs an installation of LaTeX


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to `path`, in the format of its ending; whole or not at all."""
    with replacing(path) as part:
        figure.savefig(part, dpi=130, format=path.suffix[1:])
