"""Pictures of learned functions. They need matplotlib (extra `cli`) and no display."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polyfit import bases, formula, plotting
from polyfit.nn.histogram import Histogram
from polyfit.nn.initial import name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from polyfit.nn.kan import PolynomialKAN
    from polyfit.nn.polynomial import Polynomial

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


def activation_figure(
    layer: Polynomial, start: Tensor, limits: tuple[float, float], groups: Sequence[int] | None
) -> Figure:
    """See `polyfit.nn.Polynomial.plot`.

    Args:
        layer: the layer.
        start: its initial coefficients, (degree + 1,) float64.
        limits: of the axis of x.
        groups: the functions to show, or None.
    """
    if groups is None:
        n_panels = min(layer.num_groups, _MOST_PANELS)
        groups = [i * layer.num_groups // n_panels for i in range(n_panels)]
    for group in groups:
        if not 0 <= group < layer.num_groups:
            raise ValueError(f"groups has {group!r}; the layer has the groups 0 to {layer.num_groups - 1}")
    if not groups:
        raise ValueError("groups is empty; pass the index of at least one group, or None")
    x = torch.linspace(*limits, _POINTS, dtype=torch.float64, device="cpu")
    mapping = bases.affine_map(layer.domain, bases.BASES[layer.basis], torch.float64)
    model = formula.Model(layer.basis, mapping, outside=layer.outside)
    rows = layer.coef.detach().cpu().double().reshape(layer.num_groups, -1)[list(groups)]
    values, initial = formula.polyval(x, rows, model), formula.polyval(x, start, model)

    start_name = name_of(layer.init).strip("'")
    figure, panels = _panels(len(groups), 1.9)
    for axes, group, curve in zip(panels, groups, values, strict=True):
        axes.plot(x.numpy(), initial.numpy(), "--", color="0.35", linewidth=1.0, label=f"at the start ({start_name})")
        axes.plot(x.numpy(), curve.numpy(), color="tab:blue", linewidth=1.8, label="learned")
        if layer.domain is not None:
            for beyond in ((limits[0], layer.domain[0]), (layer.domain[1], limits[1])):
                axes.axvspan(*beyond, color="tab:orange", alpha=0.08, linewidth=0)
        axes.set_xlim(*limits)
        axes.grid(alpha=0.3)
        if len(groups) > 1:
            axes.set_title(
                f"{'channel' if layer.num_groups == layer.num_channels else 'group'} {group}", fontsize="small"
            )
    shown = torch.cat([values.flatten(), initial])
    shown = shown[shown.isfinite()]
    lo, hi = (float(shown.min()), float(shown.max())) if len(shown) else (-1.0, 1.0)
    height = max(hi - lo, 1e-6 * max(abs(lo), abs(hi)), 1e-30)
    seen = layer.inputs_seen
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


def kan_figure(layer: PolynomialKAN, n_edges: int) -> Figure:
    """See `polyfit.nn.PolynomialKAN.plot`."""
    x = torch.linspace(-3.0, 3.0, _POINTS, dtype=torch.float64, device="cpu")
    if layer.squash is None:
        x = x / 3.0  # the inputs are in [-1, 1] already
    t = formula.SQUASHES[layer.squash](x)
    # P_1 .. P_d along the curve, less their means: the mean is a constant, and constants are not of an edge.
    unit = torch.eye(layer.degree + 1, dtype=torch.float64, device="cpu")[1:]
    functions = formula.polyval(t, unit, formula.Model(layer.basis))
    functions = functions - functions.mean(-1, keepdim=True)
    coef = layer.coef.detach().cpu().double()
    # The mean square of each edge on the interval, by the Gram matrix of the functions.
    gram = functions @ functions.mT / _POINTS
    power = torch.einsum("kio,kl,lio->io", coef, gram, coef).flatten()
    n_edges = min(n_edges, len(power))
    largest = power.nan_to_num(posinf=math.inf).argsort(descending=True, stable=True)[:n_edges].tolist()
    figure, panels = _panels(n_edges, 1.9)
    for axes, edge in zip(panels, largest, strict=True):
        i, o = divmod(edge, layer.out_features)
        axes.axhline(0.0, color="0.35", linewidth=0.8)
        axes.plot(x.numpy(), (coef[:, i, o] @ functions).numpy(), color="tab:blue", linewidth=1.8)
        axes.set_title(f"input {i} to output {o}", fontsize="small")
        axes.set_xlim(float(x[0]), float(x[-1]))
        axes.grid(alpha=0.3)
    figure.supxlabel("x", fontsize="medium")
    figure.supylabel("part of the output, less its mean", fontsize="medium")
    return figure
