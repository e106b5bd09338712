"""Bases: what they are, domains, derivatives, and conversions between them.

`convert` rewrites coefficients for another basis and domain; `to_numpy` and `from_numpy` lead to numpy.polynomial's
classes and back.
"""

from polyfit.bases.conversion import (
    Interval,
    conversion_matrix,
    convert,
    convert_rows,
    convert_sum,
    from_numpy,
    to_numpy,
)
from polyfit.bases.definition import (
    BASES,
    CHEBYSHEV,
    HERMITE,
    HERMITE_E,
    LAGUERRE,
    LEGENDRE,
    POWER,
    AffineMap,
    Basis,
    Step,
    affine_map,
    derivative_matrix,
    interval,
    resolve,
    widened,
)

__all__ = [
    "BASES",
    "CHEBYSHEV",
    "HERMITE",
    "HERMITE_E",
    "LAGUERRE",
    "LEGENDRE",
    "POWER",
    "AffineMap",
    "Basis",
    "Interval",
    "Step",
    "affine_map",
    "conversion_matrix",
    "convert",
    "convert_rows",
    "convert_sum",
    "derivative_matrix",
    "from_numpy",
    "interval",
    "resolve",
    "to_numpy",
    "widened",
]
