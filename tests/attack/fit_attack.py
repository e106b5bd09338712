"""`fit` of hostile data against 50 digits: every answer of the result."""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import torch
from draws import (
    BASES,
    PLACES,
    SHAPES,
    TARGETS,
    Rng,
    chance,
    contained,
    one_of,
    other_defaults,
    power_of_ten,
    sizes,
    targets,
    weights,
)
from reference import (
    DATA_ROUNDINGS,
    EPS,
    Reference,
    SingularError,
    ctx,
    dot,
    exactly,
    inverse_of_triangle,
    powers_of,
    user_functions,
)
from torch import Tensor
from verdict import Judge

import polyfit
from polyfit import Fit

F64 = torch.float64
# Below this condition a fit of data of usual size, without fixed coefficients and ridge, must be right: a warning
# would be noise.
_EASY = 1e6


@dataclass
class Problem:
    """The data as stored, in float64, and the options of a fit."""

    x: Tensor
    y: Tensor
    degree: int
    options: dict[str, Any] = field(default_factory=dict)
    place: str = ""
    is_narrow: bool = False  # stored in fewer digits than float64, of which a fit may warn

    def used(self) -> tuple[list[Fraction], list[Fraction], list[Fraction], list[int]]:
        """x, y and weight of the samples of nonzero weight, and their indices."""
        n = len(self.x)
        weight = self.options.get("weight")
        sigma = self.options.get("sigma")
        if sigma is not None:
            values = [sigma] * n if isinstance(sigma, float) else floats(sigma)
            # Scaled by a power of two, which is exact, so that the square stays within float64.
            exponents = [math.frexp(value)[1] for value in values]
            w = [
                Fraction(math.ldexp(value, -e) ** -2) * Fraction(2) ** (-2 * e)
                for value, e in zip(values, exponents, strict=True)
            ]
        else:
            w = [Fraction(1)] * n if weight is None else [Fraction(value) for value in floats(weight)]
        at = [i for i in range(n) if w[i]]
        x, y = self.x.tolist(), self.y.tolist()
        return [Fraction(x[i]) for i in at], [Fraction(y[i]) for i in at], [w[i] for i in at], at


def floats(values: Any) -> list[float]:
    """The numbers of a tensor, an array or a list."""
    return [float(value) for value in (values if isinstance(values, list) else values.tolist())]


def draw(rng: Rng, *, places: tuple[str, ...] = tuple(PLACES), largest_degree: int = 8, most: int = 100) -> Problem:
    """Data and weights of a hostile kind, without basis, fixed and ridge."""
    degree = int(rng.integers(0, largest_degree + 1))
    place, shape = one_of(rng, places), one_of(rng, tuple(SHAPES))
    centre, scale = PLACES[place](rng)
    n = min(sizes(rng, degree + 1), most)
    t = SHAPES[shape](rng, n, degree)
    x = centre + scale * t
    y = targets(rng, t, one_of(rng, TARGETS))
    if chance(rng, 0.1):
        y = y * one_of(rng, (1e-160, 1e-30, 1e30, 1e150))
    options: dict[str, Any] = {}
    kind = one_of(rng, ("none", "none", "none", "uniform", "over 20 orders", "around 1e200", "around 1e-200", "zeros"))
    problem = Problem(torch.from_numpy(x), torch.from_numpy(y), degree, options, f"{place}, {shape}, weights {kind}")
    if kind != "none":
        weight = torch.from_numpy(weights(rng, n, kind))
        if kind == "zeros":
            more = int(rng.integers(1, 5))
            junk = torch.tensor([one_of(rng, (math.nan, math.inf, 1e300, 0.0)) for _ in range(more)], dtype=F64)
            order = torch.from_numpy(rng.permutation(n + more))
            problem.x = torch.cat((problem.x, junk if chance(rng, 0.5) else problem.x[:1].expand(more)))[order]
            problem.y = torch.cat((problem.y, junk.flip(0)))[order]
            weight = torch.cat((weight, torch.zeros(more, dtype=F64)))[order]
        options["weight"] = weight
    return problem


