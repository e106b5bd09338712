"""What tests by Triton's interpreter share."""

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
def small_programs(set_policy) -> None:
    """Programs of one warp, so that a few series fill the two processors of the interpreter."""
    set_policy(widening_rows=32)
