"""Training on the squared loss in bases that are ill conditioned on the data, against descent in 80 digits."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import mpmath
import numpy as np
import pytest
import torch
from oracle import TO_POWER
from oracle import polynomial_loss as plain_loss

import polyfit
from polyfit.backends.inductor import LARGEST_DEGREE
from polyfit.optimizers import SGD, Adam
from polyfit.training import max_stable_lr

F64 = torch.float64
EPOCHS, EVERY = 1500, 300

# Range of x, degree, basis, whether the run starts at zero.
CASES: dict[str, tuple[float, float, int, str, bool]] = {
    "years": (1990.0, 2020.0, 4, "power", True),
    "years, from afar": (1990.0, 2020.0, 4, "power", False),
    "100 to 110": (100.0, 110.0, 5, "power", True),
    "10 to 11": (10.0, 11.0, 8, "power", True),
    "100 to 101": (100.0, 101.0, 8, "power", True),
    "high degree": (-1.0, 1.0, 16, "power", False),
    "laguerre": (-3.0, 3.0, 12, "laguerre", True),
    "hermite": (-3.0, 3.0, 10, "hermite", False),
}
ENGINES: dict[str, dict[str, Any]] = {
    "closed_form": {"engine": "closed_form"},
    "moments": {"engine": "moments"},
    "moments in C++": {"engine": "moments", "impl": "compile"},
    "stepwise": {"engine": "stepwise"},
}


class Truth(NamedTuple):
    """A run of plain descent at 0.9 of the largest stable rate, and what is known of it, to 80 digits."""

    x: torch.Tensor
    y: torch.Tensor
    start: torch.Tensor
    lr: float
    losses: list[float]
    optimal_loss: float
    largest_rate: float
    condition: float


@functools.cache
def truth(case: str) -> Truth:
    low, high, degree, basis, from_zero = CASES[case]
    size = degree + 1
    x = torch.linspace(low, high, 60, dtype=F64)
    y = torch.sin(6.0 * x)
    start = torch.zeros(size, dtype=F64)
    if not from_zero:
        start = torch.randn(size, dtype=F64, generator=torch.Generator().manual_seed(0))
    with mpmath.workdps(120):
        powers = mpmath.matrix([[mpmath.mpf(at) ** k for k in range(size)] for at in x.tolist()])
        rows = [[*TO_POWER[basis](unit), *[0.0] * size][:size] for unit in np.eye(size)]
        design = powers * mpmath.matrix(rows).T
        target = mpmath.matrix(y.tolist())
        hessian = 2 * (design.T * design) / len(x)
        values = sorted(mpmath.eigsy(hessian, eigvals_only=True))
        largest_rate = 2 / values[-1]
        slope = 2 * (design.T * target) / len(x)
        best = mpmath.lu_solve(hessian, slope)
        lr = 0.9 * float(largest_rate)

        def loss(coef: Any) -> float:
            residual = design * coef - target
            return float((residual.T * residual)[0] / len(x))

        coef, losses = mpmath.matrix(start.tolist()), []
        step = mpmath.mpf(lr)
        for epoch in range(EPOCHS + 1):
            if epoch % EVERY == 0:
                losses.append(loss(coef))
            coef -= step * (hessian * coef - slope)
        return Truth(x, y, start, lr, losses, loss(best), float(largest_rate), float(values[-1] / values[0]))


@pytest.mark.parametrize(
    "engine", [*list(ENGINES)[:2], pytest.param("moments in C++", marks=pytest.mark.compiler), "stepwise"]
)
@pytest.mark.parametrize("case", CASES)
def test_descent_in_an_ill_conditioned_basis_is_that_of_80_digits(case, engine):
    known = truth(case)
    if ENGINES[engine].get("impl") == "compile" and CASES[case][2] > LARGEST_DEGREE:
        return
    result = polyfit.train(
        known.x, known.y, known.start, optimizer=SGD(known.lr), epochs=EPOCHS, record_every=EVERY,
        basis=CASES[case][3], **ENGINES[engine],
    )  # fmt: skip
    np.testing.assert_allclose(result.losses.values.numpy(), known.losses, rtol=1e-9)
    of_coef = float(plain_loss(known.x, known.y, result.coef, basis=CASES[case][3]))
    assert of_coef == pytest.approx(known.losses[-1], rel=1e-6)
    assert result.optimal_loss == pytest.approx(known.optimal_loss, rel=1e-9, abs=1e-24)
    assert result.max_stable_lr == pytest.approx(known.largest_rate, rel=1e-10)
    assert result.condition == pytest.approx(known.condition, rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_the_largest_stable_rate_in_an_ill_conditioned_basis(case):
    known = truth(case)
    found = max_stable_lr(known.x, CASES[case][2], basis=CASES[case][3])
    assert found == pytest.approx(known.largest_rate, rel=1e-10)


@pytest.mark.parametrize("rule", ["momentum", "decay", "Adam"])
@pytest.mark.parametrize(
    "engine", ["closed_form", "moments", pytest.param("moments in C++", marks=pytest.mark.compiler)]
)
def test_every_rule_in_an_ill_conditioned_basis_is_torchs(engine, rule):
    known = truth("10 to 11")
    lr, made = known.lr, Adam(0.01)
    make = lambda p: torch.optim.Adam(p, lr=0.01)  # noqa: E731
    if rule != "Adam":
        options: dict[str, Any] = {"momentum": 0.8} if rule == "momentum" else {"weight_decay": 1e-3 / known.lr}
        made = SGD(lr, **options)
        make = lambda p: torch.optim.SGD(p, lr=lr, **options)  # noqa: E731
    elif engine == "closed_form":
        return
    coef = known.start.clone().requires_grad_()
    optimizer = make([coef])
    for _ in range(400):
        optimizer.zero_grad()
        plain_loss(known.x, known.y, coef).backward()
        optimizer.step()
    result = polyfit.train(known.x, known.y, known.start, optimizer=made, epochs=400, **ENGINES[engine])
    assert result.loss == pytest.approx(float(plain_loss(known.x, known.y, coef.detach())), rel=1e-8)


@pytest.mark.compiler
def test_well_and_ill_conditioned_series_train_side_by_side():
    x = torch.stack([torch.linspace(-1, 1, 50, dtype=F64), torch.linspace(100, 101, 50, dtype=F64)])
    y = torch.sin(6.0 * x)
    start = torch.tensor([[0.5, -1.0, 0.25, 2.0], [0.0, 1e-3, 0.0, 0.0]], dtype=F64)
    scale = torch.tensor([1.0, 1e-13], dtype=F64)
    options: dict[str, Any] = {"optimizer": SGD(0.1), "epochs": 500, "per_series": True, "lr_scale": scale}
    plain = polyfit.train(x, y, start, engine="stepwise", **options)
    for engine in ENGINES.values():
        result = polyfit.train(x, y, start, **engine, **options)
        torch.testing.assert_close(result.losses.values, plain.losses.values, rtol=1e-11, atol=0)
        torch.testing.assert_close(result.coef, plain.coef, rtol=1e-10, atol=0)


# x of all samples, domain, basis: within the domain, at its middle, beyond it, near its middle in units of its width.
PLACES: dict[str, tuple[float, tuple[float, float] | None, str]] = {
    "within": (100.5, (99.95, 101.0), "power"),
    "middle": (100.5, (100.4, 100.6), "legendre"),
    "beyond": (101.5, (99.95, 101.0), "chebyshev"),
    "wide": (5.0, (-1e9, 1e9), "power"),
    "no domain": (1e-3, None, "hermite"),
}


@pytest.mark.parametrize("n_series", [1, 2])
@pytest.mark.parametrize(
    "engine", [*list(ENGINES)[:2], pytest.param("moments in C++", marks=pytest.mark.compiler), "stepwise"]
)
@pytest.mark.parametrize("place", PLACES)
def test_samples_at_one_place_train_as_an_eager_loop(place, engine, n_series):
    at, domain, basis = PLACES[place]
    x = torch.tensor([[at], [at + 1e-3]], dtype=F64)[:n_series].expand(n_series, 3)
    y = torch.tensor([-0.1768, 0.3, 0.5], dtype=F64).expand(n_series, 3)
    start = torch.ones(n_series, 8, dtype=F64)
    options: dict[str, Any] = {"basis": basis, "domain": domain}
    lr = 0.1 * max_stable_lr(x, 7, **options)
    coef, losses = start.clone().requires_grad_(), []
    for _ in range(21):
        loss = plain_loss(x, y, coef, **options)
        losses.append(float(loss.detach()))
        coef = (coef - lr * torch.autograd.grad(loss, coef)[0]).detach().requires_grad_()
    losses.append(float(plain_loss(x, y, coef.detach(), **options)))
    result = polyfit.train(x, y, start, optimizer=SGD(lr), epochs=21, record_every=1, **options, **ENGINES[engine])
    np.testing.assert_allclose(result.losses.values.numpy(), losses, rtol=1e-10)
    torch.testing.assert_close(result.coef, coef.detach(), rtol=1e-10, atol=1e-12)
    assert result.optimal_loss == pytest.approx(float(y.var(correction=0)), rel=1e-9)  # the mean of y is reached


@pytest.mark.parametrize(
    "engine", [*list(ENGINES)[:2], pytest.param("moments in C++", marks=pytest.mark.compiler), "stepwise"]
)
@pytest.mark.parametrize(
    ("x", "basis", "domain"), [([2005.0] * 2, "power", None), ([0.25, 0.25, 0.875], "chebyshev", (0.0, 1.0))]
)
def test_a_loss_goes_to_zero_where_the_data_do_not_determine_the_coefficients(x, basis, domain, engine):
    size, epochs = 6, 400
    options: dict[str, Any] = {"basis": basis, "domain": domain}
    values = {at: 0.5 - 0.01 * at for at in x}
    y = torch.tensor([values[at] for at in x], dtype=F64)
    start = torch.tensor([0.7, 1e-4, -3e-8, 1e-11, 2e-15, -1e-18], dtype=F64)
    lr = 0.4 * max_stable_lr(torch.tensor(x), size - 1, **options)
    with mpmath.workdps(60):  # residuals: r <- (1 - 2 lr V V' / n) r
        t = [mpmath.mpf(at) if domain is None else 2 * mpmath.mpf(at) - 1 for at in x]
        columns = (lambda at, k: at**k) if basis == "power" else (lambda at, k: mpmath.chebyt(k, at))
        design = mpmath.matrix([[columns(at, k) for k in range(size)] for at in t])
        residual = design * mpmath.matrix(start.tolist()) - mpmath.matrix(y.tolist())
        step = mpmath.eye(len(x)) - mpmath.mpf(2 * lr) / len(x) * (design * design.T)
        roots = [float(mpmath.norm(step**epoch * residual) / mpmath.sqrt(len(x))) for epoch in range(0, 401, 20)]
    result = polyfit.train(
        torch.tensor(x, dtype=F64), y, start, optimizer=SGD(lr), epochs=epochs, record_every=20, **options,
        **ENGINES[engine],
    )  # fmt: skip
    # Residuals are known to some roundings of y and of the terms of p, which are at most 20.
    np.testing.assert_allclose(np.sqrt(result.losses.values.numpy()), roots, rtol=1e-11, atol=2.0**-46 * 20.0)


@pytest.mark.parametrize("engine", ["closed_form", "moments", "stepwise"])
def test_a_loss_that_overflows_is_infinite_and_ends_the_run(engine):
    x = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    y = torch.tensor([1e200, 3e200, 2e200], dtype=F64)
    result = polyfit.train(x, y, torch.zeros(2, dtype=F64), optimizer=SGD(0.01), epochs=10, engine=engine)
    assert result.losses.values[0] == float("inf")
    assert result.reason == polyfit.training.Reason.DIVERGED


def test_a_run_beyond_the_digits_of_the_closed_form_says_so():
    known = truth("10 to 11")
    options: dict[str, Any] = {"optimizer": SGD(known.lr), "record_every": 10**15}
    polyfit.train(known.x, known.y, known.start, epochs=10**10, **options)
    with pytest.warns(RuntimeWarning, match="more than the closed form can follow: .* has a condition of 2.*e\\+42"):
        polyfit.train(known.x, known.y, known.start, epochs=10**15, **options)
    well = {"basis": "chebyshev", "domain": (10.0, 11.0)}
    result = polyfit.train(
        known.x, known.y, known.start, optimizer=SGD(0.5), epochs=10**15, record_every=10**15, **well
    )
    assert result.loss == pytest.approx(known.optimal_loss, rel=1e-9)
