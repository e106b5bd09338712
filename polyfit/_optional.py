"""Optional packages, which only some monitors, pictures and bounds need."""

from __future__ import annotations

import importlib
from typing import Any


def import_optional(module: str, who: str, extra: str) -> Any:
    """Import a module by its name. If it is missing, the error names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{who} needs {module}: {error}; install it with: pip install 'fused-polyfit[{extra}]'"
        ) from error
