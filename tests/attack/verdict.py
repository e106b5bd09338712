"""The verdict on one problem: right to the stated digits, said, or wrong."""

from __future__ import annotations

import contextlib
import math
import os
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from polyfit import FitWarning

# The refusals that are documented, by their words. Every other exception is a crash, and counts as wrong.
REFUSALS = (
    "do not determine",
    "no samples are left",
    "too narrow or too wide to be mapped",
    "overflow",
    "underflow",
    "not finite",
    "must diverge",
    "does not apply",
    "weights are zero",
    "is out of range",
    "lies far outside of domain",
    "beyond float64",
    "over no samples",
    "too large",
    "too small",
)

# A warning about what users may do with right coefficients: no answer is excused by it.
_ABOUT_USE = "cancel when they are evaluated"
# Warnings of torch's compiler, and of numpy inside Triton's interpreter.
_NOT_OURS = "torch.jit|Guards may run slower"
if os.environ.get("TRITON_INTERPRET") == "1":
    _NOT_OURS += "|encountered in (exp|log|multiply|add|divide|subtract|square|cast)"


class Judge:
    """Collects what is wrong with the answers to one problem, and what the answers said themselves.

    Attributes:
        problem: the inputs, by their names, for the report.
        wrong: a line for each answer that is not right.
        said: warnings, statuses and refusals.
    """

    def __init__(self) -> None:
        self.problem: dict[str, Any] = {}
        self.wrong: list[str] = []
        self.said: list[str] = []

    @property
    def verdict(self) -> str:
        """ "wrong", "said" or "right"."""
        return "wrong" if self.wrong else "said" if self.said else "right"

    def within(self, what: str, ours: Any, exact: Any, allowed: Any) -> bool:
        """Whether ``|ours - exact| <= allowed``; if not, it is wrong. NaN is wrong."""
        if math.isnan(ours):
            self.wrong.append(f"{what}: nan, exact {float(exact)!r}")
            return False
        error = abs(ours - exact)
        is_right = bool(error <= allowed) or (math.isinf(ours) and float(allowed) == math.inf)
        if not is_right:
            self.wrong.append(
                f"{what}: {float(ours)!r}, exact {float(exact)!r}, off {float(error):.2e}, allowed {float(allowed):.2e}"
            )
        return is_right

    def within_all(self, what: str, ours: Any, exact: Any, allowed: Any) -> bool:
        """The same for each element of arrays of one shape; the worst element is named."""
        ours, exact, allowed = np.broadcast_arrays(ours, exact, allowed)
        with np.errstate(all="ignore"):
            # Both infinite and equal is right.
            error = np.where(ours == exact, 0.0, np.abs(ours - exact))
            share = np.where(error == 0.0, 0.0, error / np.where(allowed == 0.0, 1e-300, allowed))
        share = np.where(np.isnan(share), np.inf, share)
        if not share.size or share.max() <= 1.0:
            return True
        worst = np.unravel_index(np.argmax(share), share.shape)
        where = f"{what}[{', '.join(map(str, worst))}]" if worst else what
        count = int((share > 1.0).sum())
        self.wrong.append(
            f"{where}: {ours[worst]!r}, exact {exact[worst]!r}, allowed {allowed[worst]:.2e}, {share.max():.1e} times"
            f" that; {count} of {share.size} are wrong"
        )
        return False

    def true(self, what: str, is_true: object) -> bool:
        """A statement that must hold."""
        if not is_true:
            self.wrong.append(what)
        return bool(is_true)

    def ask(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The answer of a function of polyfit; None after a documented refusal or a crash.

        A FitWarning is said. Any other warning is wrong: the user did not cause it.
        """
        name = getattr(function, "__name__", str(function))
        with heard() as caught:
            try:
                answer = function(*args, **options)
            except (ValueError, TypeError) as error:
                answer = None
                if any(words in str(error) for words in REFUSALS) and type(error) in {ValueError, TypeError}:
                    self.said.append(f"{name} refuses: {error}")
                else:
                    self.wrong.append(f"{name} raises {type(error).__name__}: {error}{place(error)}")
            except Exception as error:
                answer = None
                self.wrong.append(f"{name} crashes, {type(error).__name__}: {error}{place(error)}")
        for warning in caught:
            if _ABOUT_USE in str(warning.message):
                continue
            if issubclass(warning.category, FitWarning):
                self.said.append(f"{name} warns: {warning.message}")
            elif not re.search(_NOT_OURS, str(warning.message)):
                self.wrong.append(f"{name} lets through {warning.category.__name__}: {warning.message}")
        return answer


@contextlib.contextmanager
def heard() -> Iterator[list[warnings.WarningMessage]]:
    """A block whose warnings are collected."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)
        yield caught


def place(error: BaseException) -> str:
    """Where an error was raised, as the end of a line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({last.filename.rsplit('/', 2)[-1]}:{last.lineno})"
