"""Optional packages: imported where they are first used, and named, with what installs them, where they are missing."""

from __future__ import annotations

import importlib
from typing import Any


def import_optional(module: str, who: str, extra: str) -> Any:
    """Import a module by its name.

    Args:
        module: its name.
        who: what needs it, the subject of the error.
        extra: the extra of the distribution that installs it.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{who} needs {module}: {error}; install it with: pip install 'fused-polyfit[{extra}]'"
        ) from error
