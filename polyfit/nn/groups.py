"""Groups of parameters for an optimizer that decays weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from polyfit import _checks


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimizer of torch.optim: parameters that are decayed, and parameters that are not.

    Not decayed are parameters of at most one dimension (biases, norms), as libraries for training do, and those that
    their module names in `no_weight_decay`, parametrized or not: polynomials of many channels have two dimensions.

    Args:
        model: any module.
        weight_decay: of the first group, at least 0.

    Raises:
        TypeError: model is not a module, for example `model.parameters()`, which has no names; weight_decay is not a
            number.
        ValueError: a negative weight_decay.

    >>> import torch, polyfit
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), polyfit.nn.Polynomial(3, 16))
    >>> groups = polyfit.nn.parameter_groups(model, weight_decay=0.05)
    >>> [[tuple(parameter.shape) for parameter in group["params"]] for group in groups]
    [[(16, 8)], [(16,), (16, 4)]]
    >>> optimizer = torch.optim.AdamW(groups, lr=1e-3)

    References:
        ``no_weight_decay`` and ``param_groups_weight_decay`` of timm.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model is {type(model).__name__}; pass the module itself, such as parameter_groups(model, weight_decay),"
            " and not its parameters"
        )
    _checks.check_number("weight_decay", weight_decay, 0.0)
    named = set()  # by identity: a parameter may be shared, and only one of its owners may name it
    for module in model.modules():
        ask = getattr(module, "no_weight_decay", None)
        if not callable(ask):
            continue
        names = set(ask())  # pyright: ignore[reportArgumentType]
        beginnings = tuple(f"parametrizations.{name}." for name in names)
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if name in names or name.startswith(beginnings):
                named.add(id(parameter))
    decayed, kept = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (kept if parameter.dim() <= 1 or id(parameter) in named else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
