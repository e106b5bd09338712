"""Every loss: values, slopes and kinks against torch, in the one pass and by the formula."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import pytest
import torch
from cases import LOSSES
from oracle import polynomial_loss as plain_loss
from torch import Tensor

import polyfit
from polyfit import losses

F64 = torch.float64


def sample(name: str, n_samples: int = 400) -> tuple[Tensor, Tensor]:
    """Predictions and targets that suit the loss."""
    p, y = torch.randn(n_samples, dtype=F64) * 2, LOSSES[name].targets(torch.randn(n_samples, dtype=F64))
    return (p.exp() if LOSSES[name].positive else p), y


def slopes_by_autograd(function: Any, p: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    p, y = p.clone().requires_grad_(), y.clone().requires_grad_()
    return torch.autograd.grad(function(p, y).sum(), (p, y), allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_slopes_are_torchs(name):
    case = LOSSES[name]
    p, y = sample(name)
    oracle = case.torchs or case.oracle
    torch.testing.assert_close(case.loss.value(p, y), oracle(p, y), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(case.oracle(p, y), oracle(p, y), rtol=1e-13, atol=1e-13)
    expected = slopes_by_autograd(oracle, p, y)
    for ours in (case.loss.slopes(p, y), slopes_by_autograd(case.loss.value, p, y)):
        for mine, theirs in zip(ours, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in LOSSES if name.split()[0] not in {"bce_with_logits", "poisson_nll"}])
def test_at_a_kink_the_slope_is_that_of_autograd(name):
    case = LOSSES[name]
    corner = next((value for value in vars(case.loss).values()), 1.0)
    p = torch.tensor([0.0, corner, -corner], dtype=F64)
    y = torch.zeros(3, dtype=F64)
    expected = slopes_by_autograd(case.torchs or case.oracle, p, y)
    for ours in (case.loss.slopes(p, y), slopes_by_autograd(case.loss.value, p, y)):
        for mine, theirs in zip(ours, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    "name", ["mse", "l1", "huber", "smooth_l1", "log_cosh", "quantile", "bce_with_logits", "cauchy"]
)
def test_large_residuals_neither_overflow_nor_become_nan(name, dtype):
    sizes = [1e2, 1e4, 1e8, 1e18 if dtype == torch.float32 else 1e150]
    p = torch.tensor([sign * size for size in sizes for sign in (-1, 1)], dtype=dtype)
    for target in (0.0, 1.0):
        y = torch.full_like(p, target)
        value, (to_p, to_y) = LOSSES[name].loss.value(p, y), LOSSES[name].loss.slopes(p, y)
        assert value.isfinite().all()
        assert to_p.isfinite().all()
        assert to_y.isfinite().all()
        for mine, theirs in zip((to_p, to_y), slopes_by_autograd(LOSSES[name].loss.value, p, y), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


OF_RESIDUALS = [name for name in LOSSES if name.split()[0] not in {"bce_with_logits", "poisson_nll"}]


def results(loss: losses.Loss, p: Tensor, y: Tensor) -> list[Tensor]:
    """The value, and the slope to p by each of the ways that compute it."""
    return [
        loss.value(p, y), slopes_by_autograd(loss.value, p, y)[0], loss.slopes(p, y)[0], loss.slope_(p.clone(), y)
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", OF_RESIDUALS)
def test_residuals_that_are_not_finite(name, dtype):
    p = torch.tensor([math.nan, math.inf, -math.inf], dtype=dtype)
    value, *slopes = results(LOSSES[name].loss, p, torch.zeros_like(p))
    assert value.isnan().tolist() == [True, False, False]
    assert value[1:].isinf().all()
    far = torch.tensor([1e30, -1e30], dtype=dtype)
    limits = results(LOSSES[name].loss, far, torch.zeros_like(far))[2] if name != "mse" else torch.tensor([1, -1]) / 0
    for slope in slopes:
        assert slope[0].isnan()
        torch.testing.assert_close(slope[1:], limits.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-29)


@pytest.mark.parametrize(
    "loss", [*losses.kernel_variants().values(), losses.SmoothL1(0.25), losses.Huber(0.25)], ids=str
)
def test_curvatures_are_second_derivatives_of_the_value(loss):
    p = torch.tensor([0.0, 0.3, -1.7, 1.01, 40.0, -300.0], dtype=F64)
    p = p.abs() + 0.1 if loss.kernel[0] in {"poisson_nll", "poisson_nll_full"} else p
    y = torch.tensor([0.0, 0.8, 1.0, 0.2, 0.0, 1.0], dtype=F64)
    expected = torch.stack(
        [torch.autograd.functional.hessian(loss.value, (a, b))[0][0] for a, b in zip(p, y, strict=True)]  # pyright: ignore[reportArgumentType]
    )
    found = loss.curvature(p, y)
    assert found.dtype == F64
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-15)
    p.requires_grad_()
    slope, _ = loss.slopes(p, y)
    (by_slope,) = torch.autograd.grad(slope.sum() + 0.0 * p.sum(), p)
    torch.testing.assert_close(by_slope, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", [name for name in OF_RESIDUALS if name != "mse"])
def test_curvature_of_residuals_that_are_not_finite(name):
    loss = LOSSES[name].loss
    p = torch.tensor([math.nan, math.inf, -math.inf, 1e150], dtype=F64, requires_grad=True)
    (by_slope,) = torch.autograd.grad(loss.slopes(p, torch.zeros_like(p))[0].sum(), p)
    for found in (loss.curvature(p.detach(), torch.zeros_like(p)), by_slope):
        assert found[0].isnan()
        assert found[3].abs() < 1e-150


def test_log_cosh_at_the_largest_numbers():
    p = torch.tensor([1e308, -1e308, 100.0, -100.0], dtype=F64, requires_grad=True)
    value = losses.LogCosh().value(p, torch.zeros_like(p))
    torch.testing.assert_close(value, p.abs() - math.log(2), rtol=1e-15, atol=0)
    (slope,) = torch.autograd.grad(value.sum(), p, create_graph=True)
    assert slope.tolist() == [1.0, -1.0, 1.0, -1.0]
    assert torch.autograd.grad(slope.sum(), p)[0].abs().max() < 1e-80


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float32, 1e20), (torch.float32, 1e-40), (torch.float32, 1e-50), (torch.float32, 1e45),
     (torch.float32, 1e-15), (F64, 1e160), (F64, 1e-170), (F64, 1.0), (torch.float32, 1.0)],
)  # fmt: skip
def test_scales_whose_square_is_not_a_number_of_the_dtype(dtype, scale):
    info = torch.finfo(dtype)
    r = [0.0, 1e-30, -1e-7, 0.3, -1.0, 5e4, 1e9, -1e15]
    p = torch.tensor(r, dtype=dtype)
    value, *slopes = results(losses.Cauchy(scale), p, torch.zeros_like(p))
    with mpmath.workdps(60):
        exact = [mpmath.mpf(scale) ** 2 / 2 * mpmath.log1p((mpmath.mpf(x) / scale) ** 2) for x in p.tolist()]
        slope = [mpmath.mpf(x) / (1 + (mpmath.mpf(x) / scale) ** 2) for x in p.tolist()]
    for found, expected in ((value, exact), *((slope_of, slope) for slope_of in slopes)):
        truth = torch.tensor([float(number) for number in expected], dtype=F64)
        torch.testing.assert_close(found.double(), truth, rtol=8 * info.eps, atol=info.tiny)


@pytest.mark.parametrize(
    "loss", [losses.SmoothL1(1e-40), losses.SmoothL1(1e-60), losses.Huber(1e-60), losses.Huber(1e60)]
)
def test_parameters_beyond_float32(loss):
    p = torch.tensor([0.0, 1e-20, -0.5, 2.0, -1e10])
    value, *slopes = results(loss, p, torch.zeros_like(p))
    exact = loss.value(p.double(), torch.zeros(5, dtype=F64))
    exact_slope = (
        torch.sign(p) if isinstance(loss, losses.SmoothL1) else loss.slopes(p.double(), torch.zeros(5, dtype=F64))[0]
    )
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=1e-37 * 1e10)
    for slope in slopes:
        torch.testing.assert_close(slope.double(), exact_slope.double(), rtol=1e-6, atol=1e-37)


def test_losses_are_final():
    with pytest.raises(TypeError, match=r"Mine is a subclass of a loss of polyfit; these are final.*pass a function"):

        class Mine(losses.Huber):
            pass


def test_small_residuals_keep_their_digits():
    r = torch.tensor([1e-12, -1e-9, 1e-6, -1e-3, 0.49, 0.51], dtype=F64)
    zero = torch.zeros_like(r)
    series = r**2 / 2 - r**4 / 12 + r**6 / 45 - 17 * r**8 / 2520
    torch.testing.assert_close(losses.LogCosh().value(r, zero)[:4], series[:4], rtol=1e-14, atol=0)
    exact = torch.tensor([math.log(math.cosh(value)) for value in r.tolist()], dtype=F64)
    torch.testing.assert_close(losses.LogCosh().value(r, zero)[4:], exact[4:], rtol=1e-14, atol=0)
    tiny = losses.Cauchy().value(r, zero)
    torch.testing.assert_close(tiny[:3], r[:3] ** 2 / 2, rtol=1e-11, atol=0)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("shared", ["x", "y"])
@pytest.mark.parametrize("name", LOSSES)
def test_one_pass(name, shared, chunked, request):
    if chunked:
        request.getfixturevalue("small_chunks")
    case = LOSSES[name]
    x = torch.rand((23,) if shared == "x" else (3, 23), dtype=F64) * 2 - 1
    y = case.targets(torch.randn((23,) if shared == "y" else (3, 23), dtype=F64))
    weight = torch.rand(3, 23, dtype=F64) + 0.1
    coef = torch.randn(3, 4, dtype=F64) * 0.1
    coef[:, 0] += 2.0 if case.positive else 0.0
    for tensor in (x, y, coef):
        tensor.requires_grad_()
    for options in (
        {"weight": weight},
        {"per_series": True},
        {"reduction": "sum", "weight": weight},
        {"reduction": "none"},
    ):
        ours = polyfit.polynomial_loss(x, y, coef, loss=case.loss, **options)  # pyright: ignore[reportArgumentType]
        plain = plain_loss(x, y, coef, pointwise=case.oracle, **options)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
        upstream = torch.linspace(0.5, 1.5, plain.numel(), dtype=F64).view(plain.shape)
        results = [torch.autograd.grad(value, (x, y, coef), upstream, allow_unused=True) for value in (ours, plain)]
        for mine, theirs in zip(*results, strict=True):
            assert mine is not None
            torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck_to_second_order_away_from_kinks(name):
    case = LOSSES[name]
    x = torch.linspace(-1, 1, 4, dtype=F64)
    coef = torch.tensor([2.16, 0.3, -0.2], dtype=F64)
    y = case.targets(torch.tensor([0.35, -1.4, 0.7, 1.9], dtype=F64))
    for tensor in (x, y, coef):
        tensor.requires_grad_()

    def loss(x: Tensor, y: Tensor, coef: Tensor) -> Tensor:
        return polyfit.polynomial_loss(x, y, coef, loss=case.loss)

    assert torch.autograd.gradcheck(loss, (x, y, coef))
    assert torch.autograd.gradgradcheck(loss, (x, y, coef))


def test_names_stand_for_the_defaults():
    x, y, coef = torch.rand(20), torch.rand(20), torch.rand(3)
    for name in losses.LOSSES:
        by_name = polyfit.polynomial_loss(x, y, coef, loss=name)
        assert torch.equal(by_name, polyfit.polynomial_loss(x, y, coef, loss=losses.LOSSES[name]()))


@pytest.mark.parametrize("name", LOSSES)
def test_what_a_kernel_is_told_says_which_loss_it_is(name):
    loss = LOSSES[name].loss
    again = losses.from_kernel(*loss.kernel)
    p, y = sample(name)
    assert torch.equal(again.value(p, y), loss.value(p, y))
    assert all(torch.equal(a, b) for a, b in zip(again.slopes(p, y), loss.slopes(p, y), strict=True))


def test_a_function_of_the_users_own():
    def quartic(p: Tensor, y: Tensor) -> Tensor:
        return (p - y) ** 4

    x, y = torch.rand(3, 20, dtype=F64), torch.rand(20, dtype=F64)
    coef = torch.randn(3, 3, dtype=F64, requires_grad=True)
    for options in ({}, {"per_series": True}, {"reduction": "none"}, {"weight": torch.rand(20, dtype=F64)}):
        ours = polyfit.polynomial_loss(x, y, coef, loss=quartic, **options)  # pyright: ignore[reportArgumentType]
        plain = plain_loss(x, y, coef, pointwise=quartic, **options)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(ours, plain)
        results = [torch.autograd.grad(value.sum(), coef)[0] for value in (ours, plain)]
        torch.testing.assert_close(*results)
    with pytest.raises(TypeError, match="a loss of your own cannot be trained"):
        polyfit.train(x[0], y, coef[0], optimizer=polyfit.optimizers.SGD(0.1), epochs=1, loss=quartic)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("loss", [losses.Huber(0.5), losses.LogCosh(), losses.Quantile(0.7)])
def test_training(loss):
    x = torch.linspace(-1, 1, 60, dtype=F64)
    y, start = torch.exp(x), torch.zeros(3, dtype=F64)
    ours = polyfit.train(x, y, start, optimizer=polyfit.optimizers.SGD(0.1), epochs=50, loss=loss)
    coef = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([coef], lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        plain_loss(x, y, coef, pointwise=loss.value).backward()
        optimizer.step()
    torch.testing.assert_close(ours.coef, coef.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: losses.Huber(0.0), ValueError, "delta=0.0 is out of range"),
        (lambda: losses.Huber("1"), TypeError, "delta='1' is not a number"),  # pyright: ignore[reportArgumentType]
        (lambda: losses.SmoothL1(-1.0), ValueError, "beta=-1.0 is out of range"),
        (lambda: losses.Quantile(1.0), ValueError, "above 0 and below 1"),
        (lambda: losses.Quantile(math.nan), ValueError, "q=nan is out of range"),
        (lambda: losses.Cauchy(math.inf), ValueError, "scale=inf is out of range"),
        (lambda: losses.PoissonNLL(eps=0.0), ValueError, "eps=0.0 is out of range"),
        (lambda: losses.BCEWithLogits(-1.0), ValueError, "pos_weight=-1.0 is out of range"),
    ],
)
def test_bad_parameters_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize("loss", [*losses.kernel_variants().values(), losses.Huber(0.25)], ids=str)
def test_saved_objects_load_with_weights_only(loss, tmp_path):
    torch.save({"loss": loss}, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == {"loss": loss}


@pytest.mark.parametrize(
    "loss", [losses.MSE(), losses.BCEWithLogits(), losses.BCEWithLogits(3.5), losses.PoissonNLL()], ids=str
)
def test_a_prediction_on_the_scale_of_y_has_the_smallest_loss(loss):
    p = torch.linspace(-3, 3, 13, dtype=torch.float64, requires_grad=True)
    y = loss.to_scale_of_y(p.detach())
    (slope,) = torch.autograd.grad(loss.value(p, y).sum(), p)
    assert slope.abs().max() < 1e-14  # roundings of terms up to exp(3)


def value_and_slope(loss: losses.Loss, p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Those of `slope_and_loss_`."""
    first, slope = p.clone(), torch.empty_like(p)
    loss.slope_and_loss_(first, y, slope)
    return (first * slope if loss.is_product else first), slope


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", LOSSES)
def test_slope_and_loss_in_one_have_the_digits_of_both(name, dtype):
    case, (p, y) = LOSSES[name], sample(name)
    eps = torch.finfo(dtype).eps
    if name in OF_RESIDUALS:
        p = torch.cat((p, y[:60] + torch.logspace(-12, 3, 60, dtype=F64)))
        y = torch.cat((y, y[:60]))
    p, y = p.to(dtype), y.to(dtype)
    value, slope = value_and_slope(case.loss, p, y)
    # The residual is rounded before anything else.
    wide_p, wide_y = p.double(), y.double()
    if name in OF_RESIDUALS:
        wide_p, wide_y = (p - y).double(), torch.zeros_like(wide_p)
    atol = 0.0 if name in OF_RESIDUALS else 4 * eps * float(1 + (wide_p.abs() * (1 + wide_y.abs())).max())
    torch.testing.assert_close(value.double(), case.loss.value(wide_p, wide_y), rtol=8 * eps, atol=atol)
    torch.testing.assert_close(slope.double(), case.loss.slopes(wide_p, wide_y)[0], rtol=8 * eps, atol=max(atol, eps))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", OF_RESIDUALS)
