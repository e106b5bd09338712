r"""`train` with every engine against an eager float64 loop of torch.optim.

What "right" means
    The eager loop runs three times: on the data, and twice on data whose numbers are changed by half a unit in the last
    place, in another order. The largest difference that this makes, D, is what the data and float64 decide of the
    course of the run. A loss at a record, and the polynomial at a sample, are right if they are within ::

        1e-8 of their size (1e-7 for adaptive rules) + 64 D + what 2**-42 of the terms of p - y makes

    of the first run. The tests of the engines ask 1e-9 of well-conditioned runs of 500 epochs.

    Adaptive rules divide by the size of a gradient. Where it cancels, the eager loop may be the one that is wrong. A
    run of the squared loss that is not right by the above is compared with the same loop in 50 digits (`exactly`), and
    the error of the eager loop counts as another difference D.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import mpmath
import numpy as np
import torch
from cases import LOSSES
from draws import BASES, PLACES, SHAPES, Array, Rng, chance, laid_out, one_of, power_of_ten, targets, weights
from mpmath import mpf
from oracle import NUMPY_CLASSES as POLYNOMIALS
from oracle import to_window
from reference import Reference, SingularError
from torch import Tensor
from verdict import Judge

import polyfit
from polyfit.optimizers import SGD, Adam, AdamW, Exponential, RMSprop

F64 = torch.float64
_FLOOR = 1e-8
# Of rules that scale a gradient by its own size: a small gradient brings all of its error along.
_ADAPTIVE_FLOOR = 1e-7
_SHARE = 64.0
# Samples times epochs up to which a run is made in 50 digits: some 10 s.
_LONGEST = 20_000
# Of the terms of p - y: 1000 roundings over the epochs of a run.
_ROUNDINGS = 2.0**-42
_TABLES = {
    "power": np.polynomial.polynomial.polyvander,
    "chebyshev": np.polynomial.chebyshev.chebvander,
    "legendre": np.polynomial.legendre.legvander,
    "hermite": np.polynomial.hermite.hermvander,
    "hermite_e": np.polynomial.hermite_e.hermevander,
    "laguerre": np.polynomial.laguerre.lagvander,
}


class Given(NamedTuple):
    """A problem: x, y, weight (S or 1, N), start (S, p), float64."""

    x: Tensor
    y: Tensor
    weight: Tensor | None
    start: Tensor
    basis: str
    domain: tuple[float, float] | None
    reduction: str
    loss: str
    lr_scale: list[float]


def table(given: Given) -> Tensor:
    """The basis functions at the samples, (S or 1, N, p)."""
    t = to_window(given.x, given.domain, given.basis).numpy()
    return torch.from_numpy(_TABLES[given.basis](t, given.start.shape[1] - 1))


class Course(NamedTuple):
    """An eager run: losses at records, and the polynomial at the samples after the last update, (S, N)."""

    losses: Array
    values: Array
    coef: Tensor


def eager(given: Given, make: Callable[..., Any], epochs: int, every: int, gamma: float | None) -> Course:
    """The loop that a user of torch.optim writes."""
    functions = table(given)
    rows = [row.clone().requires_grad_() for row in given.start]
    optimizer = make([{"params": [row]} for row in rows])
    for group, factor in zip(optimizer.param_groups, given.lr_scale, strict=True):
        group["lr"] *= factor
    schedule = None if gamma is None else torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)
    pointwise, losses = LOSSES[given.loss].oracle, []

    def loss_of() -> Tensor:
        p = (functions @ torch.stack(rows).unsqueeze(-1)).squeeze(-1)
        loss = pointwise(*torch.broadcast_tensors(p, given.y))
        w = torch.ones_like(loss) if given.weight is None else given.weight.expand(loss.shape)
        total = (w * loss).sum()
        return total / w.sum() if given.reduction == "mean" else total

    for epoch in range(epochs + 1):
        optimizer.zero_grad()
        loss = loss_of()
        if epoch % every == 0 or epoch == epochs:
            losses.append(float(loss.detach()))
        if epoch == epochs:
            break
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
    coef = torch.stack(rows).detach()
    return Course(np.array(losses), (functions @ coef.unsqueeze(-1)).squeeze(-1).numpy(), coef)


def exactly(given: Given, rule: Any, epochs: int, every: int, gamma: float | None) -> Course:
    """The loop of the squared loss in 50 digits, one series after the other; the formulas are those of torch.optim."""
    with mpmath.workdps(50):
        return _exactly(given, rule, epochs, every, gamma)


def _exactly(given: Given, rule: Any, epochs: int, every: int, gamma: float | None) -> Course:
    n_series, (n, p) = len(given.start), (given.x.shape[-1], given.start.shape[1])
    number = np.vectorize(mpf, otypes=[object])
    sqrt = np.vectorize(mpmath.sqrt, otypes=[object])
    rate = mpf(rule.lr if gamma is None else rule.lr.lr)
    w = number(np.ones(n) if given.weight is None else given.weight[0].numpy())
    scale = mpf(1) / (w.sum() * n_series) if given.reduction == "mean" else mpf(1)
    total: dict[int, Any] = {}
    values, coefficients = np.empty((n_series, n)), np.empty((n_series, p))
    for series in range(n_series):
        x = number(given.x[series if len(given.x) > 1 else 0].numpy())
        if given.domain is not None:
            low, high = map(mpf, given.domain)
            bottom, top = map(mpf, POLYNOMIALS[given.basis].window)
            x = bottom + (x - low) * ((top - bottom) / (high - low))
        functions = _TABLES[given.basis](x, p - 1)
        y, coef = number(given.y[series].numpy()), number(given.start[series].numpy())
        memory = [number(np.zeros(p)) for _ in range(3)]
        for epoch in range(epochs + 1):
            residual = functions.dot(coef) - y
            if epoch % every == 0 or epoch == epochs:
                total[epoch] = total.get(epoch, mpf(0)) + scale * (w * residual * residual).sum()
            if epoch == epochs:
                break
            gradient = 2 * scale * (w * residual).dot(functions)
            lr = rate * mpf(given.lr_scale[series]) * (1 if gamma is None else mpf(gamma) ** epoch)
            coef = _updated(rule, coef, gradient, memory, lr, epoch, sqrt)
        values[series], coefficients[series] = functions.dot(coef).astype(float), coef.astype(float)
    return Course(np.array([float(total[epoch]) for epoch in sorted(total)]), values, torch.from_numpy(coefficients))


def _updated(rule: Any, coef: Array, g: Array, memory: list[Array], lr: Any, epoch: int, sqrt: Any) -> Array:
    """Coefficients after an update; the memory is changed."""
    decay = mpf(rule.weight_decay)
    if isinstance(rule, AdamW):
        coef = coef * (1 - lr * decay)
    else:
        g = g + decay * coef
    if isinstance(rule, SGD):
        if rule.momentum:
            memory[0] = g if epoch == 0 else mpf(rule.momentum) * memory[0] + (1 - mpf(rule.dampening)) * g
            g = g + mpf(rule.momentum) * memory[0] if rule.nesterov else memory[0]
        return coef - lr * g
    if isinstance(rule, RMSprop):
        alpha = mpf(rule.alpha)
        memory[1] = alpha * memory[1] + (1 - alpha) * g * g
        if rule.centered:
            memory[0] = alpha * memory[0] + (1 - alpha) * g
        return coef - lr * g / (sqrt(memory[1] - memory[0] * memory[0]) + mpf(rule.eps))
    first, second = map(mpf, rule.betas)
    memory[0] = first * memory[0] + (1 - first) * g
    memory[1] = second * memory[1] + (1 - second) * g * g
    size = sqrt(memory[1] / (1 - second ** (epoch + 1))) + mpf(rule.eps)
    return coef - lr * (memory[0] / (1 - first ** (epoch + 1))) / size


def nudged(given: Given, seed: int) -> tuple[Given, Tensor]:
    """The data changed by half a unit in the last place, in another order; and that order."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(given.x.shape[-1], generator=generator)

    def nudge(values: Tensor) -> Tensor:
        return values * (1.0 + 2.0**-52 * torch.randint(-1, 2, values.shape, generator=generator))

    weight = None if given.weight is None else given.weight[:, order]
    parts = {
        "x": nudge(given.x)[:, order],
        "y": nudge(given.y)[:, order],
        "weight": weight,
        "start": nudge(given.start),
    }
    return given._replace(**parts), order


