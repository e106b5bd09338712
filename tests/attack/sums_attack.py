"""`select_degree` and `Moments`, which fit from sums over the data, against 50 digits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from draws import PLACES, SHAPES, Rng, chance, one_of, power_of_ten, targets, weights
from fit_attack import Problem, draw
from reference import EPS, Reference, SingularError, ctx, dot, exactly, scaled_condition
from verdict import Judge

import polyfit

# --- select_degree ---


def draw_selection(rng: Rng, largest: int, kind: str) -> tuple[Problem, int]:
    """Data, and the degree of the polynomial that made them."""
    place, shape = one_of(rng, tuple(PLACES)[:5]), one_of(rng, ("even", "uniform", "nodes", "logarithmic"))
    n = largest + 1 if kind == "n - 1" else largest + 3 + int(rng.integers(0, 40))
    degree = int(rng.integers(0, largest + 1))
    options: dict[str, Any] = {}
    if kind == "exact polynomial":
        x = np.arange(n) - float(n // 2)
        y = np.polynomial.polynomial.polyval(x, rng.integers(1, 9, degree + 1).astype(float))
    else:
        centre, scale = PLACES[place](rng)
        t = SHAPES[shape](rng, n, largest)
        x = centre + scale * t
        y = targets(rng, t, one_of(rng, ("curve", "noise", "large offset", "integers")))
        y = y * one_of(rng, (*[1.0] * 9, 1e-160, 1e150))
    if chance(rng, 0.4):
        scale = one_of(rng, ("uniform", "over 20 orders", "around 1e200"))
        options["weight"] = torch.from_numpy(weights(rng, n, scale))
    return Problem(torch.from_numpy(x), torch.from_numpy(y), largest, options, f"{kind}, {place}, {shape}"), degree


def attack_selection(rng: Rng, judge: Judge) -> None:
    """The rss of every degree, and the degree that the criterion prefers."""
    largest, criterion = int(rng.integers(1, 9)), one_of(rng, ("aic", "bic", "aicc"))
    kind = one_of(rng, ("random", "random", "exact polynomial", "n - 1"))
    problem, true_degree = draw_selection(rng, largest, kind)
    judge.problem |= {"x": problem.x, "y": problem.y, "max_degree": largest, "criterion": criterion}
    judge.problem |= {**problem.options, "drawn as": problem.place}
    fit = judge.ask(polyfit.select_degree, problem.x, problem.y, largest, criterion=criterion, **problem.options)
    if fit is None or judge.said:
        return
    judge.true("fit.degree is that of the selection", fit.degree == fit.selection.degree)
    n = len(problem.x)
    if kind == "exact polynomial":
        judge.true(f"degree {fit.degree} for an exact polynomial of degree {true_degree}", fit.degree == true_degree)
        return
    if kind == "n - 1":
        judge.true(f"degree {fit.degree} interpolates {n} samples", fit.degree < n - 1)
    values = {}
    for degree, ours in zip(fit.selection.degrees, fit.selection.rss, strict=True):
        truth = Reference(problem.used()[:3], degree, "power", (-1.0, 1.0))
        # Beside what the data allow: criteria compare n ln(rss), so that 1e-6 of rss decides nothing.
        allowed = truth.error_of_rss + truth.rss * ctx.mpf(1e-6) + ctx.ldexp(1, -1000)
        if truth.rss < 1e300:
            judge.within(f"rss of degree {degree}", ours, truth.rss, allowed)
        if truth.rss <= truth.error_of_rss * 1e3:
            return  # the criterion is that of rounding
        values[degree] = float(n * ctx.log(truth.rss / n)) + parameters(criterion, degree, n)
    best = min(values.values())
    chosen = values[fit.degree]
    is_best = chosen <= best + 1e-5 * n + 1e-9 * abs(best)
    judge.true(f"degree {fit.degree} with {criterion} {chosen}; the smallest is {best}", is_best)


def parameters(criterion: str, degree: int, n: int) -> float:
    """What a criterion adds for the coefficients and the variance."""
    k = degree + 2
    if criterion == "bic":
        return k * math.log(n)
    if criterion == "aic":
        return 2.0 * k
    return 2.0 * k + 2.0 * k * (k + 1) / (n - k - 1) if n - k - 1 > 0 else math.inf


# --- Moments ---


def attack_moments(rng: Rng, judge: Judge) -> None:
    """Moments of parts, merged: as right as normal equations are."""
    problem = draw(rng, places=("near zero", "shifted", "far", "years", "Unix seconds"), largest_degree=7)
    x, y, w, _ = problem.used()
    lo, hi = float(min(x)), float(max(x))
    width = (hi - lo) or 1.0
    domain = one_of(rng, ((lo, hi), (lo - 0.2 * width, hi + 0.1 * width), (lo - width, hi)))
    if not domain[0] < domain[1]:
        return
    judge.problem |= {"x": problem.x, "y": problem.y, "degree": problem.degree, "domain": domain, **problem.options}
    judge.problem["drawn as"] = problem.place
    cuts = np.sort(rng.integers(0, len(problem.x) + 1, int(rng.integers(0, 4))))
    weight = problem.options.get("weight")
    judge.problem["cuts"] = cuts.tolist()
    total = polyfit.Moments(problem.degree, domain=domain)
    for index in np.split(np.arange(len(problem.x)), cuts):
        at = torch.from_numpy(index)
        part = polyfit.Moments(problem.degree, domain=domain)
        answer = judge.ask(part.update, problem.x[at], problem.y[at], None if weight is None else weight[at])
        if answer is None:
            return
        total = total + part
    judge.true(f"{total.n_samples} samples of {len(x)}", total.n_samples == len(x))
    ridge = one_of(rng, (0.0, 0.0, 0.0, power_of_ten(rng, -6, 2)))
    judge.problem["ridge"] = ridge
    fit = judge.ask(total.fit, ridge=ridge)
    if fit is None or judge.said or fit.status not in {"ok", "interpolates"}:
        if fit is not None and fit.status not in {"ok", "interpolates"}:
            judge.said.append(f"status {fit.status}")
        return
    try:
        truth = Reference((x, y, w), problem.degree, "chebyshev", domain, None, ridge)
    except SingularError:
        judge.wrong.append("the data do not determine the coefficients, and nothing says so")
        return
    # In Chebyshev polynomials on the domain, normal equations have the condition of these columns, squared.
    heaviest = max(truth.weight)
    rows = [
        [ctx.sqrt(v / heaviest) * dot(row, at) for row in truth.functions]
        for v, at in zip(truth.weight, truth.rows, strict=True)
    ]
    shrinking = ctx.sqrt(exactly(ridge) / heaviest)
    rows += [[shrinking * (j == k) for j in range(truth.degree + 1)] for k in range(1, truth.degree + 1)]
    condition = scaled_condition(rows)
    if condition > 1e7:
        judge.wrong.append(f"the condition on the domain is {condition:.1e}, above the stated 1e7, and nothing says so")
        return
    mean = dot(truth.weight, truth.y) / ctx.fsum(truth.weight)
    offset = max(map(abs, truth.y)) if truth.n < 3 else max(abs(v - mean) for v in truth.y)
    sum_of_weights = ctx.fsum(truth.weight)
    lengths = [ctx.norm(column) * ctx.sqrt(heaviest) for column in zip(*rows, strict=True)]
    for k, (ours, exact) in enumerate(zip(fit.coef.tolist(), truth.user_coef, strict=True)):
        growth = 128 * (truth.degree + 2) ** 2 * EPS * condition**2 * ctx.sqrt(sum_of_weights) / min(lengths)
        judge.within(f"coef[{k}]", ours, exact, growth * (offset + abs(mean) * 2.0**-20) + 4 * EPS * abs(exact))
    if not ridge:
        square = ctx.fsum(w_ * (v - mean) ** 2 for w_, v in zip(truth.weight, truth.y, strict=True))
        square += sum_of_weights * (offset + abs(mean) * 2.0**-20) ** 2
        allowed = 512 * (truth.degree + 2) * EPS * condition**2 * square + 1e-13 * truth.rss + ctx.ldexp(1, -1070)
        judge.within("rss", fit.rss, truth.rss, allowed)


KINDS = {"selection": attack_selection, "moments": attack_moments}
