"""An elementwise learnable polynomial."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from polyfit import autograd, bases, formula
from polyfit._problem import channels_of
from polyfit.backends import resolve_impl
from polyfit.least_squares.fit import fit


class Polynomial(nn.Module):
    """An elementwise learnable polynomial: one for the module, one a channel, or one a group of channels."""

    def __init__(
        self,
        degree: int,
        num_channels: int = 1,
        *,
        num_groups: int | None = None,
        channel_dim: int = 1,
        basis: str = "chebyshev",
        domain: Sequence[float] | None = (-1.0, 1.0),
        outside: str = "linear",
        init: str | Callable[[Tensor], Tensor] = "identity",
        impl: str = "auto",
    ) -> None:
        super().__init__()
        self.degree, self.num_channels, self.channel_dim = degree, num_channels, channel_dim
        self.num_groups = num_channels if num_groups is None else num_groups
        self.basis, self.outside, self.init, self.impl = basis, outside, init, impl
        self.domain = None if domain is None else bases.interval(domain)
        # It lies in memory degree by degree: loops over channels then read neighbours.
        self.coef = nn.Parameter(torch.empty(degree + 1, self.num_groups).t())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the coefficients to those of `init`."""
        function = self.init
        if function == "identity":
            function = lambda x: x  # noqa: E731
        elif isinstance(function, str):
            function = getattr(nn.functional, function)
        x = torch.linspace(*(self.domain or (-1.0, 1.0)), 1001, dtype=torch.float64)
        found = fit(x, function(x), self.degree, basis=self.basis, domain=self.domain)
        with torch.no_grad():
            self.coef.copy_(found.coef.expand_as(self.coef))

    def forward(self, x: Tensor) -> Tensor:
        """p(x), elementwise."""
        dtype = formula.compute_dtype(x.dtype)
        mapping = bases.affine_map(self.domain, bases.resolve(self.basis), dtype)
        model = formula.Model(self.basis, mapping, outside=self.outside)
        channels = channels_of(x, self.channel_dim, self.num_groups)
        impl = resolve_impl(self.impl, x.device, self.degree)
        return channels.restore(autograd.activation(channels.flatten(x), self.coef, model, impl), x.shape)
