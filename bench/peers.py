"""What a user could write instead: value and gradients of the mean squared error, by eager autograd."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from polyfit.bases import BASES
from polyfit.optimizers import SGD, Adam

Gradient = tuple[Tensor, Tensor]


def formula(x: Tensor, y: Tensor, coef: Tensor) -> Gradient:
    """The tutorial's ``a + b*x + c*x**2 + ...``, a parameter for each coefficient."""
    parameters = [value.clone().requires_grad_() for value in coef]
    p = parameters[0] + parameters[1] * x
    for power, parameter in enumerate(parameters[2:], start=2):
        p = p + parameter * x**power
    loss = (p - y).pow(2).mean()
    loss.backward()
    return loss.detach(), torch.stack([parameter.grad for parameter in parameters if parameter.grad is not None])


def recurrence(x: Tensor, y: Tensor, coef: Tensor, basis: str) -> Gradient:
    """The basis's three-term recurrence as one writes it down, without what is zero; a parameter a coefficient."""
    parameters = [value.clone().requires_grad_() for value in coef]
    p = parameters[0]
    for parameter, term in zip(parameters[1:], terms(x, basis, len(coef) - 1), strict=True):
        p = p + parameter * term
    loss = (p - y).pow(2).mean()
    loss.backward()
    return loss.detach(), torch.stack([parameter.grad for parameter in parameters if parameter.grad is not None])


def terms(x: Tensor, basis: str, degree: int) -> list[Tensor]:
    """P_1(x) .. P_degree(x) of a basis, without what is zero in its recurrence."""
    found: list[Tensor] = []
    for k, (a, b, c) in enumerate(BASES[basis].steps(degree)):
        slope = (x if a == 1 else a * x) + b if b else x if a == 1 else a * x
        term = slope * found[-1] if found else slope
        if c:
            term = term - c * (found[-2] if k > 1 else 1.0)
        found.append(term)
    return found


def horner_loss(x: Tensor, y: Tensor, coef: Tensor) -> Tensor:
    """Horner's rule on one tensor of coefficients."""
    p = coef[-1]
    for k in range(len(coef) - 2, -1, -1):
        p = p * x + coef[k]
    return ((p - y) ** 2).mean()


def horner(x: Tensor, y: Tensor, coef: Tensor) -> Gradient:
    """Value and gradient of `horner_loss`."""
    coef = coef.detach().requires_grad_()
    loss = horner_loss(x, y, coef)
    loss.backward()
    assert coef.grad is not None
    return loss.detach(), coef.grad


def horner_values(x: Tensor, coef: Tensor) -> Tensor:
    """Values by Horner's rule."""
    p = coef[-1].expand_as(x)  # no pass over memory
    for k in range(len(coef) - 2, -1, -1):
        p = p * x + coef[k]
    return p


def horner_polyval(x: Tensor, coef: Tensor, grad: Tensor) -> Gradient:
    """Values and the gradient to coef, by Horner's rule and autograd."""
    coef = coef.detach().requires_grad_()
    p = horner_values(x, coef)
    p.backward(grad)
    assert coef.grad is not None
    return p.detach(), coef.grad


def horner_of_rows(x: Tensor, y: Tensor, coef: Tensor) -> Tensor:
    """Sum of the squared errors of all series (S, N), each with its coefficients (S, p)."""
    p = coef[:, -1:]
    for k in range(coef.shape[1] - 2, -1, -1):
        p = p * x + coef[:, k : k + 1]
    return ((p - y) ** 2).sum()


def power_sums(x: Tensor, y: Tensor, degree: int) -> Tensor:
    """Sums of x^k for k = 0 .. 2 degree, of y x^k for k = 0 .. degree, and of y^2: the normal equations, in float32."""
    power, sums = torch.ones_like(x), [(y * y).sum()]
    for k in range(2 * degree + 1):
        sums.append(power.sum())
        if k <= degree:
            sums.append((power * y).sum())
        power = power * x
    return torch.stack(sums)


# --- loops of training: the sum of the losses, and rules of torch.optim ---

_LOSSES = {"mse": torch.nn.functional.mse_loss, "huber": torch.nn.functional.huber_loss}


def _total(x: Tensor, y: Tensor, coef: Tensor, loss: str) -> Tensor:
    p = coef[-1]
    for k in range(len(coef) - 2, -1, -1):
        p = p * x + coef[k]
    return _LOSSES[loss](p, y, reduction="sum")