def test_slope_and_loss_in_one_of_residuals_that_are_not_finite(name, dtype):
    p = torch.tensor([math.nan, math.inf, -math.inf, 0.0, 1e30, -1e30], dtype=dtype)
    loss = LOSSES[name].loss
    value, slope = value_and_slope(loss, p, torch.zeros_like(p))
    torch.testing.assert_close(value, loss.value(p, torch.zeros_like(p)), rtol=1e-5, atol=0, equal_nan=True)
    expected = loss.slope_(p.clone(), torch.zeros_like(p))
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-29, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("q", [1e-6, 0.01, 0.5, 0.99, 1 - 1e-6])
def test_quantiles_near_the_ends_keep_their_digits(q, dtype):
    p, y = torch.tensor([2.0, -3.0, 0.0], dtype=dtype), torch.zeros(3, dtype=dtype)
    value, slope = value_and_slope(losses.Quantile(q), p, y)
    expected = torch.tensor([1.0 - q, -q, 0.5 - q], dtype=F64)
    rtol = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(slope.double(), expected, rtol=rtol, atol=0)
    torch.testing.assert_close(value.double(), expected * p.double(), rtol=rtol, atol=0)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_cross_entropy_of_large_logits_keeps_its_digits(target):
    p = torch.tensor([-50.0, -20.0, -1.0, 0.0, 1.0, 20.0, 50.0])
    y = torch.full_like(p, target)
    for loss in (losses.BCEWithLogits(), losses.BCEWithLogits(2.0)):
        value, slope = value_and_slope(loss, p, y)
        torch.testing.assert_close(value.double(), loss.value(p.double(), y.double()), rtol=1e-6, atol=0)
        torch.testing.assert_close(slope.double(), loss.slopes(p.double(), y.double())[0], rtol=1e-6, atol=0)