def with_form(rng: Rng, problem: Problem) -> None:
    """Draw basis and domain of the coefficients."""
    finite = problem.x[problem.x.isfinite()]
    lo, hi = float(finite.min()), float(finite.max())
    width = (hi - lo) or 1.0
    basis = one_of(rng, BASES)
    domain = one_of(
        rng,
        (
            "auto",
            "auto",
            "data",
            None,
            (lo - 0.1 * width, hi + 0.3 * width),
            (lo + 3.0 * width, lo + 5.0 * width),
            (-1.0, 1.0),
            (0.0, 1e-3 * width),
        ),
    )
    if isinstance(domain, tuple) and not domain[0] < domain[1]:
        domain = "data"
    problem.options |= {"basis": basis, "domain": domain}


def with_conditions(rng: Rng, problem: Problem) -> None:
    """Draw fixed coefficients, or ridge, or both."""
    kind = one_of(rng, ("fixed", "fixed", "ridge", "ridge", "both"))
    if kind != "ridge":
        count = int(rng.integers(1, problem.degree + 2))
        index = rng.permutation(problem.degree + 1)[:count] if chance(rng, 0.5) else np.arange(count)
        problem.options["fixed"] = {
            int(k): one_of(rng, (0.0, 0.0, 1.0, float(rng.standard_normal()))) for k in sorted(index)
        }
    if kind != "fixed":
        problem.options["ridge"] = one_of(rng, (1.0, power_of_ten(rng, -12, 6)))


# --- the kinds ---


def attack_fit(rng: Rng, judge: Judge) -> None:
    """Plain fits: all places, shapes, weights, bases and domains."""
    problem = draw(rng)
    with_form(rng, problem)
    if chance(rng, 0.15):
        problem.options["precision"] = "double"
    if chance(rng, 0.2) and "weight" not in problem.options:
        with_sigma(rng, problem)
    judge_fit(rng, judge, problem)


def attack_conditions(rng: Rng, judge: Judge) -> None:
    """Fits with fixed coefficients and ridge."""
    problem = draw(rng, largest_degree=6)
    with_form(rng, problem)
    with_conditions(rng, problem)
    judge_fit(rng, judge, problem)


def attack_far_squares(rng: Rng, judge: Judge) -> None:
    """High degrees at places whose powers, or their squares, leave float64."""
    places = ("nanoseconds", "around 1e-30", "around 1e200", "Unix seconds")
    problem = draw(rng, places=places, largest_degree=12, most=25)
    problem.options |= {"basis": one_of(rng, ("power", "power", "legendre")), "domain": None}
    judge_fit(rng, judge, problem)


def attack_inputs(rng: Rng, judge: Judge) -> None:
    """Containers, dtypes, layouts, default device and default dtype; the numbers are easy."""
    problem = draw(rng, places=("near zero", "shifted", "years"), largest_degree=4)
    if "zeros" not in problem.place:
        problem.options.pop("weight", None)
    with_form(rng, problem)
    dtypes = (torch.float64, torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64)
    dtype = one_of(rng, dtypes)
    for name in ("x", "y"):
        own = dtype if chance(rng, 0.7) else one_of(rng, dtypes)
        values = getattr(problem, name)
        values = (16.0 * values if own == torch.int64 else values).to(own)
        setattr(problem, name, values)
    if "weight" not in problem.options and chance(rng, 0.4):
        problem.options["weight"] = torch.from_numpy(weights(rng, len(problem.x), one_of(rng, ("uniform", "integers"))))
    elif "weight" not in problem.options and chance(rng, 0.4):
        with_sigma(rng, problem)
    # numpy has no bfloat16, and lists hold Python's numbers: float64
    containers = ("tensor", "tensor", "numpy", "numpy, reversed", "list")
    given = Problem(problem.x, problem.y, problem.degree, dict(problem.options), problem.place)
    given.x, given.y = (contained(rng, values, one_of(rng, containers)) for values in (problem.x, problem.y))
    for name in ("weight", "sigma"):
        if isinstance(values := problem.options.get(name), Tensor):
            given.options[name] = contained(rng, values, one_of(rng, containers))
    default = one_of(rng, (torch.float32, torch.float64, torch.float16))
    device = one_of(rng, (None, "meta"))
    judge.problem |= {"default dtype": default, "default device": device}
    with other_defaults(default, device):
        fit = ask_fit(judge, given)
        others = None if fit is None else (fit.coef, fit.std_err, fit.covariance, fit.predict([0.5, 1.0]))
    if fit is None or others is None:
        return
    judge.true("coef, std_err, covariance and values are float64", all(part.dtype == F64 for part in others))
    judge.true("results are on the CPU", all(part.device.type == "cpu" for part in others))
    problem.is_narrow = problem.x.dtype != F64
    problem.x, problem.y = problem.x.double(), problem.y.double()
    judge_answers(rng, judge, problem, fit)


