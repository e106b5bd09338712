"""What tests by Triton's interpreter share."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory is NaN, and -1 in integers: what a kernel leaves out shows."""
    empty, new_empty = torch.empty, Tensor.new_empty

    def poisoned(make):
        def wrapper(*args, **kwargs):
            tensor = make(*args, **kwargs)
            return tensor.fill_(float("nan") if tensor.is_floating_point() else -1)

        return wrapper

    monkeypatch.setattr(torch, "empty", poisoned(empty))
    monkeypatch.setattr(Tensor, "new_empty", poisoned(new_empty))


@pytest.fixture
def set_policy() -> Iterator[Callable[..., None]]:
    """`set_policy(largest_grid=2)`: launches are cut by other numbers for the rest of the test."""
    from polyfit_kernels import launch

    with contextlib.ExitStack() as stack:
        yield lambda **changes: stack.enter_context(launch.using(dataclasses.replace(launch.current(), **changes)))
