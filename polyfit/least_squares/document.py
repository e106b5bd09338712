"""Files of fits, in JSON. A file is written whole or not at all.

Numbers come back with the same bits. JSON has no NaN and no infinity: these are objects {"number": "nan"}.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polyfit import bases
from polyfit.io.files import replacing
from polyfit.least_squares.algebra import Array
from polyfit.least_squares.estimate import Estimate

_FORMAT, _VERSION = "polyfit.Fit", 2


# The attributes of a fit that a file holds: numbers, texts and tuples, two tensors and the estimate.
_PLAIN = (
    "n_samples", "rss", "r_squared", "degrees_of_freedom", "rank", "condition", "status", "solver", "precision",
    "absolute_sigma", "sample_weight",
)  # fmt: skip
# The types of these in a file, and in a fit.
_KINDS: dict[str, tuple[Any, type]] = {
    "n_samples": (int, int),
    "rank": (int, int),
    "absolute_sigma": (bool, bool),
    **dict.fromkeys(("rss", "r_squared", "degrees_of_freedom", "condition", "sample_weight"), ((int, float), float)),
    **dict.fromkeys(("status", "solver", "precision"), (str, str)),
}
ATTRIBUTES = ("basis", "domain", "coef", "std_err", *_PLAIN, "fixed", "estimate")


def write(attributes: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the `ATTRIBUTES` of a fit; see `Fit.save`."""
    estimate: Estimate = attributes["estimate"]
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        **attributes,
        "coef": attributes["coef"].tolist(),
        "std_err": attributes["std_err"].tolist(),
        "estimate": {
            "high": estimate.high.tolist(),
            "low": estimate.low.tolist(),
            "domain": estimate.domain,
            "spread": estimate.spread.tolist(),
            "null": None if estimate.undetermined is None else estimate.undetermined.tolist(),
            "deviation": estimate.deviation,
            "rest": None if estimate.rest is None else estimate.rest.tolist(),
            "frame": None if estimate.frame is None else estimate.frame.tolist(),
            "residual_std": estimate.residual_std,
            "sigma_unit": estimate.sigma_unit,
        },
    }
    text = json.dumps(_to_json(document), indent=1, allow_nan=False) + "\n"
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of the `Fit` in a file; see `Fit.load`."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); pass a file that Fit.save wrote") from None
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ValueError(f"{path} does not hold a fit; pass a file that Fit.save wrote")
    version = document.get("version")
    if version != _VERSION:
        raise ValueError(
            f"{path} has version {version!r} of its format and this polyfit reads {_VERSION}; read it with the version"
            " of fused-polyfit that wrote it"
        )
    try:
        document = _from_json(document)
        fields = _fields(document)
        _check(fields, document)
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); write it again with Fit.save") from None
    return fields


def _fields(document: dict[str, Any]) -> dict[str, Any]:
    """The fields of the `Fit` in a document of the right format."""

    def array(values: Any) -> Array:
        return np.array(values, dtype=np.float64)

    parts, size = document["estimate"], len(document["coef"])
    undetermined, rest, frame = (parts[name] for name in ("null", "rest", "frame"))
    frame = None if frame is None else array(frame).reshape(len(frame), size, -1)
    rows = size if frame is None else frame.shape[2]
    estimate = Estimate(
        array(parts["high"]),
        array(parts["low"]),
        bases.interval(parts["domain"]),
        array(parts["spread"]).reshape(rows, -1 if rows else 0),
        None if undetermined is None else array(undetermined).reshape(rows, -1),
        float(parts["deviation"]),
        None if rest is None else array(rest).reshape(-1, size),
        frame,
        float(parts["residual_std"]),
        float(parts["sigma_unit"]),
    )
    if not len(estimate.high) == len(estimate.low) == size or len(estimate.spread) != rows:
        raise ValueError("its lists of coefficients differ in length")
    domain = document["domain"]
    return {
        **{name: document[name] for name in _PLAIN},
        "coef": torch.from_numpy(array(document["coef"])),
        "basis": bases.resolve(document["basis"]).name,
        "domain": None if domain is None else bases.interval(domain),
        "estimate": estimate,
        "fixed": tuple(document["fixed"]),
    }


def _check(fields: dict[str, Any], document: dict[str, Any]) -> None:
    """Refuse fields that do not belong together, or are not of the type that a fit has.

    Raises:
        TypeError: a value of another type.
        ValueError: a value that a fit does not have; coefficients that are not those of the estimate.
    """
    estimate, coef, fixed = fields["estimate"], fields["coef"].numpy(), fields["fixed"]
    for name, (kinds, kind) in _KINDS.items():
        value = fields[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"{name} is {value!r}, which is not {kind.__name__}")
        fields[name] = kind(value)
    degree = len(estimate.high) - 1
    if min(fields["n_samples"], fields["rank"]) < 0 or not degree >= 0:
        raise ValueError(f"n_samples={fields['n_samples']}, rank={fields['rank']}, {degree + 1} coefficients")
    if any(isinstance(k, bool) or not isinstance(k, int) or not 0 <= k <= degree for k in fixed):
        raise ValueError(f"fixed={list(fixed)} are not coefficients of degree {degree}")
    found = estimate.coefficients(fields["basis"], fields["domain"]).numpy()
    # A fixed coefficient is the value that the user passed. Terms of the estimate cancel there, and all its digits may
    # be lost in a basis far from the data.
    found[list(fixed)] = coef[list(fixed)]
    if not np.isfinite(coef[list(fixed)]).all():
        raise ValueError(f"fixed coefficients {coef[list(fixed)]} are not finite")
    if not np.allclose(coef, found, rtol=4.0 * np.finfo(np.float64).eps, atol=0.0, equal_nan=True):
        raise ValueError("coef are not the coefficients of its estimate")
    shape = np.array(document["std_err"], dtype=np.float64).shape
    if shape != coef.shape:
        raise ValueError(f"std_err has shape {shape} and coef {coef.shape}")


def _to_json(value: Any) -> Any:
    """The value with NaN and infinities as objects that hold their text."""
    if isinstance(value, dict):
        return {key: _to_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": repr(value)}
    return value


def _from_json(value: Any) -> Any:
    """The inverse of `_to_json`."""
    if isinstance(value, dict):
        if value.keys() == {"number"}:
            return float(value["number"])
        return {key: _from_json(part) for key, part in value.items()}
    return [_from_json(part) for part in value] if isinstance(value, list) else value
