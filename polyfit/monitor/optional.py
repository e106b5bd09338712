"""Packages that a monitor needs and polyfit does not."""

from __future__ import annotations

import importlib
from typing import Any


def import_optional(module: str, who: str, extra: str) -> Any:
    """A module by its name; where it is missing, an error that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{who} needs {module}: {error}; pip install 'fused-polyfit[{extra}]'") from error
