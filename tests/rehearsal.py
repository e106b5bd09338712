"""The tests of a GPU without one: whether this run is such a rehearsal, its sizes and its choice of cases.

With TRITON_INTERPRET=1 kernels run in Triton's interpreter, and the tests marked `cuda` run on a stand-in for a GPU
(see `stand_ins`), at small sizes and with some of their cases. Every line of such a test runs, except the compiled
kernels. Without TRITON_INTERPRET the same tests need a GPU and run in full.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

# A tile of float32 holds 1024 samples: three tiles, for the two processors of the stand-in.
MOST_SAMPLES = 2051


def is_rehearsal() -> bool:
    """Whether tests of a GPU run on its stand-in."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def few(full: int, rehearsed: int = MOST_SAMPLES) -> int:
    """A size: `full` on a GPU, at most `rehearsed` in a rehearsal."""
    return min(full, rehearsed) if is_rehearsal() else full


def reason_not_to(item: pytest.Item) -> str | None:
    """Why a test is not rehearsed: the argument of its marker `gpu_only`. None for a test that is."""
    marker = item.get_closest_marker("gpu_only")
    return None if marker is None else marker.args[0]


def _values(case: pytest.Function) -> set[tuple[str, str]]:
    """Names and values of the parameters of a case."""
    parameters = case.callspec.params if hasattr(case, "callspec") else {}
    return {(name, repr(value)) for name, value in parameters.items()}


def covering(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Some cases of each function, so that each value of each parameter occurs in one of them."""
    functions: dict[object, list[pytest.Function]] = {}
    for item in items:
        if isinstance(item, pytest.Function):
            functions.setdefault(item.function, []).append(item)
    chosen: list[pytest.Item] = []
    for cases in functions.values():
        values = {case: _values(case) for case in cases}
        left = set().union(*values.values())
        chosen.append(cases[0])
        left -= values[cases[0]]
        while left:
            best = max(cases, key=lambda case: len(values[case] & left))
            chosen.append(best)
            left -= values[best]
    return chosen
