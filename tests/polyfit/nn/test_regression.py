"""Polynomial regression as a model, and the criterion: losses, fits, and what is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import oracle
import pytest
import torch
from torch import Tensor, nn

import polyfit
from polyfit import losses
from polyfit.nn import PolynomialLoss, PolynomialRegression

F64 = torch.float64
DOMAIN = (-2.0, 3.0)


def data(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x, y, weight = (torch.rand(shape, dtype=F64, generator=generator) for _ in range(3))
    return 5 * x - 2, 2 * y - 1, weight


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("series", [None, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_values_losses_and_gradients(reduction, series, weighted):
    model = PolynomialRegression(4, num_series=series, basis="legendre", domain=DOMAIN, reduction=reduction, dtype=F64)
    with torch.no_grad():
        model.coef.normal_()
    x, y, weight = data(50) if series is None else data(series, 50)
    coef = model.coef.detach().clone().requires_grad_()
    torch.testing.assert_close(model(x), oracle.polyval(x, coef, DOMAIN, "legendre"), rtol=1e-12, atol=1e-12)
    loss = model.loss(x, y, weight if weighted else None)
    expected = oracle.polynomial_loss(
        x, y, coef, weight if weighted else None, reduction, domain=DOMAIN, basis="legendre"
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert torch.equal(loss, model(x, y, weight if weighted else None))
    found, right = torch.autograd.grad(loss, model.coef)[0], torch.autograd.grad(expected, coef)[0]
    torch.testing.assert_close(found, right, rtol=1e-11, atol=1e-12)


def test_the_loop_of_the_tutorial():
    """The model and torch's criterion of its values give the same path as the fused loss."""
    x = torch.linspace(-3, 3, 200, dtype=F64)
    y = (x + 0.5).sin()  # a gradient that is 0 by symmetry is rounding, which Adam divides by itself
    paths = []
    for fused in (False, True):
        model = PolynomialRegression(5, basis="chebyshev", domain=(-3, 3), dtype=F64)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        path = []
        for _ in range(50):
            optimizer.zero_grad()
            loss = model.loss(x, y) if fused else nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            path.append(loss.item())
        paths.append(torch.tensor(path))
    torch.testing.assert_close(*paths, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("basis", "domain"), [("power", None), ("chebyshev", (-2, 3)), ("laguerre", (0, 1))])
@pytest.mark.parametrize("series", [None, 2])
def test_reset_from_fit(basis, domain, series):
    x, y, _ = data(60)
    fit = polyfit.fit(x, y, 3)
    model = PolynomialRegression(5, num_series=series, basis=basis, domain=domain, dtype=F64)
    model.reset_from_fit(fit)
    torch.testing.assert_close(model(x), fit(x).expand(model(x).shape), rtol=1e-11, atol=1e-11)
    assert not bool(model.coef[..., 4:].any())
    narrow = PolynomialRegression(3, basis=basis, domain=domain)
    narrow.reset_from_fit(fit)
    torch.testing.assert_close(narrow(x.float()).double(), fit(x), rtol=1e-5, atol=1e-5)


def test_a_model_that_begins_at_the_optimum_has_no_gradient():
    x, y, weight = data(60)
    model = PolynomialRegression(4, basis="chebyshev", domain=DOMAIN, dtype=F64)
    model.reset_from_fit(polyfit.fit(x, y, 4, weight=weight))
    model.loss(x, y, weight).backward()
    assert model.coef.grad is not None
    assert float(model.coef.grad.abs().max()) < 1e-14


@pytest.mark.parametrize("series", [None, 2])
def test_to_fit(series):
    x, y, weight = data(60)
    model = PolynomialRegression(4, num_series=series, basis="hermite", domain=DOMAIN, dtype=F64)
    with torch.no_grad():
        model.coef.normal_()
    index = None if series is None else 1
    fit = model.to_fit(x, y, weight, series=index)
    coef = model.coef.detach() if index is None else model.coef.detach()[index]
    torch.testing.assert_close(fit.coef, coef, rtol=1e-15, atol=0)
    residuals = y - oracle.polyval(x, coef, DOMAIN, "hermite")
    assert fit.rss == pytest.approx(float((weight * residuals**2).sum()), rel=1e-12)
    assert (fit.rank, fit.degrees_of_freedom, fit.basis, fit.domain) == (0, 60, "hermite", DOMAIN)
    assert not bool(fit.std_err.any())
    torch.testing.assert_close(fit(x), oracle.polyval(x, coef, DOMAIN, "hermite"), rtol=1e-11, atol=1e-11)


