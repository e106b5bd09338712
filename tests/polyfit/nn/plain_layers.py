"""The layers written out in plain PyTorch, by way of powers: what the modules are compared with, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import oracle
import torch
from torch import Tensor, nn

F64 = torch.float64
SQUASHES: dict[str | None, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "algebraic": lambda x: x / (1 + x**2).sqrt(),
    "clamp": lambda x: x.clamp(-1, 1),
    None: lambda x: x,
}


def in_powers(coef: Tensor, basis: str) -> Tensor:
    """Coefficients (..., degree + 1) of powers of t, by numpy's conversion of each unit series."""
    size = coef.shape[-1]
    rows = [np.pad(oracle.TO_POWER[basis](unit), (0, size))[:size] for unit in np.eye(size)]
    return coef @ torch.tensor(np.array(rows), dtype=coef.dtype)


class PlainPolynomial(nn.Module):
    """The activation: coef (groups, degree + 1), channels on channel_dim."""

    def __init__(
        self, coef: Tensor, *, channel_dim: int, basis: str, domain: Sequence[float] | None, outside: str
    ) -> None:
        super().__init__()
        self.coef = nn.Parameter(coef.detach().double().clone())
        self.channel_dim, self.basis, self.domain, self.outside = channel_dim, basis, domain, outside

    def forward(self, x: Tensor) -> Tensor:
        """The polynomial inside, its continuation outside."""
        rows = in_powers(self.coef, self.basis)
        if rows.dim() == 2 and rows.shape[0] > 1:
            n_channels = x.shape[self.channel_dim]
            rows = rows.repeat_interleave(n_channels // rows.shape[0], 0)
            shape = [1] * x.dim()
            shape[self.channel_dim] = n_channels
            columns = [column.reshape(shape) for column in rows.unbind(-1)]
        else:
            columns = list(rows.reshape(-1).unbind())
        t = oracle.to_window(x, self.domain, self.basis)
        if self.outside == "extend":
            return sum_of(columns, t)
        lo, hi = map(float, oracle.NUMPY_CLASSES[self.basis].window)
        inside = t.clamp(lo, hi)
        value = sum_of(columns, inside)
        if self.outside == "clamp":
            return value
        slopes = [k * column for k, column in enumerate(columns)][1:] or [torch.zeros(())]
        return value + torch.where(t == inside, 0.0, (t - inside) * sum_of(slopes, inside.detach()))


def sum_of(columns: Sequence[Tensor], t: Tensor) -> Tensor:
    """sum_k columns[k] t**k."""
    return torch.stack([column * t**k for k, column in enumerate(columns)]).sum(0)


def plain_kan(x: Tensor, full: Tensor, basis: str, squash: str | None) -> Tensor:
    """y[b, o] = sum_i sum_k full[i, o, k] P_k(squash(x[b, i])), in float64."""
    t = SQUASHES[squash](x)
    return torch.einsum("iok,bik->bo", in_powers(full, basis), torch.stack([t**k for k in range(full.shape[-1])], -1))
