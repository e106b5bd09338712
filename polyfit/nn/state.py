"""What modules with coefficients share: checks of inputs and of what is loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


def check_goes_with(x: Tensor, coef: Tensor, *, is_fine: bool, wanted: torch.dtype) -> None:
    """Refuse an input on another device than the coefficients, or of a dtype that the layer does not take.

    Args:
        x: the input.
        coef: the coefficients.
        is_fine: whether the layer takes the dtype of x.
        wanted: the dtype of the parameters of a layer that takes it.
    """
    if x.device != coef.device:
        raise ValueError(
            f"x is on {x.device} and the parameters of the layer are on {coef.device}; pass x.to({str(coef.device)!r}),"
            f" or move the layer: layer.to({str(x.device)!r})"
        )
    if not is_fine:
        note = "" if wanted == x.dtype else f" ({wanted} parameters take {x.dtype} inputs)"
        raise TypeError(
            f"x is {x.dtype} and the parameters of the layer are {coef.dtype}; pass x.to({coef.dtype}), or convert the"
            f" layer: layer.to({wanted}){note}"
        )


class CoefficientModule(nn.Module, ABC):
    """A module with a parameter `coef`, whose numbers mean something only together with `_meaning`.

    The state_dict holds tensors only. What they mean is in its metadata, which torch.save keeps. Where the metadata are
    there, coefficients of another basis or domain are refused.
    """

    coef: nn.Parameter

    @abstractmethod
    def _meaning(self) -> dict[str, Any]:
        """What the coefficients belong to, by the names of the arguments: plain numbers, names and tuples of them."""

    @abstractmethod
    def _sizes(self, shape: torch.Size) -> str:
        """The sizes of a module with a `coef` of this shape, as text."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            destination._metadata.setdefault(prefix[:-1], {}).update(self._meaning())

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        loaded = state_dict.get(f"{prefix}coef")
        if isinstance(loaded, Tensor) and loaded.shape != self.coef.shape:
            error_msgs.append(
                f"{prefix}coef: the state has {self._sizes(loaded.shape)} and this {type(self).__name__} has"
                f" {self._sizes(self.coef.shape)}; make the module with the sizes of the state"
            )
            return
        for name, value in self._meaning().items():
            saved = local_metadata.get(name, value)
            if saved != value:
                error_msgs.append(
                    f"{prefix}coef: the state was saved with {name}={saved!r} and this {type(self).__name__} has"
                    f" {name}={value!r}; make the module with {name}={saved!r}"
                )
                return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
