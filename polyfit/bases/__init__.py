"""Polynomial bases: their recurrences, domains, derivatives, and conversions between them.

`convert` gives the coefficients of the same function in another basis or on another domain. `to_numpy` and `from_numpy`
convert to the classes of numpy.polynomial and back.
"""

from polyfit.bases.conversion import (
    Interval,
    conversion_matrix,
    convert,
    convert_row,
    convert_rows,
    convert_sum,
    exact_conversion,
    from_numpy,
    scaled_conversion_matrix,
    to_numpy,
)
from polyfit.bases.definition import (
    BASES,
    CHEBYSHEV,
    AffineMap,
    Basis,
    RecurrenceStep,
    affine_map,
    derivative_matrix,
    interval,
    resolve,
    widened,
)

__all__ = [
    "BASES",
    "CHEBYSHEV",
    "AffineMap",
    "Basis",
    "Interval",
    "RecurrenceStep",
    "affine_map",
    "conversion_matrix",
    "convert",
    "convert_row",
    "convert_rows",
    "convert_sum",
    "derivative_matrix",
    "exact_conversion",
    "from_numpy",
    "interval",
    "resolve",
    "scaled_conversion_matrix",
    "to_numpy",
    "widened",
]
