"""Pictures of learned functions. They need matplotlib (extra `cli`) and no display."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from polyfit import bases, formula, plotting
from polyfit.nn.histogram import Histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Functions that a picture shows unless more are asked for, and points of each.
_MOST_PANELS, _POINTS = 12, 401


def _panels(n_panels: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with panels in rows of up to four, of one size."""
    n_columns = min(n_panels, 4)
    n_rows = -(-n_panels // n_columns)
    size = (6.5, 4.2) if n_panels == 1 else (1.0 + 2.6 * n_columns, 0.7 + height * n_rows)
    figure = plotting.new_figure(figsize=size, layout="constrained")
    grid: Any = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for empty in panels[n_panels:]:
        empty.remove()
    for axes in panels[max(0, n_panels - n_columns) : n_panels]:
        axes.tick_params(labelbottom=True)  # also above an empty place of the last row
    return figure, panels[:n_panels]


class Functions(NamedTuple):
    """The functions of an activation.

    Attributes:
        coef: (groups, degree + 1).
        start: the initial coefficients, (degree + 1,) float64.
        start_name: of the initial function.
        basis: of the coefficients.
        domain: that is mapped onto the window of the basis, or None.
        outside: a name of `polyfit.formula.OUTSIDE`.
        unit: what has a function of its own: "channel" or "group".
        seen: the inputs, or None.
    """

    coef: Tensor
    start: Tensor
    start_name: str
    basis: str
    domain: bases.Interval | None
    outside: str
    unit: str
    seen: Histogram | None


def activation_figure(functions: Functions, limits: tuple[float, float], groups: Sequence[int] | None) -> Figure:
    """See `polyfit.nn.Polynomial.plot`.

    Args:
        functions: all of the layer.
        limits: of the axis of x.
        groups: the functions to show, or None.
    """
    n_groups, domain = functions.coef.shape[0], functions.domain
    if groups is None:
        n_panels = min(n_groups, _MOST_PANELS)
        groups = [i * n_groups // n_panels for i in range(n_panels)]
    for group in groups:
        if not 0 <= group < n_groups:
            raise ValueError(f"groups has {group!r}; the layer has the groups 0 to {n_groups - 1}")
    if not groups:
        raise ValueError("groups is empty; pass the index of at least one group, or None")
    x = torch.linspace(*limits, _POINTS, dtype=torch.float64, device="cpu")
    mapping = bases.affine_map(domain, bases.BASES[functions.basis], torch.float64)
    model = formula.Model(functions.basis, mapping, outside=functions.outside)
    rows = functions.coef.detach().cpu().double()[list(groups)]
    values, initial = formula.polyval(x, rows, model), formula.polyval(x, functions.start, model)

    figure, panels = _panels(len(groups), 1.9)
    for axes, group, curve in zip(panels, groups, values, strict=True):
        axes.plot(
            x.numpy(),
            initial.numpy(),
            "--",
            color="0.35",
            linewidth=1.0,
            label=f"at the start ({functions.start_name})",
        )
        axes.plot(x.numpy(), curve.numpy(), color="tab:blue", linewidth=1.8, label="learned")
        if domain is not None:
            for beyond in ((limits[0], domain[0]), (domain[1], limits[1])):
                axes.axvspan(*beyond, color="tab:orange", alpha=0.08, linewidth=0)
        axes.set_xlim(*limits)
        axes.grid(alpha=0.3)
        if len(groups) > 1:
            axes.set_title(f"{functions.unit} {group}", fontsize="small")
    shown = torch.cat([values.flatten(), initial])
    shown = shown[shown.isfinite()]
    lo, hi = (float(shown.min()), float(shown.max())) if len(shown) else (-1.0, 1.0)
    height = max(hi - lo, 1e-6 * max(abs(lo), abs(hi)), 1e-30)
    seen = functions.seen
    panels[0].set_ylim(lo - (0.05 if seen is None else 0.3) * height, hi + 0.05 * height)
    if seen is not None:
        for axes, group in zip(panels, groups, strict=True):
            _draw_inputs(axes, seen, group)
    _label(figure, panels, "p(x)")
    return figure


def _draw_inputs(axes: Axes, seen: Histogram, group: int) -> None:
    """The histogram of one group at the foot of a panel, a fifth of it high."""
    counts = seen.counts[group].cpu().double()
    heights = 0.2 * counts / counts.max().clamp(min=1.0)
    axes.stairs(
        heights.numpy(),
        seen.edges.numpy(),
        fill=True,
        color="0.6",
        alpha=0.7,
        transform=axes.get_xaxis_transform(),
        label="inputs seen",
    )


def _label(figure: Figure, panels: Sequence[Axes], y_label: str) -> None:
    """Names of the axes, and one legend above all panels."""
    figure.supxlabel("x", fontsize="medium")
    figure.supylabel(y_label, fontsize="medium")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize="small", frameon=False)


def kan_figure(coef: Tensor, basis: str, squash: str | None, n_edges: int) -> Figure:
    """See `polyfit.nn.PolynomialKAN.plot`; coef (degree, in, out)."""
    x = torch.linspace(-3.0, 3.0, _POINTS, dtype=torch.float64, device="cpu")
    if squash is None:
        x = x / 3.0  # the inputs are in [-1, 1] already
    t = formula.SQUASHES[squash](x)
    # P_1 .. P_d along the curve, less their means: the mean is a constant, and constants are not of an edge.
    unit = torch.eye(coef.shape[0] + 1, dtype=torch.float64, device="cpu")[1:]
    functions = formula.polyval(t, unit, formula.Model(basis))
    functions = functions - functions.mean(-1, keepdim=True)
    coef = coef.detach().cpu().double()
    # The mean square of each edge on the interval, by the Gram matrix of the functions.
    gram = functions @ functions.mT / _POINTS
    power = torch.einsum("kio,kl,lio->io", coef, gram, coef).flatten()
    n_edges = min(n_edges, len(power))
    largest = power.nan_to_num(posinf=math.inf).argsort(descending=True, stable=True)[:n_edges].tolist()
    figure, panels = _panels(n_edges, 1.9)
    for axes, edge in zip(panels, largest, strict=True):
        i, o = divmod(edge, coef.shape[2])
        axes.axhline(0.0, color="0.35", linewidth=0.8)
        axes.plot(x.numpy(), (coef[:, i, o] @ functions).numpy(), color="tab:blue", linewidth=1.8)
        axes.set_title(f"input {i} to output {o}", fontsize="small")
        axes.set_xlim(float(x[0]), float(x[-1]))
        axes.grid(alpha=0.3)
    figure.supxlabel("x", fontsize="medium")
    figure.supylabel("part of the output, less its mean", fontsize="medium")
    return figure