def _optimizer(rule: SGD | Adam, coef: Tensor, **options: bool) -> torch.optim.Optimizer:
    if isinstance(rule, SGD):
        return torch.optim.SGD([coef], lr=float(rule.lr))  # pyright: ignore[reportArgumentType]
    return torch.optim.Adam([coef], lr=float(rule.lr), **options)  # pyright: ignore[reportArgumentType]


def train_eagerly(x: Tensor, y: Tensor, start: Tensor, rule: SGD | Adam, loss: str, epochs: int) -> Tensor:
    """Horner's rule on one tensor of coefficients, autograd, and torch.optim."""
    coef = start.clone().requires_grad_()
    optimizer = _optimizer(rule, coef)
    for _ in range(epochs):
        optimizer.zero_grad()
        _total(x, y, coef, loss).backward()
        optimizer.step()
    return coef.detach()


def train_rows_eagerly(x: Tensor, y: Tensor, start: Tensor, rule: SGD | Adam, epochs: int) -> Tensor:
    """Huber's loss of many series (S, N), summed over them: their coefficients (S, p) train side by side."""
    coef = start.clone().requires_grad_()
    optimizer = _optimizer(rule, coef)
    for _ in range(epochs):
        optimizer.zero_grad()
        p = coef[:, -1:]
        for k in range(coef.shape[1] - 2, -1, -1):
            p = p * x + coef[:, k : k + 1]
        (torch.nn.functional.huber_loss(p, y, reduction="sum") / x.shape[1]).backward()
        optimizer.step()
    return coef.detach()


@torch.compile
def _compiled_sgd(x: Tensor, y: Tensor, coef: Tensor, lr: float, loss: str) -> Tensor:
    return coef - lr * torch.func.grad(lambda coef: _total(x, y, coef, loss))(coef)


