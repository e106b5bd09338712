"""What is timed at a point of the map: ours, and what a good user would write in eager PyTorch.

Both take the same tensors and give the same numbers, which `tests/bench/test_map.py` holds for each form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import polyfit
from bench import peers
from bench.map.points import WIDTH, Point
from polyfit.nn import Polynomial, PolynomialKAN

Results = tuple[Tensor, ...]
Call = Callable[[], Results]


@dataclass(frozen=True)
class Case:
    """Two calls that give the same numbers.

    Attributes:
        ours: by polyfit.
        peer: by eager PyTorch.
    """

    ours: Call
    peer: Call


class Operands:
    """Samples, coefficients and weights of a point; those that want a gradient are leaves of the graph.

    x is uniform in [-1, 1] and y a noisy sine, or 0 and 1 or counts where the loss is for these.
    """

    def __init__(self, point: Point, *, is_differentiated: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        dtype = getattr(torch, point.dtype)
        rows = (point.series,) if point.series > 1 else ()

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=dtype)

        x = uniform(*(rows if point.own_x else ()), point.n) * 2.0 - 1.0
        y = torch.sin(3.0 * x) + 0.1 * torch.randn((*rows, point.n), generator=generator, dtype=dtype)
        if point.loss == "bce_with_logits":
            y = (y > 0).to(dtype)
        if point.loss == "poisson_nll":
            y = torch.round(torch.exp(y))
        if point.layout == "strided":
            x, y = torch.stack((x, y), -1).unbind(-1)
        self.x, self.y = x, y
        self.weight = uniform(*rows, point.n) + 0.5 if point.is_weighted else None
        self.coef = torch.randn((*rows, point.degree + 1), generator=generator, dtype=dtype)
        self.upstream = torch.randn((*rows, point.n), generator=generator, dtype=dtype)
        self.direction = torch.randn(self.coef.shape, generator=generator, dtype=dtype)
        named = {"x": self.x, "y": self.y, "w": self.weight, "c": self.coef}
        self.leaves = [leaf for name in point.wants if (leaf := named[name]) is not None] if is_differentiated else []
        for leaf in self.leaves:
            leaf.requires_grad_()

    def gradients(self, root: Callable[[], Tensor], upstream: Tensor | None = None) -> Results:
        """A forward and a backward pass: the root of the graph, and the gradients to the leaves."""
        for leaf in self.leaves:
            leaf.grad = None
        value = root()
        value.backward(upstream)
        return (value, *(leaf.grad for leaf in self.leaves if leaf.grad is not None))


def _losses(point: Point, data: Operands) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """The mean loss, by polyfit and by the peer."""
    loss = peers.pseudo_huber if point.loss == "own" else point.loss

    def ours() -> Tensor:
        return polyfit.polynomial_loss(
            data.x, data.y, data.coef, loss=loss, weight=data.weight, basis=point.basis, impl=point.impl
        )

    def eager(x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None) -> Tensor:
        return peers.mean_loss(peers.polynomial(x, coef, point.basis), y, point.loss, weight)

    written = torch.compile(eager) if point.impl == "compile" else eager
    return ours, lambda: written(data.x, data.y, data.coef, data.weight)


def _values(point: Point, data: Operands) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """The values, by polyfit and by the peer."""

    def eager(x: Tensor, coef: Tensor) -> Tensor:
        return peers.polynomial(x, coef, point.basis).contiguous()  # of degree 0, too: not a view of coef

    written = torch.compile(eager) if point.impl == "compile" else eager
    return (
        lambda: polyfit.polyval(data.x, data.coef, basis=point.basis, impl=point.impl),
        lambda: written(data.x, data.coef),
    )


def _step(point: Point) -> Case:
    data = Operands(point, is_differentiated=True)
    ours, peer = _losses(point, data)
    return Case(lambda: data.gradients(ours), lambda: data.gradients(peer))


def _loss(point: Point) -> Case:
    ours, peer = _losses(point, Operands(point, is_differentiated=False))
    return Case(lambda: (ours(),), lambda: (peer(),))


def _evaluation(point: Point) -> Case:
    ours, peer = _values(point, Operands(point, is_differentiated=False))
    return Case(lambda: (ours(),), lambda: (peer(),))


def _evaluation_step(point: Point) -> Case:
    data = Operands(point, is_differentiated=True)
    ours, peer = _values(point, data)
    return Case(lambda: data.gradients(ours, data.upstream), lambda: data.gradients(peer, data.upstream))


def _series_step(point: Point) -> Case:
    """A loss for each series, (S,), and the gradients of their sum."""
    data = Operands(point, is_differentiated=True)
    upstream = torch.ones(point.series, dtype=data.coef.dtype)

    def ours() -> Tensor:
        return polyfit.polynomial_loss(data.x, data.y, data.coef, loss=point.loss, per_series=True, basis=point.basis)

    def peer() -> Tensor:
        return peers.loss_of_each(peers.polynomial(data.x, data.coef, point.basis), data.y, point.loss).mean(-1)

    return Case(lambda: data.gradients(ours, upstream), lambda: data.gradients(peer, upstream))


def _each_step(point: Point) -> Case:
    """The loss of every sample, and the gradients for an incoming gradient."""
    data = Operands(point, is_differentiated=True)

    def ours() -> Tensor:
        return polyfit.polynomial_loss(
            data.x, data.y, data.coef, loss=point.loss, reduction="none", basis=point.basis, impl=point.impl
        )

    def peer() -> Tensor:
        return peers.loss_of_each(peers.polynomial(data.x, data.coef, point.basis), data.y, point.loss)

    return Case(lambda: data.gradients(ours, data.upstream), lambda: data.gradients(peer, data.upstream))


def _hessian_vector_product(point: Point) -> Case:
    """Backward twice: the Hessian of the loss in the coefficients, times a vector."""
    data = Operands(point, is_differentiated=True)

    def twice(loss: Callable[[], Tensor]) -> Results:
        (gradient,) = torch.autograd.grad(loss(), data.coef, create_graph=True)
        return torch.autograd.grad((gradient * data.direction).sum(), data.coef)

    ours, peer = _losses(point, data)
    return Case(lambda: twice(ours), lambda: twice(peer))


def _vmap(point: Point) -> Case:
    """The gradients at many coefficients on the same samples, by torch.func."""
    data = Operands(dataclasses.replace(point, series=1), is_differentiated=False)
    coefs = torch.randn((point.series, point.degree + 1), generator=torch.Generator().manual_seed(1)).to(data.x.dtype)

    def ours(coef: Tensor) -> Tensor:
        return polyfit.polynomial_loss(data.x, data.y, coef)

    def peer(coef: Tensor) -> Tensor:
        return peers.horner_loss(data.x, data.y, coef)

    return Case(
        lambda: (torch.vmap(torch.func.grad(ours))(coefs),),
        lambda: (torch.vmap(torch.func.grad(peer))(coefs),),
    )


def _layer_step(point: Point, ours: nn.Module, peer: nn.Module, n_out: int) -> Case:
    """A forward and a backward pass of a layer, with the gradients to its input and its parameters."""
    dtype, generator = getattr(torch, point.dtype), torch.Generator().manual_seed(2)
    x = torch.randn((point.n // WIDTH, WIDTH), generator=generator, dtype=dtype).requires_grad_()
    upstream = torch.randn((point.n // WIDTH, n_out), generator=generator, dtype=dtype)

    def step(layer: nn.Module) -> Call:
        leaves = [x, *layer.parameters()]

        def run() -> Results:
            for leaf in leaves:
                leaf.grad = None
            values = layer(x)
            values.backward(upstream)
            return (values, *(leaf.grad for leaf in leaves if leaf.grad is not None))

        return run

    return Case(step(ours), step(peer))


def _activation(point: Point) -> Case:
    """In powers of x beside Horner's rule; in Chebyshev polynomials, with tangents outside, beside the same."""
    dtype = getattr(torch, point.dtype)
    is_power = point.basis == "power"
    domain, outside = (None, "extend") if is_power else ((-4.0, 4.0), "linear")
    ours = Polynomial(
        point.degree, point.series, channel_dim=-1, basis=point.basis, domain=domain, outside=outside, dtype=dtype
    )
    with torch.no_grad():
        ours.coef.copy_(torch.randn(ours.coef.shape, generator=torch.Generator().manual_seed(1)))
    if is_power:
        return _layer_step(point, ours, peers.HornerLayer(ours.coef), WIDTH)
    assert domain is not None
    coef = ours.coef.detach().reshape(point.series, -1)
    return _layer_step(point, ours, peers.ChebyshevActivation(coef, domain), WIDTH)


def _kan(point: Point) -> Case:
    ours = PolynomialKAN(WIDTH, WIDTH, point.degree, dtype=getattr(torch, point.dtype))
    with torch.no_grad():
        ours.coef.copy_(torch.randn(ours.coef.shape, generator=torch.Generator().manual_seed(1)))
    return _layer_step(point, ours, peers.EinsumKAN(ours.coef, ours.bias), WIDTH)


MAKERS = {
    "step": _step,
    "loss": _loss,
    "values": _evaluation,
    "values-step": _evaluation_step,
    "series-step": _series_step,
    "each-step": _each_step,
    "hvp": _hessian_vector_product,
    "vmap": _vmap,
    "activation": _activation,
    "kan": _kan,
}


def make(point: Point) -> Case:
    """Ours and the peer at a point."""
    return MAKERS[point.form](point)