def with_sigma(rng: Rng, problem: Problem) -> None:
    """Draw standard deviations in place of weights."""
    n = len(problem.x)
    if chance(rng, 0.25):
        problem.options["sigma"] = float(rng.uniform(0.1, 3.0))
    else:
        scale = one_of(rng, (1.0, 1.0, 1e-160, 1e160))
        problem.options["sigma"] = torch.from_numpy(scale * weights(rng, n, "uniform"))
    if chance(rng, 0.4):
        problem.options["absolute_sigma"] = True


def ask_fit(judge: Judge, problem: Problem) -> Fit | None:
    """The fit of a problem."""
    judge.problem |= {
        "x": problem.x,
        "y": problem.y,
        "degree": problem.degree,
        **problem.options,
        "drawn as": problem.place,
    }
    return judge.ask(polyfit.fit, problem.x, problem.y, problem.degree, **problem.options)


def judge_fit(rng: Rng, judge: Judge, problem: Problem) -> None:
    """Fit, and judge every answer."""
    fit = ask_fit(judge, problem)
    if fit is not None:
        judge_answers(rng, judge, problem, fit)
    elif not judge.wrong:
        judge_saying(judge, problem)


def asked_domain(problem: Problem) -> Any:
    """The domain in which the user means his coefficients."""
    basis, domain = problem.options.get("basis", "chebyshev"), problem.options.get("domain", "auto")
    if domain == "auto":
        domain = None if basis == "power" else "data"
    if domain != "data":
        return domain
    x = [float(value) for value in problem.used()[0]]
    lo, hi = min(x), max(x)
    return (lo, hi) if lo < hi else None


def reference_of(problem: Problem, domain: Any) -> Reference:
    """The exact fit."""
    options = problem.options
    return Reference(
        problem.used()[:3],
        problem.degree,
        options.get("basis", "chebyshev"),
        domain,
        options.get("fixed"),
        options.get("ridge", 0.0),
    )


def is_easy(problem: Problem, truth: Reference) -> bool:
    """Whether nothing excuses a warning or a refusal."""
    numbers = [abs(value) for values in problem.used()[:3] for value in values if value]
    return (
        not problem.is_narrow
        and not problem.options.get("fixed")
        and not problem.options.get("ridge")
        and truth.condition < _EASY
        and truth.freedom >= 1
        and all(10.0**-100 < value < 10.0**100 for value in numbers)
        and all(not c or 1e-290 < abs(c) < 1e290 for c in truth.user_coef)
    )


def judge_saying(judge: Judge, problem: Problem) -> None:
    """A refusal or a warning must have a reason."""
    try:
        truth = reference_of(problem, asked_domain(problem))
    except SingularError:
        return
    judge.true(f"needless: {judge.said[:1]}", not is_easy(problem, truth))


def judge_answers(rng: Rng, judge: Judge, problem: Problem, fit: Fit) -> None:
    """Every answer of a fit, unless the fit has said that it is none."""
    if fit.status not in {"ok", "interpolates"}:
        judge.said.append(f"status {fit.status}")
    domain = asked_domain(problem)
    x = problem.used()[0]
    if domain is None and min(x) == max(x) and problem.options.get("domain", "auto") != "auto":
        domain = fit.domain
    if problem.options.get("domain", "auto") in {"data", "auto"} and min(x) == max(x):
        domain = fit.domain
    judge.true(f"domain {fit.domain}, asked {domain}", fit.domain == domain)
    try:
        truth = reference_of(problem, domain)
    except SingularError:
        if not judge.said:
            judge.wrong.append("the data do not determine the coefficients, and nothing says so")
        judge_projection(judge, problem, fit)
        return
    if judge.said:
        judge.true(f"needless: {judge.said[:1]}", not is_easy(problem, truth))
        return
    if fit.precision != "extended":
        judge_double(judge, problem, fit, truth)
        return
    weight = problem.used()[2]
    sharp = not fit.fixed and not problem.options.get("ridge") and "sigma" not in problem.options
    sharp = sharp and max(weight) < 10**6 * min(weight)
    judge_coef(judge, fit, truth, sharp)
    judge_values(rng, judge, fit, truth, sharp)
    judge_sums(judge, problem, fit, truth)
    judge_errors(rng, judge, problem, fit, truth)
    if chance(rng, 0.2):
        judge_file(judge, fit)
    if chance(rng, 0.3):
        basis = one_of(rng, BASES)
        to = one_of(rng, (None, fit.domain, (-1.0, 1.0), (float(min(x)) - 1.0, float(max(x)) + 2.0)))
        judge_in_basis(judge, problem, fit, truth, basis, to, sharp)


