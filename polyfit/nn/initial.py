"""Initial coefficients of a polynomial activation, in float64: the identity, a fitted function, Hermite's.

All are closed forms. No data are seen and nothing is drawn at random.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from polyfit import bases, formula
from polyfit.bases import Interval

# Nodes of the discrete least-squares fit, and points at which the largest error is measured. Both are much denser than
# the oscillations of any degree that is of use in an activation.
_NODES, _POINTS = 2001, 20_001
# The interval that almost all values of a normal distribution of unit variance are in: all but 6e-5 of them.
_NORMAL_RANGE = (-4.0, 4.0)

Function = Callable[[Tensor], Tensor]


class Initial(NamedTuple):
    """Initial coefficients.

    Attributes:
        coef: (degree + 1,), float64, on the CPU.
        error: the largest distance from the fitted function on the domain; None for what is not fitted.
    """

    coef: Tensor
    error: float | None = None


def initial(
    init: str | Function, degree: int, basis: str, domain: Interval | None, outside: str, *, with_slope: bool
) -> Initial:
    """The initial coefficients of `polyfit.nn.Polynomial`.

    Args:
        init: "identity", "hermite", the name of a function of torch.nn.functional, or an elementwise function.
        degree: of the polynomial.
        basis: of the coefficients.
        domain: that is mapped onto the window of the basis; None for t = x.
        outside: a name of `polyfit.formula.OUTSIDE`.
        with_slope: whether a function is fitted in value and slope, and not in value alone.
    """
    if with_slope and isinstance(init, str) and init in {"identity", "hermite"}:
        raise ValueError(f"init_slope=True is for functions that are fitted, and init is {init!r}; leave it out")
    if init == "identity":
        if degree < 1:
            raise ValueError("init='identity' needs degree 1 or more, and degree is 0; pass a function to fit as init")
        coef = torch.zeros(degree + 1, dtype=torch.float64, device="cpu")
        coef[1] = 1.0
        return Initial(bases.convert(coef, "power", basis, to_domain=domain))
    if init == "hermite":
        return Initial(_hermite(degree, basis, domain, outside))
    if domain is None:
        raise ValueError(
            f"init={name_of(init)} is fitted on the domain, and domain is None; pass domain=(lo, hi), or"
            " init='identity'"
        )
    return _fitted(_function(init), name_of(init), degree, basis, domain, with_slope)


def name_of(init: str | Function) -> str:
    """An init as text: its name in quotes, or the name of the function."""
    return repr(init) if isinstance(init, str) else getattr(init, "__name__", repr(init))


def _hermite(degree: int, basis: str, domain: Interval | None, outside: str) -> Tensor:
    """The series sum_n He_n(x) / (n! sqrt(e)) in another basis."""
    lo, hi = _NORMAL_RANGE
    if outside != "extend" and (domain is None or domain[0] > lo or domain[1] < hi):
        raise ValueError(
            f"init='hermite' is for inputs of unit variance, and domain={domain} does not cover ({lo:g}, {hi:g}); pass"
            f" domain=({lo:g}, {hi:g}) or a wider one, or outside='extend'"
        )
    coef = [1.0 / (math.factorial(n) * math.sqrt(math.e)) for n in range(degree + 1)]
    return bases.convert(torch.tensor(coef, dtype=torch.float64, device="cpu"), "hermite_e", basis, to_domain=domain)


def _function(init: str | Function) -> Function:
    """The function that an init names."""
    if callable(init):
        return init
    found = getattr(torch.nn.functional, init, None) if isinstance(init, str) and init.isidentifier() else None
    if not callable(found):
        raise ValueError(  # noqa: TRY004 - a name that is unknown
            f"init={init!r} is unknown; pass 'identity', 'hermite', the name of an activation of torch.nn.functional,"
            " such as 'silu', or an elementwise function of a tensor"
        )
    return cast(Function, found)


def _values(function: Function, name: str, x: Tensor) -> Tensor:
    """The values of a function at x, checked: finite numbers, one for each x, that depend on that x alone."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            values, again = function(x.clone()), function(x[::2].clone())  # copies: a function may write over x
    except Exception as error:  # of any kind: the function is the user's
        raise ValueError(
            f"init={name} could not be called with one tensor ({str(error).partition(chr(10))[0]}); pass an elementwise"
            " function of a tensor, for example functools.partial of it with all other arguments"
        ) from error
    if not isinstance(values, Tensor) or values.shape != x.shape:
        given = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"init={name} returned {given} for a tensor of shape {tuple(x.shape)}; pass an elementwise function, such"
            " as 'silu'"
        )
    if not torch.allclose(values[::2], again, rtol=1e-6, atol=1e-9, equal_nan=True):
        raise ValueError(
            f"init={name} gave other values for a part of the same x; pass an elementwise function without randomness,"
            " such as 'silu'"
        )
    if not bool(values.isfinite().all()):
        raise ValueError(f"init={name} is not finite everywhere on the domain; pass a domain where it is")
    for warning in caught:  # of a function that is taken
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return values


def _fitted(function: Function, name: str, degree: int, basis: str, domain: Interval, with_slope: bool) -> Initial:
    """Least squares in Chebyshev polynomials at Chebyshev nodes; with slopes, of value and slope to t together.

    With dense nodes this is the least-squares polynomial under the weight 1/sqrt(1 - t^2), the truncated Chebyshev
    series: its largest error is at most 4 + (4/pi^2) log(degree) times the smallest possible one (Trefethen,
    Approximation Theory and Approximation Practice, chapter 16).
    """
    lo, hi = domain
    middle, half_width = 0.5 * lo + 0.5 * hi, 0.5 * hi - 0.5 * lo
    t = chebyshev.chebpts1(_NODES)
    x = torch.from_numpy(middle + half_width * t)
    x.requires_grad_(with_slope)
    with torch.set_grad_enabled(with_slope):
        values = _values(function, name, x)
    design, targets = chebyshev.chebvander(t, degree), values.detach().numpy().astype(np.float64)
    if with_slope:
        (slopes,) = torch.autograd.grad(values.sum(), x)
        of_slopes = np.column_stack([chebyshev.chebval(t, chebyshev.chebder(row)) for row in np.eye(degree + 1)])
        design = np.concatenate([design, of_slopes])
        targets = np.concatenate([targets, half_width * slopes.numpy()])
    solution = torch.from_numpy(np.linalg.lstsq(design, targets, rcond=None)[0])
    points = torch.linspace(lo, hi, _POINTS, dtype=torch.float64, device="cpu")
    mapping = bases.affine_map(domain, bases.CHEBYSHEV, torch.float64)
    with torch.no_grad():
        expected = _values(function, name, points)
        error = float((formula.polyval(points, solution, formula.Model("chebyshev", mapping)) - expected).abs().max())
    return Initial(bases.convert(solution, "chebyshev", basis, domain=domain, to_domain=domain), error)
