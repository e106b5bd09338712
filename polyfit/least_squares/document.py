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

_FORMAT, _VERSION = "polyfit.Fit", 1


# The attributes of a fit that a file holds: numbers, texts and tuples, two tensors and the estimate.
_PLAIN = (
    "n_samples", "rss", "r_squared", "degrees_of_freedom", "rank", "condition", "status", "solver", "precision"
)  # fmt: skip
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
        },
    }
    text = json.dumps(_to_json(document), indent=1, allow_nan=False) + "\n"
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of the `Fit` in a file; see `Fit.load`."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); pass a file that Fit.save wrote") from None
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ValueError(f"{path} does not hold a fit; pass a file that Fit.save wrote")
    version = document.get("version")
    if not isinstance(version, int) or version > _VERSION:
        raise ValueError(
            f"{path} has version {version!r} of its format and this polyfit reads up to {_VERSION};"
            " install a newer fused-polyfit"
        )
    try:
        return _fields(_from_json(document))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); write it again with Fit.save") from None


def _fields(document: dict[str, Any]) -> dict[str, Any]:
    """The fields of the `Fit` in a document of the right format."""

    def array(values: Any) -> Array:
        return np.array(values, dtype=np.float64)

    parts, size = document["estimate"], len(document["coef"])
    undetermined = parts["null"]
    estimate = Estimate(
        array(parts["high"]),
        array(parts["low"]),
        bases.interval(parts["domain"]),
        array(parts["spread"]).reshape(size, -1),
        None if undetermined is None else array(undetermined).reshape(size, -1),
        float(parts["deviation"]),
    )
    if not len(estimate.high) == len(estimate.low) == len(estimate.spread) == size:
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