def judge_coef(judge: Judge, fit: Fit, truth: Reference, sharp: bool) -> None:
    """Coefficient by coefficient: right to its own rounding and what the data allow."""
    for k, (ours, exact) in enumerate(zip(fit.coef.tolist(), truth.user_coef, strict=True)):
        allowed = 0 if k in truth.fixed else truth.allowed(truth.to_user[k], is_extended=sharp)
        allowed += ctx.ldexp(abs(exact), -53) * 1.01 + ctx.ldexp(1, -1074)
        if abs(exact) > 1.7e308:
            judge.true(f"coef[{k}] overflows, and nothing says so", judge.said)
        else:
            judge.within(f"coef[{k}]", ours, exact, allowed)


def judge_values(rng: Rng, judge: Judge, fit: Fit, truth: Reference, sharp: bool) -> None:
    """The polynomial over the data and beside them, by the fit and by its coefficients."""
    lo, hi = map(float, truth.internal)
    picked = [float(truth.x[int(i)]) for i in rng.integers(0, truth.n, 4)]
    picked += [lo, hi, lo + 0.37 * (hi - lo), hi + 0.1 * (hi - lo)]
    values = judge.ask(fit, torch.tensor(picked, dtype=F64))
    passed = judge.ask(lambda: polyfit.polyval(torch.tensor(picked, dtype=F64), **fit.as_arguments()))
    if values is None:
        return
    for i, place in enumerate(picked):
        x = exactly(place)
        row, exact = truth.row(x), truth.value(x)
        base = truth.allowed(row, is_extended=sharp)
        t = (x - truth._centre) * truth._slope
        size = ctx.fsum(abs(c) * (k + 1) * max(1, abs(v)) for k, (c, v) in enumerate(zip(truth.coef, row, strict=True)))
        slope = abs(dot(truth.coef, truth.row_of_slopes(x)) / truth._slope * t)
        allowed = base + 4 * EPS * ((fit.degree + 2) * size + slope) + ctx.ldexp(1, -1060)
        judge.within(f"p({place!r})", float(values[i]), exact, allowed)
        if passed is not None:
            rounding = rounding_of_polyval(fit, place)
            if rounding is not None:
                judge.within(f"polyval({place!r}, as_arguments)", float(passed[i]), exact, base + rounding)


def rounding_of_polyval(fit: Fit, place: float) -> Any:
    """The rounding of evaluating the coefficients of a fit in float64; None where a part leaves float64."""
    t = exactly(place)
    window = 0.0
    if fit.domain is not None:
        start, stop = (0, 1) if fit.basis == "laguerre" else (-1, 1)
        lo, hi = map(exactly, fit.domain)
        t = start + (t - lo) * (stop - start) / (hi - lo)
        window = 1.0
    size, slope = ctx.zero, ctx.zero
    for k, c in enumerate(fit.coef.tolist()):
        for j, a in enumerate(powers_of(fit.basis, k)):
            part = abs(exactly(a) * exactly(c)) * abs(t) ** j
            size += part
            slope += j * part / abs(t) if j and t else 0
        largest = max(abs(exactly(a)) * abs(t) ** j for j, a in enumerate(powers_of(fit.basis, k)))
        if largest > 1e300 or (c and not 1e-300 < abs(c) < 1e300) or (c == 0.0 and k):
            return None
        if t and abs(t) ** k < 1e-300:  # powers of x underflow, of which the fit warns
            return None
    rounding = 4 * EPS * ((fit.degree + 2) * size + slope * (abs(t) + window))
    return None if rounding > 1e290 else rounding + ctx.ldexp(1, -1060)