def draw_rule(rng: Rng, stable: float) -> tuple[Any, Callable[..., Any], float | None]:
    """A rule of polyfit, the same of torch.optim, and the factor of an exponential schedule."""
    kind = one_of(rng, ("sgd", "sgd", "momentum", "nesterov", "Adam", "AdamW", "RMSprop"))
    gamma = 0.97 if chance(rng, 0.15) else None
    if kind in {"sgd", "momentum", "nesterov"}:
        # 2 / (largest curvature) is stable for every momentum, and a third of that with nesterov's.
        decay = one_of(rng, (0.0, 0.0, 0.0, 0.1 / stable if 1e-3 < stable < 1e3 else 0.01))
        lr = stable * float(rng.uniform(0.05, 0.9 if kind == "sgd" else 0.6)) / (1.0 + decay * stable)
        more: dict[str, Any] = {"weight_decay": decay}
        if kind != "sgd":
            more["momentum"] = float(rng.uniform(0.1, 0.95))
        if kind == "momentum" and chance(rng, 0.3):
            more["dampening"] = float(rng.uniform(0.0, 0.9))
        if kind == "nesterov":
            more["nesterov"], lr = True, lr / 3.0
        rule, make = SGD, torch.optim.SGD
    else:
        lr, more = power_of_ten(rng, -3, -1), {"weight_decay": one_of(rng, (0.0, 0.01))}
        if kind == "RMSprop":
            more |= {"alpha": float(rng.uniform(0.5, 0.99)), "centered": chance(rng, 0.3)}
            rule, make = RMSprop, torch.optim.RMSprop
        else:
            more["betas"] = (float(rng.uniform(0.5, 0.95)), float(rng.uniform(0.9, 0.999)))
            rule, make = (Adam, torch.optim.Adam) if kind == "Adam" else (AdamW, torch.optim.AdamW)
    ours = rule(lr if gamma is None else Exponential(lr, gamma), **more)
    return ours, lambda p: make(p, lr=lr, foreach=False, **more), gamma