@torch.compile
def _compiled_adam(
    x: Tensor, y: Tensor, coef: Tensor, m: Tensor, v: Tensor, step: Tensor, lr: float, loss: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradient = torch.func.grad(lambda coef: _total(x, y, coef, loss))(coef)
    step = step + 1
    m = m + 0.1 * (gradient - m)
    v = 0.999 * v + 0.001 * gradient * gradient
    size = v.sqrt() / (1.0 - 0.999**step).sqrt() + 1e-8
    return coef - (lr / (1.0 - 0.9**step)) * (m / size), m, v, step


def train_compiled(x: Tensor, y: Tensor, start: Tensor, rule: SGD | Adam, loss: str, epochs: int) -> Tensor:
    """Loss, gradient and update of a step in one function, compiled."""
    coef, lr = start, float(rule.lr)  # pyright: ignore[reportArgumentType]
    if isinstance(rule, SGD):
        for _ in range(epochs):
            coef = _compiled_sgd(x, y, coef, lr, loss)
        return coef
    m, v, step = torch.zeros_like(coef), torch.zeros_like(coef), coef.new_zeros(())
    for _ in range(epochs):
        coef, m, v, step = _compiled_adam(x, y, coef, m, v, step, lr, loss)
    return coef


def train_graphed(x: Tensor, y: Tensor, start: Tensor, rule: SGD | Adam, loss: str, epochs: int) -> Tensor:
    """What `train_eagerly` launches in an epoch, captured as a CUDA graph and replayed."""
    coef = start.clone().requires_grad_()
    optimizer = _optimizer(rule, coef, capturable=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        _total(x, y, coef, loss).backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(epochs - 3):  # the capture itself makes none
        graph.replay()
    return coef.detach()


def kan_by_einsum(x: Tensor, coef: Tensor, bias: Tensor) -> Tensor:
    """The KAN layer in Chebyshev polynomials as public ones have it: all T_k(tanh x) in memory, (B, in, degree)."""
    t = torch.tanh(x)
    terms = [torch.ones_like(t), t]
    for _ in range(coef.shape[0] - 1):
        terms.append(2.0 * t * terms[-1] - terms[-2])
    return torch.einsum("bik,kio->bo", torch.stack(terms[1:], -1), coef) + bias


# --- activations ---


class HornerActivation(torch.nn.Module):
    """A polynomial in powers of x by Horner's rule, for one polynomial or one a channel of axis 1; coef (C, p)."""

    def __init__(self, coef: Tensor) -> None:
        super().__init__()
        self.coef = torch.nn.ParameterList([torch.nn.Parameter(column.clone()) for column in coef.unbind(1)])

    def forward(self, x: Tensor) -> Tensor:
        """p(x)."""
        columns = [column.view(-1, *(1,) * (x.dim() - 2)) for column in self.coef]
        p = columns[-1]
        for column in columns[-2::-1]:
            p = p * x + column
        return p


class ChebyshevActivation(torch.nn.Module):
    """The function of polyfit.nn.Polynomial with outside="linear", as one writes it down; coef (C, p)."""

    def __init__(self, coef: Tensor, domain: tuple[float, float]) -> None:
        super().__init__()
        self.coef = torch.nn.Parameter(coef.clone())
        self.lo, self.hi = domain

    def forward(self, x: Tensor) -> Tensor:
        """The series in the domain, and its tangents at the ends."""
        columns = [column.view(-1, *(1,) * (x.dim() - 2)) for column in self.coef.unbind(1)]
        t = 2.0 * (x - self.lo) / (self.hi - self.lo) - 1.0
        inside = t.clamp(-1.0, 1.0)
        terms = [torch.ones_like(t), inside]
        for _ in columns[2:]:
            terms.append(2.0 * inside * terms[-1] - terms[-2])
        value = at_hi = at_lo = 0.0
        for k, (column, term) in enumerate(zip(columns, terms, strict=False)):
            value = value + column * term
            at_hi, at_lo = at_hi + k * k * column, at_lo + (-1.0) ** (k + 1) * k * k * column
        value = value + at_hi * torch.relu(t - 1.0) - at_lo * torch.relu(-1.0 - t)
        assert isinstance(value, Tensor)
        return value


# --- any basis, any loss: the peers of bench.map ---


def polynomial(x: Tensor, coef: Tensor, basis: str = "power") -> Tensor:
    """Values on one tensor of coefficients, (p,), or (S, p) for many series: Horner's rule, or the recurrence."""
    columns = [coef[k] if coef.dim() == 1 else coef[:, k : k + 1] for k in range(coef.shape[-1])]
    if len(columns) == 1:
        return columns[0].expand(torch.broadcast_shapes(columns[0].shape, x.shape))
    if basis == "power":
        p = columns[-1]
        for column in columns[-2::-1]:
            p = p * x + column
        return p
    p = columns[0]
    for column, term in zip(columns[1:], terms(x, basis, len(columns) - 1), strict=True):
        p = p + column * term
    return p


def pseudo_huber(p: Tensor, y: Tensor) -> Tensor:
    """A loss of a user's own, of each sample."""
    return torch.sqrt(1.0 + (p - y) ** 2) - 1.0


def _log_cosh(p: Tensor, y: Tensor) -> Tensor:
    return torch.log(torch.cosh(p - y))


def _pinball(p: Tensor, y: Tensor) -> Tensor:
    short = y - p
    return torch.maximum(0.5 * short, -0.5 * short)


def _cauchy(p: Tensor, y: Tensor) -> Tensor:
    return 0.5 * torch.log1p((p - y) ** 2)


_OF_TORCH: dict[str, Callable[..., Tensor]] = {
    "mse": functional.mse_loss,
    "l1": functional.l1_loss,
    "huber": functional.huber_loss,
    "smooth_l1": functional.smooth_l1_loss,
    "bce_with_logits": functional.binary_cross_entropy_with_logits,
    "poisson_nll": functional.poisson_nll_loss,
}
_BY_HAND = {"log_cosh": _log_cosh, "quantile": _pinball, "cauchy": _cauchy, "own": pseudo_huber}


def mean_loss(p: Tensor, y: Tensor, loss: str, weight: Tensor | None = None) -> Tensor:
    """The mean of a loss, or its weighted mean: torch's own function where torch has the loss."""
    if weight is None:
        return _OF_TORCH[loss](p, y) if loss in _OF_TORCH else _BY_HAND[loss](p, y).mean()
    return (weight * loss_of_each(p, y, loss)).sum() / weight.sum()


def loss_of_each(p: Tensor, y: Tensor, loss: str) -> Tensor:
    """The loss of every sample."""
    return _OF_TORCH[loss](p, y, reduction="none") if loss in _OF_TORCH else _BY_HAND[loss](p, y)


class HornerLayer(torch.nn.Module):
    """A polynomial in powers of x by Horner's rule: coef (p,) for one, (C, p) for one a channel of the last axis."""

    def __init__(self, coef: Tensor) -> None:
        super().__init__()
        self.coef = torch.nn.Parameter(coef.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """p(x)."""
        p = self.coef[..., -1]
        for k in range(self.coef.shape[-1] - 2, -1, -1):
            p = p * x + self.coef[..., k]
        return p


class EinsumKAN(torch.nn.Module):
    """The KAN layer as `kan_by_einsum`; coef (degree, in, out), bias (out,)."""

    def __init__(self, coef: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.coef = torch.nn.Parameter(coef.detach().clone())
        self.bias = torch.nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, out)."""
        return kan_by_einsum(x, self.coef, self.bias)