def judge_sums(judge: Judge, problem: Problem, fit: Fit, truth: Reference) -> None:
    """rss, degrees of freedom, R^2."""
    scale = ctx.mpf(2) ** -1000
    if truth.rss < 1e300 and truth.error_of_rss < 1e300:
        judge.within("rss", fit.rss, truth.rss, truth.error_of_rss + scale)
    judge.within("degrees of freedom", fit.degrees_of_freedom, truth.freedom, 1e-9 * truth.n)
    rounding = ctx.fsum(w * (8 * EPS * y) ** 2 for w, y in zip(truth.weight, truth.y, strict=True))
    if truth.total > 1e4 * rounding and truth.total > 0:
        error = truth.error_of_rss / truth.total + (truth.rss / truth.total) * (
            8 * truth.n * EPS + 2 * DATA_ROUNDINGS * ctx.sqrt(rounding / truth.total)
        )
        if truth.rss > 1.7e308 * truth.total:
            judge.true(f"R^2: {fit.r_squared}, exact below -1.7e308", fit.r_squared == -math.inf)
            return
        judge.within("R^2", fit.r_squared, 1 - truth.rss / truth.total, error + 4 * EPS)


def judge_errors(rng: Rng, judge: Judge, problem: Problem, fit: Fit, truth: Reference) -> None:
    """Standard errors of the coefficients and of the polynomial, and its interval."""
    is_known = bool(problem.options.get("absolute_sigma"))
    if truth.condition > 1e9 or (fit.status == "interpolates" and not is_known) or truth.freedom < 1e-6 * truth.n:
        return
    variance = ctx.one if is_known else truth.rss / truth.freedom
    for k, ours in enumerate(fit.std_err.tolist()):
        if k in truth.fixed:
            judge.true(f"std_err[{k}] of a fixed coefficient is {ours}", ours == 0.0)
            continue
        exact, allowed = truth.error_of_std(truth.to_user[k], variance, is_known=is_known, is_value=False)
        if exact < 1.7e308:
            judge.within(f"std_err[{k}]", ours, exact, allowed + ctx.ldexp(1, -1060))
    lo, hi = map(float, truth.internal)
    picked = [lo, hi, lo + 0.37 * (hi - lo)]
    answer = judge.ask(fit.predict, torch.tensor(picked, dtype=F64), return_std=True)
    bounds = judge.ask(fit.interval, torch.tensor(picked, dtype=F64), 0.9)
    if answer is None or bounds is None:
        return
    for i, place in enumerate(picked):
        exact, allowed = truth.error_of_std(truth.row(exactly(place)), variance, is_known=is_known, is_value=True)
        allowed += 4 * EPS * (truth.degree + 2) ** 2 * exact * max(1.0, truth.condition)
        allowed += ctx.ldexp(1, -1060)
        judge.within(f"std at {place!r}", float(answer[1][i]), exact, allowed)
        half = (ctx.mpf(float(bounds[1][i])) - ctx.mpf(float(bounds[0][i]))) / 2
        if truth.freedom >= 1 or is_known:
            factor = quantile(0.95, None if is_known else float(truth.freedom))
            rounding = 4 * EPS * max(abs(float(bounds[0][i])), abs(float(bounds[1][i])))
            judge.within(f"half of the interval at {place!r}", half, factor * exact, factor * allowed * 1.01 + rounding)


def quantile(level: float, freedom: float | None) -> Any:
    """Of the normal distribution, or of Student's t, to 20 digits: the root of the distribution function."""
    with mpmath.workdps(25):
        if freedom is None:
            value = mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(level) - 1)
        else:
            tail, f = 2 * (1 - mpmath.mpf(level)), mpmath.mpf(freedom)

            def above(t: Any) -> Any:
                return mpmath.betainc(f / 2, 0.5, 0, f / (f + t * t), regularized=True) - tail

            from scipy.special import stdtrit

            start = float(stdtrit(freedom, level))  # only where to begin
            value = mpmath.findroot(above, (start, start * (1 + 1e-6)), tol=1e-36)
    return ctx.mpf(value)