def draw(rng: Rng, loss: str) -> tuple[Given, str]:
    """Data, start and options."""
    degree, n = int(rng.integers(0, 8)), int(rng.integers(1, 60))
    n_series = one_of(rng, (1, 1, 2, 3))
    place = one_of(rng, ("near zero", "near zero", "shifted", "far", "far", "years"))
    centre, scale = PLACES[place](rng)
    own_x = n_series > 1 and chance(rng, 0.4)
    t = np.stack(
        [
            SHAPES[one_of(rng, ("even", "uniform", "nodes", "few distinct"))](rng, n, degree)
            for _ in range(n_series if own_x else 1)
        ]
    )
    x = centre + scale * t
    kind = one_of(rng, ("curve", "noise", "nearly exact"))
    y = np.stack(
        [
            LOSSES[loss].targets(torch.from_numpy(targets(rng, row, kind))).numpy()
            for row in np.broadcast_to(t, (n_series, n))
        ]
    )
    weight = None
    if chance(rng, 0.4):
        weight = torch.from_numpy(weights(rng, n, one_of(rng, ("uniform", "integers"))))[None]
    basis = "power" if place in {"far", "years"} and chance(rng, 0.6) else one_of(rng, BASES)
    domain = None
    if chance(rng, 0.3) or (basis != "power" and place != "near zero"):
        domain = (centre - 1.1 * scale, centre + scale)
    if chance(rng, 0.4):
        start = np.zeros((n_series, degree + 1))
    else:
        size = np.abs(_TABLES[basis](to_window(torch.from_numpy(x), domain, basis).numpy(), degree)).max((0, 1))
        start = rng.standard_normal((n_series, degree + 1)) / np.maximum(size, 1.0)
    lr_scale = [1.0] * n_series
    given = Given(
        torch.from_numpy(x), torch.from_numpy(y), weight, torch.from_numpy(start), basis, domain,
        one_of(rng, ("mean", "sum")), loss, lr_scale,
    )  # fmt: skip
    return given, place


