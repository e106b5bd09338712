"""The coefficients of the same function in another basis or on another domain; numpy.polynomial and back.

The matrices are computed in rational numbers, and each entry is kept as a sum of several float64 numbers. Products with
them are summed with compensation: a coefficient is rounded once, however much cancels.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from polyfit._checks import check_coef, check_tensor
from polyfit.bases.definition import BASES, Basis, combine, interval, resolve, times_t
from polyfit.errorfree import distil, two_product, two_sum

if TYPE_CHECKING:
    from numpy.polynomial import Chebyshev, Hermite, HermiteE, Laguerre, Legendre, Polynomial

    Series = Polynomial | Chebyshev | Legendre | Hermite | HermiteE | Laguerre


class _ExactMatrix(NamedTuple):
    """A matrix of rational numbers, entry by entry ``2**exponents * sum(parts)``.

    Attributes:
        parts: (parts, n, n). Each is the error of the sum of the parts before it, rounded to float64. The first is 0
            or between 1/2 and 2 in magnitude. Parts that are 0 everywhere are left out, except the first.
        exponents: (n, n), unbounded.
    """

    parts: tuple[tuple[tuple[float, ...], ...], ...]
    exponents: tuple[tuple[int, ...], ...]


# float64 numbers in an entry, and passes of compensation in a sum. Coefficients that are rounded to float64 may cancel
# down to 2**-53 of their terms. The result needs 2**-53 of that, which two parts, good to 2**-106, would just miss.
_PARTS = 3


def _parts(value: Fraction) -> tuple[int, list[float]]:
    """The exponent of a rational number, and its mantissa as `_PARTS` float64 numbers."""
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length() if value else 0
    rest = value / Fraction(2) ** exponent
    parts = []
    for _ in range(_PARTS):
        parts.append(float(rest))
        rest -= Fraction(parts[-1])
    return exponent, parts


def _exact_map(basis: Basis, domain: tuple[float, float] | None) -> tuple[Fraction, Fraction]:
    """Scale and shift of ``t = scale x + shift``, which takes a domain to the window of a basis."""
    if domain is None:
        return Fraction(1), Fraction(0)
    (lo, hi), (window_lo, window_hi) = map(Fraction, domain), map(Fraction, basis.window)
    scale = (window_hi - window_lo) / (hi - lo)
    return scale, window_lo - scale * lo


Interval = tuple[float, float]


class ExactRows(tuple[tuple[Fraction, ...], ...]):
    """A matrix of rational numbers, row by row."""

    @functools.cached_property
    def transposed(self) -> ExactRows:
        """The transpose."""
        return ExactRows(zip(*self, strict=True))

    @functools.cached_property
    def over_denominators(self) -> tuple[tuple[tuple[int, ...], int], ...]:
        """Each row as integers over one denominator."""
        denominators = [math.lcm(*(value.denominator for value in row)) for row in self]
        return tuple(
            (tuple(value.numerator * (denominator // value.denominator) for value in row), denominator)
            for row, denominator in zip(self, denominators, strict=True)
        )


@functools.lru_cache(maxsize=64)
def exact_conversion(
    basis: str, to: str, domain: Interval | None, to_domain: Interval | None, degree: int
) -> ExactRows:
    """The matrix that takes coefficients to those of the same function in another basis on another domain, by rows.

    Column k holds the k-th function of the old basis, by its recurrence, as a series of the new one.
    """
    old, new = resolve(basis), resolve(to)
    (old_scale, old_shift), (new_scale, new_shift) = _exact_map(old, domain), _exact_map(new, to_domain)
    # The argument of the old functions is scale t + shift, with t that of the new ones.
    scale = old_scale / new_scale
    shift = old_shift - scale * new_shift
    columns = [[Fraction(1)]]
    for k in range(degree):
        a, b, c = old.recurrence(k)
        last = columns[k]
        columns.append(
            combine(
                (a * scale, times_t(new, last)), (a * shift + b, last), (-c, columns[k - 1] if k else [Fraction(0)])
            )
        )
    zero = Fraction(0)
    return ExactRows(tuple(column[j] if j < len(column) else zero for column in columns) for j in range(degree + 1))


@functools.lru_cache(maxsize=64)
def _change_matrix(
    basis: str, to: str, domain: Interval | None, to_domain: Interval | None, degree: int
) -> _ExactMatrix:
    """The matrix of `exact_conversion`, with its entries as sums of float64 numbers."""
    rows = exact_conversion(basis, to, domain, to_domain, degree)
    entries = [[_parts(value) for value in row] for row in rows]
    parts = [tuple(tuple(entry[1][part] for entry in row) for row in entries) for part in range(_PARTS)]
    while len(parts) > 1 and not any(map(any, parts[-1])):
        parts.pop()
    return _ExactMatrix(tuple(parts), tuple(tuple(entry[0] for entry in row) for row in entries))


# --- products ---


def _power_of_two(exponent: Tensor) -> Tensor:
    """2**exponent for int64 exponents, by its bits; 2**-1022 and 2**1023 for what float64 cannot hold."""
    return (exponent.clamp(-1022, 1023) + 1023 << 52).view(torch.float64)


# The exponent of zero: below that of any term, and small enough for sums of exponents in int64.
_EXPONENT_OF_ZERO = -(2**40)


def _multiply(series: Tensor, parts: Tensor, exponents: Tensor) -> Tensor:
    """The products of a matrix with float64 rows (S, n), as if in 159 bits or so, and rounded to float64.

    Dot products in `_PARTS`-fold precision: Ogita, Rump & Oishi, "Accurate sum and dot product", SIAM J. Sci. Comput.
    26 (2005), algorithm 5.10. Mantissas and exponents are kept apart: splitting (above 2**996) and products do not
    overflow, and their errors do not underflow, unless the result does.
    """
    mantissa, exponent = (part.unsqueeze(-2) for part in torch.frexp(series))  # (S, 1, n)
    exponents = (exponent + exponents).masked_fill(mantissa * parts[0] == 0.0, _EXPONENT_OF_ZERO)  # (S, n, n)
    largest = exponents.amax(-1, keepdim=True)
    scaled = mantissa * _power_of_two(exponents - largest)
    products = torch.cat(two_product(parts, scaled.unsqueeze(1)), 1)  # (S, 2 * parts, n, n)
    first, errors = distil(products.transpose(1, 2).flatten(2))
    second, errors = distil(errors)
    first, second = two_sum(first, second)
    total = first + (second + errors.sum(-1))
    half = largest.squeeze(-1) // 2  # in two steps: after cancellation, 2**largest alone may overflow
    return total * _power_of_two(half) * _power_of_two(largest.squeeze(-1) - half)


# Coefficients of a row that is multiplied in integers: 6, 12, 21 and 31 of them take 14, 37, 100 and 240 us, and 460 to
# 740 us as tensors (x86-64, one core, 2026-11-27).
_SHORT = 32


def _exact_product(
    matrix: ExactRows, row: list[float], transpose: bool, low: list[float] | None = None
) -> list[float] | None:
    """The product of a matrix, or of its transpose, with a row, or with ``row + low``; each entry is rounded once.

    None where an entry is not finite, or so large that a float64 cannot hold it.
    """
    parts = row if low is None else row + low
    if not all(map(math.isfinite, parts)):
        return None
    ratios = [value.as_integer_ratio() for value in parts]
    unit = max(denominator for _, denominator in ratios)  # all are powers of two
    integers = [numerator * (unit // denominator) for numerator, denominator in ratios]
    if low is not None:
        integers = list(map(operator.add, integers, integers[len(row) :]))
    rows = matrix.transposed if transpose else matrix
    try:  # a quotient of integers is rounded once
        return [
            sum(map(operator.mul, factors, integers)) / (denominator * unit)
            for factors, denominator in rows.over_denominators
        ]
    except OverflowError:
        return None


# Products that are held at a time: 8 MB. To be measured.
_CHUNK = 2**20


# An operator is opaque to compilers. A compiler that contracts a * b + c to a fused multiply-add breaks the errors.
@torch.library.custom_op(
    "polyfit::change_basis",
    mutates_args=(),
    schema="(Tensor coef, str basis, str to, float[]? domain, float[]? to_domain, bool transpose) -> Tensor",
)
def _change_basis_op(coef, basis, to, domain, to_domain, transpose):
    domain, to_domain = (None if bounds is None else tuple(bounds) for bounds in (domain, to_domain))
    rows = coef.double().reshape(-1, coef.shape[-1])
    return convert_rows(rows, basis, to, domain, to_domain, transpose=transpose).reshape(coef.shape).to(coef.dtype)


def convert_row(
    row: list[float],
    basis: str,
    to: str,
    domain: Interval | None,
    to_domain: Interval | None,
    *,
    transpose: bool = False,
) -> list[float] | None:
    """`convert` for one series of few coefficients; None for others, and where `convert_rows` has to be careful."""
    if basis == to and domain == to_domain:
        return row
    if len(row) > _SHORT:
        return None
    return _exact_product(exact_conversion(basis, to, domain, to_domain, len(row) - 1), row, transpose)


def convert_rows(
    rows: Tensor, basis: str, to: str, domain: Interval | None, to_domain: Interval | None, *, transpose: bool = False
) -> Tensor:
    """`convert` for rows (S, n) in float64, without gradients."""
    if basis == to and domain == to_domain:
        return rows.clone()
    if rows.device.type == "cpu" and rows.shape[0] == 1 and rows.shape[1] <= _SHORT:
        row = convert_row(rows[0].tolist(), basis, to, domain, to_domain, transpose=transpose)
        if row is not None:
            return torch.tensor([row], dtype=rows.dtype, device=rows.device)
    parts, exponents = _tensors(_change_matrix(basis, to, domain, to_domain, rows.shape[1] - 1), rows.device)
    if transpose:
        parts, exponents = parts.mT, exponents.mT
    n_rows = max(1, _CHUNK // (2 * parts.numel()))
    return torch.cat([_multiply(chunk, parts, exponents) for chunk in rows.split(n_rows)])


@_change_basis_op.register_fake
def _change_basis_fake(coef, basis, to, domain, to_domain, transpose):
    return coef.new_empty(coef.shape)


class _ChangeBasis(torch.autograd.Function):
    """The product with the matrix of `_change_matrix`, or with its transpose: each is the gradient of the other."""

    @staticmethod
    def forward(coef: Tensor, key: tuple[Any, ...], transpose: bool) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See `convert`; key is ``(basis, to, domain, to_domain)``."""
        return torch.ops.polyfit.change_basis(coef, *key, transpose)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the key of the matrix."""
        _, ctx.key, ctx.transpose = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Vector-Jacobian product; itself differentiable."""
        return _change_basis(grad, ctx.key, not ctx.transpose), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], coef: Tensor, key: Any, transpose: bool) -> tuple[Tensor, int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One more batch axis, in front."""
        return _change_basis(coef.movedim(in_dims[0], 0), key, transpose), 0


class _ChangeBasisForward(_ChangeBasis):
    """With forward mode, which a Function may not have where torch.compile traces it."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Jacobian-vector product: the operation is linear."""
        return _change_basis(tangent, ctx.key, ctx.transpose)


def _change_basis(coef: Tensor, key: tuple[Any, ...], transpose: bool = False) -> Tensor:
    return (_ChangeBasis if torch.compiler.is_compiling() else _ChangeBasisForward).apply(coef, key, transpose)


def convert(
    coef: Tensor,
    basis: str,
    to: str,
    *,
    domain: Sequence[float] | None = None,
    to_domain: Sequence[float] | None = None,
) -> Tensor:
    r"""The coefficients of the same function in another basis, or on another domain, differentiably.

    .. math:: \sum_k c_k \, P_k(t(x)) = \sum_j (M c)_j \, Q_j(s(x)) \quad \text{for all } x

    with P the functions of `basis` and t the map of `domain` onto its window, Q and s those of `to` and `to_domain`.

    M is computed in rational numbers, each product is kept with its rounding error, and the sum is rounded at the end.
    A result is therefore good to one rounding, relative to itself, however much cancels. With cond the ratio of
    ``sum_k |M_jk c_k|`` to the result, its relative error is 2**-53 + O(degree**2) 2**-159 cond, plus one rounding to
    the dtype of coef. The given coefficients are rounded already, and are those of a slightly different function: a
    power series far from zero needs more digits than float64 has.

    Args:
        coef: coefficients, lowest degree first on the last axis. Shape ``(*batch, degree + 1)``.
        basis: of the given coefficients: "power", "chebyshev", "legendre", "hermite", "hermite_e" or "laguerre".
        to: the basis of the result.
        domain: ``(lo, hi)`` of the given coefficients. It is mapped onto the window of `basis`, which is (0, 1) for
            "laguerre" and (-1, 1) for the others; None for t = x. The bounds are taken as exact numbers.
        to_domain: the same for `to`; None for s = x.

    Returns:
        Coefficients in the shape and dtype of coef. Differentiable in coef to any order in reverse mode; in forward
        mode too, unless torch.compile traces the call.

    dtypes: float16, bfloat16, float32 and float64. If a coefficient is NaN or infinite, so is its whole series.

    Raises:
        TypeError: not a floating-point tensor; a domain that is not a pair of numbers.
        ValueError: no last axis, an unknown basis, a domain that is not finite or has lo >= hi.

    >>> import torch
    >>> convert(torch.tensor([0.0, 0.0, 0.0, 1.0]), "chebyshev", "power")  # T_3(x) = 4 x**3 - 3 x
    tensor([ 0., -3.,  0.,  4.])
    >>> convert(torch.tensor([0.0, 0.0, 1.0]), "power", "power", to_domain=(0, 4))  # x**2 with x = 2 + 2 t
    tensor([4., 8., 4.])

    References:
        numpy.polynomial's ``convert`` for what it does; T. J. Dekker, "A floating-point technique for extending the
        available precision", Numer. Math. 18 (1971); T. Ogita, S. M. Rump & S. Oishi, "Accurate sum and dot product",
        SIAM J. Sci. Comput. 26 (2005), for the sums.
    """
    check_tensor("coef", coef)
    check_coef(coef)
    domains = tuple(None if bounds is None else interval(bounds) for bounds in (domain, to_domain))
    key = (resolve(basis).name, resolve(to).name, *domains)
    if key[0] == key[1] and key[2] == key[3]:
        return coef.clone()
    return _change_basis(coef, key)


def _tensors(matrix: _ExactMatrix, device: torch.device) -> tuple[Tensor, Tensor]:
    """Parts and exponents of a matrix."""
    parts = torch.tensor(matrix.parts, dtype=torch.float64, device=device)
    return parts, torch.tensor(matrix.exponents, dtype=torch.int64, device=device)


def convert_sum(
    high: Tensor, low: Tensor, basis: str, to: str, domain: Interval | None, to_domain: Interval | None
) -> Tensor:
    """`convert` for the coefficients ``high + low``, unevaluated: (n,) float64, rounded once."""
    if basis == to and domain == to_domain:
        return high + low
    degree = high.shape[0] - 1
    if high.device.type == "cpu" and degree < _SHORT:
        matrix = exact_conversion(basis, to, domain, to_domain, degree)
        row = _exact_product(matrix, high.tolist(), transpose=False, low=low.tolist())
        if row is not None:
            return torch.tensor(row, dtype=high.dtype, device=high.device)
    parts, exponents = _tensors(_change_matrix(basis, to, domain, to_domain, degree), high.device)
    both = torch.cat((high, low)).unsqueeze(0)
    return _multiply(both, torch.cat((parts, parts), -1), torch.cat((exponents, exponents), -1))[0]


@functools.lru_cache(maxsize=64)
def conversion_matrix(
    basis: str, to: str, domain: Interval | None, to_domain: Interval | None, degree: int
) -> Tensor | None:
    """The matrix of `convert`, (degree + 1, degree + 1) float64 on the CPU, rounded once; None for the identity.

    Calls share the tensor: it must not be changed.
    """
    if basis == to and domain == to_domain:
        return None
    parts, exponents = _tensors(_change_matrix(basis, to, domain, to_domain, degree), torch.device("cpu"))
    half = exponents // 2  # in two steps, see `_multiply`
    return parts.sum(0) * _power_of_two(half) * _power_of_two(exponents - half)


def scaled_conversion_matrix(
    basis: str, to: str, domain: Interval | None, to_domain: Interval | None, degree: int
) -> tuple[Tensor, Tensor]:
    """The matrix of `convert`, also where its entries overflow or underflow: as rows and a power of two for each.

    Returns:
        Rows whose largest entry is between 1/2 and 2 in magnitude, (degree + 1, degree + 1) float64, and the exponents
        of two by which they are to be multiplied, (degree + 1,) int64; both on the CPU. Entries below 2**-1022 of the
        largest are not resolved.
    """
    if basis == to and domain == to_domain:
        size = degree + 1
        return torch.eye(size, dtype=torch.float64, device="cpu"), torch.zeros(size, dtype=torch.int64, device="cpu")
    parts, exponents = _tensors(_change_matrix(basis, to, domain, to_domain, degree), torch.device("cpu"))
    mantissas = parts.sum(0)
    of_rows = exponents.masked_fill(mantissas == 0.0, _EXPONENT_OF_ZERO).amax(-1)
    rows = mantissas * _power_of_two((exponents - of_rows[:, None]).clamp(max=1))
    return rows, of_rows


# --- numpy.polynomial ---


def _numpy_classes() -> dict[str, type[Series]]:
    from numpy import polynomial

    return {basis.name: getattr(polynomial, basis.numpy_class) for basis in BASES.values()}


def to_numpy(coef: Tensor, basis: str, domain: Sequence[float] | None = None) -> Series:
    """The series of numpy.polynomial with the values of ``polyval(x, coef, basis=basis, domain=domain)``.

    Args:
        coef: coefficients, lowest degree first. Shape ``(degree + 1,)``, float16, bfloat16, float32 or float64.
        basis: of the coefficients: "power", "chebyshev", "legendre", "hermite", "hermite_e" or "laguerre".
        domain: ``(lo, hi)``, mapped onto the window of the basis; None for no mapping.

    Returns:
        A Polynomial, Chebyshev, Legendre, Hermite, HermiteE or Laguerre with a copy of the coefficients in float64. For
        ``domain=None`` its domain is its window.

    Raises:
        TypeError: not a floating-point tensor; a domain that is not a pair of numbers.
        ValueError: ``coef`` is not 1-D, the basis is unknown, the domain is not finite or has lo >= hi.
        ImportError: numpy is not installed.

    >>> float(to_numpy(torch.tensor([1.0, 2.0]), "chebyshev", (0, 10))(10.0))  # 1 + 2 T_1(1)
    3.0

    References:
        https://numpy.org/doc/stable/reference/routines.polynomials.html
    """
    check_tensor("coef", coef)
    check_coef(coef)
    if coef.dim() != 1:
        raise ValueError(f"coef has shape {tuple(coef.shape)}; a series of numpy is 1-D: pass one row, coef[0] say")
    window = resolve(basis).window
    bounds = window if domain is None else interval(domain)
    return _numpy_classes()[basis](coef.tolist(), domain=bounds, window=window)


def from_numpy(series: Series) -> tuple[Tensor, str, tuple[float, float]]:
    """Coefficients, basis and domain of a series of numpy.polynomial.

    ``polyval(x, coef, basis=basis, domain=domain)`` gives the values of ``series(x)``. If the series has another window
    than the basis, the result has the domain for which the map to the window of the basis is the same; its bounds are
    rounded to float64.

    Args:
        series: a Polynomial, Chebyshev, Legendre, Hermite, HermiteE or Laguerre.

    Returns:
        Coefficients in float64, shape ``(degree + 1,)``; the name of the basis; ``(lo, hi)``.

    Raises:
        TypeError: ``series`` is something else, or has complex or object coefficients.
        ValueError: the map from its domain to its window is not increasing, or not finite.
        ImportError: numpy is not installed.

    >>> from numpy.polynomial import Chebyshev
    >>> from_numpy(Chebyshev([1, 2, 3], domain=[0, 10]))
    (tensor([1., 2., 3.], dtype=torch.float64), 'chebyshev', (0.0, 10.0))

    References:
        https://numpy.org/doc/stable/reference/routines.polynomials.html
    """
    names = [name for name, kind in _numpy_classes().items() if isinstance(series, kind)]
    if not names:
        raise TypeError(
            f"series is {type(series).__name__}; pass a Polynomial, Chebyshev, Legendre, Hermite, HermiteE or Laguerre"
            " of numpy.polynomial"
        )
    if series.coef.dtype.kind != "f":
        raise TypeError(
            f"series has coefficients of {series.coef.dtype}; pass one of floating-point numbers: series.coef.real, say"
        )
    coef = torch.tensor(series.coef.tolist(), dtype=torch.float64, device="cpu")
    return coef, names[0], _fold(series.domain.tolist(), series.window.tolist(), resolve(names[0]).window)


def _fold(domain: list[float], window: list[float], to: tuple[float, float]) -> tuple[float, float]:
    """The domain that the map from ``domain`` to ``window`` takes to ``to``."""
    try:
        (lo, hi), (window_lo, window_hi) = map(Fraction, domain), map(Fraction, window)
        slope = (hi - lo) / (window_hi - window_lo)
        lo, hi = (float(lo + (Fraction(end) - window_lo) * slope) for end in to)
    except (ValueError, OverflowError, ZeroDivisionError):  # not finite, or an empty window
        lo, hi = math.nan, math.nan
    if not lo < hi:
        raise ValueError(
            f"series maps {domain} to {window}; the map of a domain must be finite and increasing:"
            " pass series.convert(domain=(lo, hi)) with lo < hi"
        )
    return lo, hi
