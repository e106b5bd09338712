"""A layer with a learnable polynomial on each edge between inputs and outputs (KAN)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from polyfit import autograd
from polyfit.backends import resolve_impl


class PolynomialKAN(nn.Module):
    """y_o = sum_i sum_k C[k, i, o] P_k(squash(x_i))."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        degree: int,
        basis: str = "chebyshev",
        squash: str | None = "tanh",
        *,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.degree = in_features, out_features, degree
        self.basis, self.squash, self.impl = basis, squash, impl
        self.coef = nn.Parameter(torch.empty(degree, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The coefficients of P_1 ~ N(0, 1 / in), all others 0."""
        with torch.no_grad():
            self.bias.zero_()
            self.coef.zero_()
            self.coef[0].normal_(std=1.0 / math.sqrt(self.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """(..., out) for x (..., in)."""
        impl = resolve_impl(self.impl, x.device, self.degree)
        rows = x.reshape(-1, self.in_features)
        return autograd.kan(rows, self.coef, self.bias, self.basis, self.squash, impl).view(*x.shape[:-1], -1)