def judge_file(judge: Judge, fit: Fit) -> None:
    """A file keeps all bits."""
    handle, path = tempfile.mkstemp(suffix=".json")
    os.close(handle)
    try:
        fit.save(path)
        loaded = judge.ask(Fit.load, path)
    finally:
        os.unlink(path)
    if loaded is None:
        return
    for name in ("coef", "std_err", "covariance"):
        ours, theirs = getattr(fit, name), getattr(loaded, name)
        judge.true(f"{name} after save and load", torch.equal(ours.nan_to_num(7.0), theirs.nan_to_num(7.0)))
    for name in ("basis", "domain", "rss", "r_squared", "degrees_of_freedom", "status", "fixed", "n_samples"):
        ours, theirs = getattr(fit, name), getattr(loaded, name)
        judge.true(f"{name} after save and load: {theirs!r} for {ours!r}", repr(ours) == repr(theirs))


def judge_in_basis(
    judge: Judge, problem: Problem, fit: Fit, truth: Reference, basis: str, domain: Any, sharp: bool
) -> None:
    """The same polynomial in another form: its coefficients."""
    if domain is not None and not domain[0] < domain[1]:
        return
    other = judge.ask(fit.in_basis, basis, domain)
    if other is None or judge.said:
        return
    ctx.dps = 2 * truth.dps + 200
    rows = inverse_of_triangle(user_functions(basis, domain, truth.internal, truth.degree))
    for k, row in enumerate(zip(*rows, strict=True)):
        exact = dot(row, truth.coef)
        allowed = truth.allowed(row, is_extended=sharp) + ctx.ldexp(abs(exact), -53) * 1.01 + ctx.ldexp(1, -1074)
        # A conversion is good to 2**-100 of its largest part.
        allowed += ctx.ldexp(ctx.fsum(abs(a * b) for a, b in zip(row, truth.coef, strict=True)), -98)
        if abs(exact) < 1.7e308:
            judge.within(f"in_basis({basis!r}, {domain}).coef[{k}]", float(other.coef[k]), exact, allowed)
    ctx.dps = truth.dps


def judge_double(judge: Judge, problem: Problem, fit: Fit, truth: Reference) -> None:
    """precision="double": as tests/polyfit/least_squares/fit_closeness.py derives it (Björck 1996, 1.4.3)."""
    if fit.fixed or problem.options.get("ridge") or truth.condition > 1e9:
        return
    largest_y = max(map(abs, truth.y))
    sum_of_weights = ctx.fsum(truth.weight)
    shortest = ctx.sqrt(min(truth.gram[k][k] for k in range(truth.degree + 1)))
    growth = 8.0 * (fit.degree + 2) * EPS * truth.condition * ctx.sqrt(sum_of_weights) / shortest
    residual = truth.condition * ctx.sqrt(truth.rss / sum_of_weights)
    tolerance = growth * (max(largest_y, (fit.degree + 1) * truth.largest) + residual)
    for k, (ours, exact) in enumerate(zip(fit.coef.tolist(), truth.user_coef, strict=True)):
        allowed = tolerance * ctx.fsum(map(abs, truth.to_user[k])) + ctx.ldexp(abs(exact), -52) + ctx.ldexp(1, -1074)
        if abs(exact) < 1.7e308:
            judge.within(f"coef[{k}]", ours, exact, allowed)


def judge_projection(judge: Judge, problem: Problem, fit: Fit) -> None:
    """Few distinct x: without fixed and ridge, p(x) is the weighted mean of y at each of them."""
    x, y, w, _ = problem.used()
    distinct = sorted(set(x))
    if problem.options.get("fixed") or problem.options.get("ridge") or len(distinct) > problem.degree:
        return
    lo, hi = (float(distinct[0]), float(distinct[-1])) if len(distinct) > 1 else (-1.0, 1.0)
    gaps = [float(b - a) / (hi - lo) for a, b in itertools.pairwise(distinct)]
    if gaps and min(gaps) < 0.05:
        return
    values = judge.ask(fit, torch.tensor([float(value) for value in distinct], dtype=F64))
    if values is None:
        return
    size = float(max(map(abs, y)))
    for place, ours in zip(distinct, values.tolist(), strict=True):
        group = [(a, b) for a, b, c in zip(y, w, x, strict=True) if c == place]
        exact = sum((a * b for a, b in group), Fraction(0)) / sum((b for _, b in group), Fraction(0))
        judge.within(f"mean at {float(place)!r}", Fraction(ours), exact, Fraction(1e-6 * size))


KINDS = {
    "fit": attack_fit,
    "conditions": attack_conditions,
    "far squares": attack_far_squares,
    "inputs": attack_inputs,
}