HOSTILE = [
    *(kind.variants()[0] for kind in losses.LOSSES.values()),
    losses.Huber(1e-30), losses.Huber(1e30), losses.SmoothL1(0.0), losses.SmoothL1(1e-20), losses.SmoothL1(1e20),
    losses.Quantile(0.999), losses.BCEWithLogits(30.0), losses.PoissonNLL(log_input=False),
    losses.PoissonNLL(full=True), losses.Cauchy(1e-20), losses.Cauchy(1e20), losses.Cauchy(0.1),
]  # fmt: skip


@pytest.mark.parametrize("loss", HOSTILE, ids=str)
def test_the_loss_alone_and_of_each_sample(loss):
    """In place, and as a user gets it, without and with gradients: the digits are those of float64."""
    sizes = [0.0, 1e-30, 1e-12, 1e-3, 0.7, 1.0, 3.0, 40.0]
    if not isinstance(loss, losses.PoissonNLL):
        sizes += [1e6, 1e15]
    p = torch.tensor([size * sign for size in sizes for sign in (1.0, -1.0)])
    p = p.abs() + 0.25 if isinstance(loss, losses.PoissonNLL) and not loss.log_input else p
    y = torch.zeros_like(p)
    exact, slopes = loss.value(p.double(), y.double()), loss.slopes(p.double(), y.double())[0]
    in_place = p.clone()
    loss.loss_(in_place, y)
    leaf = p.clone().requires_grad_()
    coef = torch.tensor([0.0, 1.0])
    plain = polyfit.polynomial_loss(p, y, coef, loss=loss, reduction="none")
    each = polyfit.polynomial_loss(leaf, y, coef, loss=loss, reduction="none")
    total = polyfit.polynomial_loss(p, y, coef, loss=loss, reduction="sum")
    each.sum().backward()
    for found in (in_place, plain, each.detach()):
        torch.testing.assert_close(found.double(), exact, rtol=2e-6, atol=1e-36)
    torch.testing.assert_close(total.double(), exact.sum(), rtol=2e-6, atol=1e-36)
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad.double(), slopes, rtol=2e-6, atol=1e-36)


@pytest.mark.parametrize("q", [1e-6, 0.999999])
def test_slopes_of_extreme_quantiles_have_their_digits(q):
    loss = losses.Quantile(q)
    p = torch.tensor([1.0, -1.0])
    expected = torch.tensor([1.0 - q, -q], dtype=F64)
    for slope in (
        loss.slopes(p, torch.zeros(2))[0],
        -loss.slopes(p, torch.zeros(2))[1],
        loss.slope_(p.clone(), 0.0 * p),
    ):
        torch.testing.assert_close(slope.double(), expected, rtol=2e-7, atol=0)