def test_what_is_refused():
    x, y, weight = data(20)
    model = PolynomialRegression(2, dtype=F64)
    with pytest.raises(ValueError, match="fit has degree 3 and the model 2; fit that degree, or make"):
        model.reset_from_fit(polyfit.fit(x, y, 3))
    with pytest.raises(TypeError, match=r"fit is Tensor; pass what polyfit\.fit returns"):
        model.reset_from_fit(x)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="weight is of a loss, and y is not given"):
        model(x, weight=weight)
    with pytest.raises(ValueError, match="series=0 is given, and the model has one polynomial"):
        model.to_fit(x, y, series=0)
    many = PolynomialRegression(2, num_series=3, dtype=F64)
    with pytest.raises(ValueError, match="the model has 3 series; pass series="):
        many.to_fit(x, y)
    with pytest.raises(ValueError, match="series=3 is too large; pass at most 2"):
        many.to_fit(x, y, series=3)
    with pytest.raises(ValueError, match="loss='bce_with_logits' has predictions that are not on the scale of y"):
        PolynomialRegression(2, loss="bce_with_logits", dtype=F64).to_fit(x, y)
    with torch.no_grad():
        model.coef[0] = torch.inf
    with pytest.raises(ValueError, match="the coefficients of the model are not all finite"):
        model.to_fit(x, y)
    with pytest.raises(TypeError, match=r"y is torch\.float32 and x is torch\.float64"):
        model.loss(x, y.float())
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"degree": 1.5}, TypeError, r"degree=1\.5 is float"),
        ({"degree": 2, "num_series": 0}, ValueError, "num_series=0 is too small"),
        ({"degree": 2, "reduction": "none"}, ValueError, "reduction='none' is unknown; pass one of 'mean', 'sum'"),
        ({"degree": 2, "loss": "l3"}, ValueError, "loss='l3' is unknown"),
        ({"degree": 2, "domain": (3, 1)}, ValueError, "is not an interval"),
    ]
    for arguments, error, message in refused:
        with pytest.raises(error, match=message):
            PolynomialRegression(**arguments)


# --- the criterion ---

CRITERIA = {
    "mse": PolynomialLoss,
    "huber of each series": lambda: PolynomialLoss(losses.Huber(0.5), per_series=True, basis="legendre", domain=DOMAIN),
    "l1, sum": lambda: PolynomialLoss("l1", reduction="sum"),
    "none": lambda: PolynomialLoss("cauchy", reduction="none", basis="hermite_e"),
    "a module": lambda: PolynomialLoss(nn.MSELoss(reduction="none")),
}


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_criterion_is_the_function(name, weighted):
    criterion = CRITERIA[name]()
    x, y, weight = data(3, 20)
    coef = torch.randn(3, 4, dtype=F64)
    weight = weight if weighted else None
    expected = polyfit.polynomial_loss(
        x,
        y,
        coef,
        weight=weight,
        loss=criterion.loss,
        reduction=criterion.reduction,
        per_series=criterion.per_series,
        basis=criterion.basis,
        domain=criterion.domain,
    )
    for same in (criterion, copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert torch.equal(same(x, y, coef, weight), expected)
        assert list(same.parameters()) == list(same.children()) == []
        assert repr(same) == repr(criterion)


def test_the_criterion_of_a_network():
    """Coefficients that a network predicts get the gradient of the plain formula."""
    net, criterion = nn.Linear(2, 4, dtype=F64), PolynomialLoss("log_cosh", domain=DOMAIN)
    x, y, _ = data(3, 20)
    features = torch.randn(3, 2, dtype=F64)
    found = torch.autograd.grad(criterion(x, y, net(features)), list(net.parameters()))

    def log_cosh(p: Tensor, y: Tensor) -> Tensor:
        return (p - y).cosh().log()

    expected = oracle.polynomial_loss(x, y, net(features), domain=DOMAIN, pointwise=log_cosh)
    for mine, theirs in zip(found, torch.autograd.grad(expected, list(net.parameters())), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loss": "l3"}, ValueError, "loss='l3' is unknown"),
        ({"loss": losses.Huber}, TypeError, "loss=Huber is a class; pass an object of it"),
        ({"loss": None}, TypeError, "loss"),
        ({"reduction": "max"}, ValueError, "reduction='max' is unknown"),
        ({"reduction": "none", "per_series": True}, ValueError, "per_series=True reduces over samples"),
        ({"impl": "gpu"}, ValueError, "impl='gpu' is unknown"),
        ({"basis": "fourier"}, ValueError, "basis='fourier' is unknown"),
        ({"domain": (1, 1)}, ValueError, "is not an interval"),
    ],
)
def test_criteria_that_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        PolynomialLoss(**arguments)


def test_texts():
    assert repr(PolynomialLoss("l1", reduction="sum", domain=(0, 1), impl="torch")) == (
        "PolynomialLoss(loss='l1', reduction='sum', domain=(0.0, 1.0), impl='torch')"
    )
    text = repr(PolynomialRegression(2, num_series=7, loss=losses.Huber(2.0)))
    assert "degree=2, num_series=7" in text
    assert "PolynomialLoss(loss=Huber(delta=2.0))" in text