def stable_rate(given: Given) -> float:
    """2 / (largest curvature) over all series, for the squared loss."""
    functions = table(given).numpy()
    n_series, n = given.start.shape[0], given.x.shape[-1]
    w = np.ones((1, n)) if given.weight is None else given.weight.numpy()
    scale = 1.0 if given.reduction == "sum" else 1.0 / (w.sum() * n_series)
    largest = max(
        2.0 * scale * np.linalg.norm(rows * np.sqrt(row)[:, None], 2) ** 2
        for rows, row in zip(functions, np.broadcast_to(w, (len(functions), n)), strict=True)
    )
    return float(2.0 / largest)


def passed(rng: Rng, given: Given) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """The operands as polyfit gets them: with or without an axis of series, in any layout."""
    n_series = given.start.shape[0]
    start = given.start
    if n_series > 1 and bool((start == start[:1]).all()):
        start = start[:1].expand(n_series, -1)  # as our own message recommends
    x = given.x[0] if len(given.x) == 1 else given.x
    y, weight = given.y, None if given.weight is None else given.weight[0]
    if n_series == 1:
        start, y = start[0], y[0]
    options: dict[str, Any] = {} if weight is None else {"weight": laid_out(rng, weight)}
    start = start if start.dim() > 1 and start.stride(0) == 0 else laid_out(rng, start)
    return (laid_out(rng, x), laid_out(rng, y), start), options


def with_scales(rng: Rng, given: Given, options: dict[str, Any]) -> Given:
    """Draw factors of the rate: one for each series, or one that broadcasts."""
    n_series = given.start.shape[0]
    if n_series == 1 or chance(rng, 0.6):
        return given
    scales = rng.uniform(0.2, 1.0, n_series)
    if chance(rng, 0.7):
        options["lr_scale"] = laid_out(rng, torch.from_numpy(scales))
        return given._replace(lr_scale=scales.tolist())
    one = torch.tensor(scales[0])
    options["lr_scale"] = one if chance(rng, 0.5) else one.expand(n_series)
    return given._replace(lr_scale=[float(one)] * n_series)


def attack(rng: Rng, judge: Judge, engines: tuple[tuple[str, str], ...], loss: str = "mse") -> None:
    """One problem, with an engine and an implementation that are drawn."""
    given, place = draw(rng, loss)
    rule, make, gamma = draw_rule(rng, stable_rate(given))
    epochs, every = int(rng.integers(1, 120)), int(rng.integers(1, 40))
    engine, impl = one_of(rng, engines)
    if engine == "closed_form" and (not isinstance(rule, SGD) or gamma is not None):
        engine = "auto"
    operands, options = passed(rng, given)
    given = with_scales(rng, given, options)
    options |= {
        "optimizer": rule, "epochs": epochs, "record_every": every, "engine": engine, "impl": impl, "loss": loss,
        "reduction": given.reduction, "basis": given.basis, "domain": given.domain,
    }  # fmt: skip
    judge.problem |= {**dict(zip(("x", "y", "coef"), operands, strict=True)), **options, "drawn as": place}
    judge.problem["strides"] = [part.stride() for part in operands]
    course = eager(given, make, epochs, every, gamma)
    if not np.isfinite(course.losses).all() or course.losses.max() > 1e100:
        return
    others = []
    for seed in (1, 2):
        other, order = nudged(given, seed)
        run = eager(other, make, epochs, every, gamma)
        values = np.empty_like(run.values)
        values[:, order.numpy()] = run.values
        others.append(run._replace(values=values))
    result = judge.ask(polyfit.train, *operands, **options)
    if result is None:
        judge.true(f"{judge.said[:1]} at a rate that is stable", not any("must diverge" in line for line in judge.said))
        return
    judge.problem["engine that ran"] = result.engine
    # The rounding of p - y: of the largest y and of the terms of the largest coefficients of the run.
    terms = torch.maximum(given.start.abs(), course.coef.abs()).unsqueeze(-2)
    largest = float((table(given).abs() * terms).sum(-1).max()) + float(given.y.abs().max())
    floor = _FLOOR if isinstance(rule, SGD) else _ADAPTIVE_FLOOR
    exact = None
    if loss == "mse" and given.y.numel() * epochs <= _LONGEST:
        exact = functools.partial(exactly, given, rule, epochs, every, gamma)
    judge_course(judge, given, result, course, others, _ROUNDINGS * largest, floor, exact)
    if len(given.start) == 1 and loss == "mse" and not rule.weight_decay:
        judge_optimum(judge, given, result, _ROUNDINGS * largest)


