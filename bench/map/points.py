"""The points of the map, and what ratio is wanted at each.

The map is no product of all axes. It is one line over n for each form, at degree 5 in float32, and from some of these
points each of the other axes, one at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from polyfit.bases import BASES
from polyfit.losses import LOSSES

# Chunks of a float32 sum hold 8192 samples: the sizes beside that one are steps of the algorithm.
SIZES = (64, 512, 2000, 4096, 8191, 8192, 8193, 20_000, 32_768, 100_000, 1_000_000, 10_000_000)
LONGEST = 10_000_000
WIDTH = 64  # features of a layer: n elements are n / WIDTH rows
LAYER_SIZES = (64, 512, 2048, 8192, 32_768, 131_072, 1_048_576)
EVERYWHERE = (64, 2000, 8192, 20_000, 100_000, 1_000_000)
HERE_AND_THERE = (64, 2000, 20_000, 1_000_000)


@dataclass(frozen=True)
class Point:
    """One place of the map.

    Args:
        form: a key of `FORMS`.
        n: samples of a series; elements of the input, for a layer.
        degree: of the polynomial.
        dtype: "float32" or "float64".
        basis: a key of polyfit.bases.BASES.
        loss: a key of polyfit.losses.LOSSES, or "own", a function of the user.
        is_weighted: whether each sample has a weight.
        wants: operands that want a gradient, of x, y, w (the weight) and c (the coefficients), as one word.
        series: how many series, each with its coefficients; for a layer, how many channels have their own polynomial.
        own_x: whether each series has its own x, or all share one.
        layout: "contiguous", or "strided": x and y are columns of a table.
        impl: "auto"; or "compile", and then torch.compile makes the peer, too.
    """

    form: str
    n: int
    degree: int = 5
    dtype: str = "float32"
    basis: str = "power"
    loss: str = "mse"
    is_weighted: bool = False
    wants: str = "c"
    series: int = 1
    own_x: bool = False
    layout: str = "contiguous"
    impl: str = "auto"

    def __str__(self) -> str:
        """The form, n, and what differs from the defaults, in words that make it one point and no other."""
        said = {
            "degree": f"d={self.degree}",
            "is_weighted": "weighted",
            "wants": f"to={self.wants}",
            "series": f"series={self.series}",
            "own_x": "own-x",
        }
        others = {name: value for name, value in self.to_json().items() if name not in {"form", "n"}}
        return " ".join([self.form, f"n={self.n}", *(said.get(name) or value for name, value in others.items())])

    @property
    def n_samples(self) -> int:
        """Of all series together."""
        return self.n if self.form in LAYERS else self.n * self.series

    @property
    def counts_memory(self) -> bool:
        """Whether memory is counted: where it is more than the cost of a call, and counting takes no minutes."""
        return self.impl == "auto" and self.n_samples >= 100_000

    def to_json(self) -> dict[str, Any]:
        """Its fields, the defaults left out."""
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        return {name: value for name, value in dataclasses.asdict(self).items() if value != usual[name]}


# What is timed, in words.
FORMS = {
    "step": "{loss} and its gradients",
    "loss": "{loss} without a gradient",
    "values": "values without a gradient",
    "values-step": "values and their gradients",
    "series-step": "{loss} of each series and its gradients",
    "each-step": "{loss} of each sample and its gradients",
    "hvp": "Hessian-vector product of the {loss}",
    "vmap": "{loss}, vmap of its gradient",
    "activation": "nn.Polynomial and its gradients",
    "kan": "nn.PolynomialKAN and its gradients",
}
LOSSES_IN_WORDS = {"mse": "squared error", "huber": "Huber's loss", "own": "a loss of your own"}
LAYERS = ("activation", "kan")
NOISE = 0.1  # of a ratio; a verdict allows for it


def required(point: Point, busy: bool = False) -> float:
    """The ratio that is wanted: the time of the peer divided by ours.

    Beside busy neighbours nothing may be more than twice as slow as the peer is there.
    """
    is_step = point.form == "step" and point.loss != "own"
    is_values = point.form == "values"
    goals = (  # the first that applies
        (busy, 0.5),
        (point.impl == "compile", 1.0),
        (is_values and point.n_samples <= 4096, 0.8),  # eager Horner takes 13 us in all
        (point.series > 1 and point.form not in (*LAYERS, "vmap"), 2.0),
        (is_step and point.loss == "mse" and point.n >= LONGEST, 12.0),
        (is_step and point.loss == "mse" and point.n >= 100_000, 2.0),
        ((is_step or is_values) and point.n >= 100_000, 1.5),
        (is_step and point.wants == "c" and point.n <= 20_000, 1.3),
        (True, 1.0),
    )
    return next(ratio for applies, ratio in goals if applies)


@dataclass(frozen=True)
class Line:
    """A form over n: a line of the picture and a row of the tables.

    Args:
        title: in words.
        form: of its points.
        options: fields of its points that differ from the defaults.
    """

    title: str
    form: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def points(self) -> list[Point]:
        """From the shortest to the longest. There an eager Hessian-vector product would hold several gigabytes."""
        sizes = LAYER_SIZES if self.form in LAYERS else SIZES[:-1] if self.form == "hvp" else SIZES
        return [Point(self.form, n, **self.options) for n in sizes]


LINES = (
    Line("squared error and its gradient", "step"),
    Line("Huber's loss and its gradient", "step", {"loss": "huber"}),
    Line("a loss of your own and its gradient", "step", {"loss": "own"}),
    Line("squared error without a gradient", "loss"),
    Line("values without a gradient", "values"),
    Line("values, gradient to coef", "values-step"),
    Line("values, gradients to x and coef", "values-step", {"wants": "xc"}),
    Line("squared error of each sample", "each-step"),
    Line("Hessian-vector product", "hvp"),
    Line("nn.Polynomial and its gradients", "activation"),
    Line("nn.PolynomialKAN and its gradients", "kan"),
)
# The longest points of all other lines take seconds a call, and are in the full map alone.
LONG_IN_QUICK = LINES[0], LINES[1], LINES[4]


def _base(is_full: bool) -> Iterator[Point]:
    """Every form over n."""
    for line in LINES:
        yield from (point for point in line.points() if is_full or point.n < LONGEST or line in LONG_IN_QUICK)


def _axes(is_full: bool) -> Iterator[Point]:
    """From some points of the base, one axis at a time."""
    some, few = (EVERYWHERE, HERE_AND_THERE) if is_full else ((2000, 20_000, 100_000), (2000, 1_000_000))
    layer_sizes = LAYER_SIZES if is_full else LAYER_SIZES[::2]
    two, three, all_forms = (
        ("step", "values"),
        ("step", "values", "values-step"),
        ("step", "loss", "values", "values-step"),
    )
    losses, bases = [name for name in LOSSES if name != "mse"], [name for name in BASES if name != "power"]
    axes: list[tuple[tuple[str, ...], tuple[int, ...], list[dict[str, Any]]]] = [
        (all_forms if is_full else two, some, [{"degree": degree} for degree in (0, 1, 3, 10, 20)]),
        (("step",), (*some, LONGEST) if is_full else some, [{"loss": loss} for loss in losses]),
        (("loss",), few if is_full else (2000, 100_000), [{"loss": loss} for loss in losses]),
        (("step",), some, [{"is_weighted": True}, {"wants": "x"}, {"wants": "xc"}, {"wants": "xyc"}]),
        (("step",), few, [{"loss": "huber", "is_weighted": True}, {"is_weighted": True, "wants": "xywc"}]),
        (("step",), few, [{"loss": "huber", "wants": "xc"}]),
        (("values-step",), few, [{"wants": "x"}]),
        (three if is_full else two, few, [{"basis": basis} for basis in bases]),
        (("step",) if is_full else (), few, [{"basis": basis, "degree": 10} for basis in bases]),
        ((*all_forms, "hvp"), few, [{"dtype": "float64"}]),
        (three, few, [{"layout": "strided"}]),
        (("activation",), layer_sizes, [{"basis": "chebyshev"}, {"series": WIDTH}]),
        (("vmap",), (64, 2000), [{"series": 100}]),
    ]
    for forms, sizes, variants in axes:
        yield from (Point(form, n, **options) for options in variants for form in forms for n in sizes)


def _series(is_full: bool) -> Iterator[Point]:
    """Many series, which share x or not."""
    lengths = {10: (64, 2000, 100_000), 1000: (16, 64, 2000), 100_000: (4, 16, 64)}
    for series, all_of_them in lengths.items():
        for n in all_of_them if is_full else all_of_them[1:2]:
            for own_x in (False, True):
                for form in ("step", "series-step", "values", "values-step"):
                    yield Point(form, n, 3, series=series, own_x=own_x)
                yield Point("step", n, 3, loss="huber", series=series, own_x=own_x)
    for degree in (1, 10, 20) if is_full else (1, 10):
        for form in ("step", "values"):
            yield Point(form, 64, degree, series=1000, own_x=True)
    yield Point("step", 4, 10, wants="xc", series=100_000, own_x=True)
    yield Point("step", 64, 3, is_weighted=True, series=1000, own_x=True)


def _compiled() -> Iterator[Point]:
    """What torch.compile makes of ours and of the peer: each takes 10 to 20 seconds to compile."""
    for n in (2000, 100_000, LONGEST):
        for form in ("step", "values-step"):
            yield Point(form, n, impl="compile")
    yield Point("step", 1_000_000, loss="huber", impl="compile")
    yield Point("step", 1_000_000, basis="chebyshev", impl="compile")


def points(is_full: bool) -> list[Point]:
    """All points of the quick or of the full map, each once. The full one has those of the quick one, too."""
    found = [*_base(is_full), *_axes(is_full), *_series(is_full)]
    if is_full:
        found += [*_compiled(), *points(is_full=False)]
    return list(dict.fromkeys(found))
