"""All ways of plain series on a CPU against float64 autograd of the formula, also in pieces of few samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from oracle import polynomial_loss as plain_loss
from oracle import polyval as plain_polyval
from torch import Tensor

import polyfit
from bench import memory
from polyfit import bases, losses
from polyfit.backends.chunked import long_series, plain_rows, plain_values, shared
from polyfit.backends.chunked import plain_loss as plain_pass
from polyfit.backends.chunked.long import LongWorkspace
from polyfit.backends.chunked.long_series import LongSeries
from polyfit.backends.chunked.shared import SharedWorkspace
from polyfit.backends.chunked.short import SeriesWorkspace, Workspace
from polyfit.backends.results import Wants
from polyfit.formula import Model

F64 = torch.float64
DOMAIN = (-2.0, 3.0)
LOSSES: list[losses.Loss] = [
    *(kind.variants()[0] for kind in losses.LOSSES.values()),
    losses.SmoothL1(0.4),
    losses.Quantile(0.9),
    losses.BCEWithLogits(2.5),
    losses.PoissonNLL(log_input=False),
    losses.Cauchy(0.2),
]
# x, coef: without the axis of K. The last number is that of series in a piece, or of samples for one series.
SHAPES = {
    "few": ((50,), ()),
    "long": ((50,), ()),
    "long in pieces": ((53,), ()),
    "shared": ((50,), (6,)),
    "few series": ((6, 20), (6,)),
    "long series": ((6, 20), (6,)),
    "long series in pieces": ((7, 20), (7,)),
    "many": ((6, 5), (6,)),  # without rows: too few samples of a series
}
KINDS = {
    "few": Workspace,
    "long": LongWorkspace,
    "long in pieces": LongWorkspace,
    "shared": SharedWorkspace,
    "few series": SeriesWorkspace,
    "long series": LongSeries,
    "long series in pieces": LongSeries,
}


@pytest.fixture(params=KINDS)
def way(request, set_sizes: Callable[..., None]) -> str:
    name = request.param
    in_pieces = name.endswith("in pieces")
    longest = 64 if "series" in name else 7
    threads = torch.get_num_threads()
    size = (64 if "series" in name else 24) if in_pieces else 1 << 17
    set_sizes(longest_block=longest, short=0 if "long" in name else 1 << 15, samples_of_a_thread=-(-size // threads))
    return name


def _operands(way: str, loss: losses.Loss, degree: int = 3, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor, Tensor]:
    shape, of_coef = SHAPES[way]
    x = torch.rand(shape, dtype=dtype) * 5 - 2
    y = torch.rand((*of_coef, shape[-1]), dtype=dtype) * (1.0 if "bce" in loss.name else 3.0)
    coef = 0.3 * torch.randn((*of_coef, degree + 1), dtype=dtype)
    coef[..., 0] = 4.0  # rates are positive
    return x, y, coef


def _model(way: str, basis: str, loss: losses.Loss | None = None) -> Model:
    basis = "power" if "series" in way else basis
    return Model(basis, bases.affine_map(DOMAIN, bases.BASES[basis], F64), loss)


@pytest.mark.parametrize("basis", ["power", "chebyshev", "laguerre"])
@pytest.mark.parametrize("degree", [0, 1, 2, 6])
def test_values_and_their_gradients(way, degree, basis):
    x, y, coef = _operands(way, losses.MSE(), degree)
    model = _model(way, basis)
    kinds = {type(rows) for _, rows in plain_rows.pieces(x, coef, model)}
    assert kinds == {KINDS[way]}
    assert plain_rows.are_rows(x, coef, model.basis)
    x, coef = x.requires_grad_(), coef.requires_grad_()
    expected = plain_polyval(x, coef, DOMAIN, model.basis)
    to_x, to_coef = torch.autograd.grad(expected, (x, coef), y, materialize_grads=True)
    x, coef = x.detach(), coef.detach()
    torch.testing.assert_close(plain_values.evaluate(x, coef, model), expected.detach(), rtol=1e-12, atol=1e-11)
    wants = Wants(x=way != "shared", coef=True)
    found = plain_values.evaluate_backward(y, x, coef, model, wants)
    for mine, theirs in zip(found, (to_x if wants.x else None, to_coef), strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("weighted", [False, True, "with zeros"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_losses_and_their_gradients(way, loss, reduction, weighted):
    if weighted and way == "shared":  # a user's call then takes the general way, see below
        weighted = False
    x, y, coef = _operands(way, loss)
    weight = torch.rand(y.shape, dtype=F64) + 0.1 if weighted else None
    bad_x, bad_y = x, y
    if weighted == "with zeros":
        assert weight is not None
        is_out = torch.rand(y.shape) < 0.3
        weight[is_out] = 0.0
        bad_x, bad_y = x.masked_fill(is_out, math.nan), y.masked_fill(is_out, math.inf)
    leaves = [t.clone().requires_grad_() for t in (x, y, coef)] + (
        [] if weight is None else [weight.clone().requires_grad_()]
    )
    model = _model(way, "legendre", loss)
    of_weight = leaves[3] if weighted else None
    expected = plain_loss(
        leaves[0], leaves[1], leaves[2], of_weight, reduction, domain=DOMAIN, basis=model.basis, pointwise=loss.value
    )
    gradients = torch.autograd.grad(expected, leaves)
    wants = Wants(x=way != "shared", y=True, coef=True, weight=weighted is True)
    for wanted in (wants, Wants(coef=True), Wants()):
        value, found = plain_pass.loss(bad_x, bad_y, coef, weight, model, reduction, wanted)
        torch.testing.assert_close(value, expected.detach(), rtol=1e-11, atol=0)
        mine = (found.x, found.y, found.coef, found.weight)
        for ours, want, theirs in zip(mine, wanted, (*gradients, None)[:4], strict=True):
            assert (ours is None) == (not want)
            if ours is not None:
                assert theirs is not None
                scale = float(theirs.abs().max())
                torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11 * scale)


@pytest.mark.parametrize("loss", [losses.MSE(), losses.PoissonNLL()], ids=str)
def test_weighted_series_that_share_samples(loss):
    """Samples of weight zero differ from series to series."""
    x, y, coef = _operands("shared", loss)
    weight = torch.rand(y.shape, dtype=F64) * (torch.rand(y.shape) < 0.7)
    mine, wide = coef.clone().requires_grad_(), coef.clone().requires_grad_()
    bad_y = y.masked_fill(weight == 0.0, math.nan)
    found = polyfit.polynomial_loss(x, bad_y, mine, loss=loss, weight=weight, domain=DOMAIN)
    expected = plain_loss(x, y, wide, weight, "mean", domain=DOMAIN, pointwise=loss.value)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    ours, theirs = torch.autograd.grad(found, mine)[0], torch.autograd.grad(expected, wide)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_users_reach_every_way(way, monkeypatch):
    x, y, coef = _operands(way, losses.MSE())
    reached = []
    plain = plain_rows.pieces
    for module in (plain_pass, plain_values):
        monkeypatch.setattr(module, "pieces", lambda *a, **k: reached.append(1) or plain(*a, **k))
    coef.requires_grad_()
    loss = polyfit.polynomial_loss(x, y, coef)
    (first,) = torch.autograd.grad(loss, coef, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), coef)
    polyfit.polyval(x, coef).backward(y)
    assert len(reached) >= 2
    wide = coef.detach().clone().requires_grad_()
    (theirs,) = torch.autograd.grad(plain_loss(x, y, wide, None, "mean"), wide, create_graph=True)
    torch.testing.assert_close(first, theirs, rtol=1e-11, atol=1e-11)
    (theirs,) = torch.autograd.grad(theirs.square().sum(), wide)
    torch.testing.assert_close(second, theirs, rtol=1e-10, atol=1e-10)


# Series by the rows of numpy or of torch, whole or in pieces, and by `many`: the last have too few samples for rows.
SERIES = [name for name, (_, of_coef) in SHAPES.items() if of_coef]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("way", [*SERIES, "many"], indirect=True)
def test_a_loss_of_each_series(way, loss, reduction):
    x, y, coef = _operands(way, loss)
    wanted = ([] if way == "shared" else [x]) + [y, coef]
    of_losses = torch.rand(coef.shape[0], dtype=F64)
    found = []
    for call in (polyfit.polynomial_loss, plain_loss):
        leaves = [tensor.clone().requires_grad_() for tensor in wanted]
        samples = [x, *leaves] if way == "shared" else leaves
        kind = {"loss": loss} if call is polyfit.polynomial_loss else {"pointwise": loss.value}
        values = call(*samples, reduction=reduction, per_series=True, domain=DOMAIN, **kind)
        once = torch.autograd.grad(values, leaves, of_losses, retain_graph=True)
        first = torch.autograd.grad(values, leaves, of_losses, create_graph=True)
        (second,) = torch.autograd.grad(first[-1].square().sum(), leaves[-1], materialize_grads=True)
        found.append((values, *once, *first, second))
    for ours, theirs in zip(*found, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11 * float(theirs.detach().abs().max()))
    with torch.no_grad():
        plain = polyfit.polynomial_loss(x, y, coef, loss=loss, reduction=reduction, per_series=True, domain=DOMAIN)
    torch.testing.assert_close(plain, found[1][0].detach(), rtol=1e-11, atol=0)


def test_a_loss_of_each_series_passes_over_the_data_once(way, monkeypatch):
    x, y, coef = _operands(way, losses.MSE())
    calls = []
    plain = plain_rows.pieces
    monkeypatch.setattr(plain_pass, "pieces", lambda *a, **k: calls.append(1) or plain(*a, **k))
    coef.requires_grad_()
    polyfit.polynomial_loss(x, y, coef, per_series=True).sum().backward()
    assert len(calls) == 1


def test_weights_that_torch_negates_lazily(way):
    x, y, coef = _operands(way, losses.MSE())
    weight = torch.rand(y.shape, dtype=F64) + 0.1
    negated = torch.complex(torch.zeros_like(weight), -weight).conj().imag
    assert negated.is_neg()
    found = polyfit.polynomial_loss(x, y, coef, weight=negated)
    torch.testing.assert_close(found, polyfit.polynomial_loss(x, y, coef, weight=weight), rtol=0, atol=0)


def test_a_loss_does_not_depend_on_the_call_before():
    x, y, coef = torch.rand(100), torch.rand(100), torch.rand(6)
    found = set()
    for before in (coef, coef.clone().requires_grad_(), coef[:3]):
        polyfit.polynomial_loss(x, y, before)
        found.add(float(polyfit.polynomial_loss(x, y, coef)))
    assert len(found) == 1


def test_equal_terms_do_not_add_up_roundings():
    """Float32 sums of many equal terms: of one long series, of many, and of series that share x."""
    for x, coef in (
        (torch.full((300_000,), 0.7), torch.tensor([0.3, 0.4])),
        (torch.full((200, 2000), 0.7), torch.tensor([[0.3, 0.4]]).repeat(200, 1)),
        (torch.full((20_000,), 0.7), torch.tensor([[0.3, 0.4]]).repeat(10, 1)),
    ):
        y = torch.full((*coef.shape[:-1], x.shape[-1]), 0.1)
        assert shared.is_shared(x, coef) or coef.dim() == 1 or long_series.are_long(x, "power")
        coef.requires_grad_()
        loss = polyfit.polynomial_loss(x, y, coef)
        (found,) = torch.autograd.grad(loss, coef)
        one_x, one_y, wide = x.flatten()[0].double(), y.flatten()[0].double(), coef.detach().double()
        residual = wide[..., 0] + wide[..., 1] * one_x - one_y
        n_series = max(1, residual.numel())
        torch.testing.assert_close(loss.double(), residual.square().mean(), rtol=1e-6, atol=0)
        expected = torch.stack((2 * residual, 2 * residual * one_x), -1) / n_series
        torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize("loss", ["mse", "huber", "poisson_nll"])
def test_memory_is_rows_of_a_chunk(loss, set_sizes):
    set_sizes(samples_of_a_thread=-(-(1 << 14) // torch.get_num_threads()), workspace=0)
    for x, coef in (
        (torch.rand(1 << 18), torch.rand(6, requires_grad=True)),
        (torch.rand(1 << 12, 64), torch.rand(1 << 12, 6, requires_grad=True)),
    ):
        y = torch.rand(x.shape)

        def step(x: Tensor = x, y: Tensor = y, coef: Tensor = coef) -> None:
            polyfit.polynomial_loss(x, y, coef, loss=loss).backward()

        step()
        assert memory.peak(step) <= 4 * (10 * (1 << 14) + 8 * coef.numel()) + 20_000