def total_weight(given: Given) -> float:
    """The factor by which the loss is more than the mean of its samples."""
    if given.reduction == "mean":
        return 1.0
    n_series, n = len(given.start), given.x.shape[-1]
    return n_series * (n if given.weight is None else float(given.weight.sum()))


def judge_course(
    judge: Judge,
    given: Given,
    result: Any,
    course: Course,
    others: list[Course],
    rounding: float,
    floor: float,
    exact: Callable[[], Course] | None,
) -> None:
    """The losses at records, and the polynomial after the last update."""
    total, losses = total_weight(given), np.abs(course.losses)
    if given.loss == "mse":
        of_rounding = 2.0 * np.sqrt(total * losses) * rounding + total * rounding**2
    else:
        of_rounding = total * rounding * (1.0 + losses)
    difference = np.max([np.abs(run.losses - course.losses) for run in others], 0)
    ours = result.losses.values.double().numpy()
    if not judge.true(f"{ours.shape} records, expected {losses.shape}", ours.shape == losses.shape):
        return
    allowed = floor * losses + _SHARE * difference + of_rounding
    coef = result.coef.double().reshape(len(given.start), -1, 1)
    p = (table(given) @ coef).squeeze(-1).numpy()
    difference = np.max([np.abs(run.values - course.values) for run in others])
    p_allowed = floor * np.abs(course.values).max(-1, keepdims=True) + _SHARE * difference + rounding
    is_right = (np.abs(ours - course.losses) <= allowed).all() and (np.abs(p - course.values) <= p_allowed).all()
    if exact is not None and not is_right:
        judge_course(judge, given, result, exact(), [*others, course], rounding, floor, None)
        return
    judge.within_all(f"losses ({result.engine})", ours, course.losses, allowed)
    judge.within_all(f"p at the end ({result.engine})", p, course.values, p_allowed)


def judge_optimum(judge: Judge, given: Given, result: Any, rounding: float) -> None:
    """The smallest loss, by 50 digits, and the largest stable rate."""
    n = given.x.shape[-1]
    w = [1.0] * n if given.weight is None else given.weight[0].tolist()
    parts = [[Fraction(value) for value in row] for row in (given.x[0].tolist(), given.y[0].tolist(), w)]
    try:
        truth = Reference(parts, given.start.shape[1] - 1, given.basis, given.domain)
    except SingularError:
        return
    best, total = float(truth.rss) / (sum(w) if given.reduction == "mean" else 1.0), total_weight(given)
    allowed = 1e-6 * best + 64.0 * (2.0 * math.sqrt(total * best) * rounding + total * rounding**2)
    if result.optimal_loss is not None and not math.isnan(result.optimal_loss):
        judge.within("optimal_loss", float(result.optimal_loss), best, allowed + 1e-300)
    rule = judge.problem["optimizer"]
    if result.max_stable_lr is not None and not rule.momentum:
        stable = stable_rate(given)
        judge.within("max_stable_lr", float(result.max_stable_lr), stable, 1e-6 * stable)


ENGINES = (("auto", "auto"), ("closed_form", "auto"), ("moments", "auto"), ("stepwise", "auto"), ("auto", "torch"))


def attack_train(rng: Rng, judge: Judge) -> None:
    """The squared loss, by every engine."""
    attack(rng, judge, ENGINES)


def attack_other_losses(rng: Rng, judge: Judge) -> None:
    """Other losses, step by step."""
    attack(rng, judge, (("auto", "auto"), ("stepwise", "torch")), one_of(rng, ("huber", "log_cosh", "cauchy", "l1")))


def attack_train_compiled(rng: Rng, judge: Judge) -> None:
    """moments in C++."""
    attack(rng, judge, (("moments", "compile"),))


def attack_train_kernel(rng: Rng, judge: Judge) -> None:
    """The loops in Triton kernels, in Triton's interpreter."""
    attack(rng, judge, (("moments", "triton"), ("resident", "triton")))


KINDS = {"train": attack_train, "train other losses": attack_other_losses}
COMPILED = {"train in C++": attack_train_compiled}
KERNELS = {"train kernel": attack_train_kernel}
