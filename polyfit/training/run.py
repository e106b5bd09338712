"""`polyfit.train`: descent on the coefficients."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from polyfit import functional, losses, optimizers
from polyfit._checks import check_count, data_tensors
from polyfit._problem import canonical_problem
from polyfit.backends import chunked, native, select, triton
from polyfit.monitor import Monitor, View
from polyfit.monitor.calling import MonitorGroup
from polyfit.training import dynamics
from polyfit.training.agreement import checked_plan
from polyfit.training.engines import Adaptive, ClosedForm, Engine, Graphed, Launching, State, Stepping
from polyfit.training.passes import batches, data_pass, quadratic_pass
from polyfit.training.quadratic import OVERFLOWS, Quadratic
from polyfit.training.request import Plan, Request, make_plan, scaled_problem, sound_samples
from polyfit.training.result import EarlyStopping, Training
from polyfit.training.resuming import Resumable, resumed
from polyfit.training.supervision import Interrupts, Supervisor


def train(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    coef: ArrayLike | Tensor,
    *,
    optimizer: optimizers.Rule,
    epochs: int,
    loss: str | losses.Loss = "mse",
    reduction: str = "mean",
    per_series: bool = False,
    weight: ArrayLike | Tensor | None = None,
    basis: str = "power",
    domain: Sequence[float] | None = None,
    lr_scale: ArrayLike | Tensor | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    record_every: int = 100,
    keep_path: bool = False,
    early_stopping: EarlyStopping | None = None,
    monitor: Monitor | Sequence[Monitor] | None = None,
    engine: str = "auto",
    impl: str = "auto",
    check_stability: bool = True,
    resume: dict[str, Any] | None = None,
) -> Training:
    r"""Minimise `polyfit.polynomial_loss` over the coefficients by descent.

    .. math:: c_{t+1} = \text{update}(c_t, \nabla L(c_t)), \qquad t = 0 \ldots T - 1

    by the update rules of torch.optim, which for plain SGD is :math:`c_t - \eta \, \nabla L(c_t)`.

    Ctrl-C ends the run after the present epoch, and the result so far is returned. A second Ctrl-C raises.

    Args:
        x: samples, ``(*batch, N)``; any shape with a 1-D `coef`. A tensor, or anything that numpy.asarray takes.
            Integers become float64. x, y, coef and weight are promoted to one dtype.
        y: targets, as for `polynomial_loss`.
        coef: the start, ``(*batch, degree + 1)``, lowest degree first. It is not changed.
        optimizer: the update rule, one of `polyfit.optimizers`: SGD, Adam, AdamW or RMSprop. Its rate may be a
            schedule.
        epochs: number of updates, each from the gradient over all samples; with `batch_size` the number of passes.
        loss: as for `polynomial_loss`.
        reduction: "mean" or "sum". The learning rate refers to it.
        per_series: whether each series has a loss of its own, with "mean" over its own samples. Each series then also
            ends by itself, and its losses are recorded. Otherwise there is one loss, over everything.
        weight: as for `polynomial_loss`. A sample of weight zero is left out, whatever it holds.
        basis: as for `polynomial_loss`.
        domain: as for `polynomial_loss`.
        lr_scale: factors of the learning rate, one for each series: ``(*batch)``, or a shape that broadcasts to it.
        batch_size: samples of a batch; the last batch of an epoch may have fewer. Each batch gives one update, and
            `shuffled` draws the batches anew in each epoch. A schedule counts epochs. None for all samples at once.
            The gradient of a batch whose weights are all zero is zero.
        seed: of the shuffling.
        record_every: record the loss over all samples once in so many epochs, and at the first and the last one.
        keep_path: keep the coefficients of each record.
        early_stopping: when to end before the last epoch, see `EarlyStopping`.
        monitor: a function, or several, called at records with the epoch, the loss (with `per_series` the mean of the
            losses) and a copy of the coefficients. See `polyfit.monitor`, also for the time that monitors may take.
        engine: "auto", "closed_form", "moments", "resident" or "stepwise", see `polyfit.training`.
        impl: as for `polynomial_loss`. With "compile" the engine "moments" runs in C++.
        check_stability: refuse SGD at a constant rate that must diverge on the squared loss, before any update. If
            False, such a run ends at the epoch at which the loss becomes NaN or infinite.
        resume: the result of `Training.state_dict` of an earlier run. The run continues from there up to `epochs`. All
            other arguments must be as they were, except `early_stopping` and `monitor`.

    Returns:
        A `Training` with the coefficients, the recorded losses and the engine that ran; for the squared loss also the
        optimum and how far from it the run ended.

    Raises:
        TypeError: as for `polynomial_loss`; data that are not real numbers, a count that is not an int, an optimizer of
            another kind.
        ValueError: as for `polynomial_loss`; data or a start that are not finite; weights that are negative, or all
            zero in a series; a count out of range, more records than memory holds, an engine that is unknown or does
            not apply, a rate that must diverge, the state of another run.

    >>> import torch, polyfit
    >>> x = torch.linspace(-1, 1, 101, dtype=torch.float64)
    >>> start = torch.zeros(2, dtype=torch.float64)
    >>> result = polyfit.train(x, 3 - x, start, optimizer=polyfit.optimizers.SGD(lr=0.5), epochs=200)
    >>> [round(value, 6) for value in result.coef.tolist()]
    [3.0, -1.0]
    >>> result.engine, result.losses.epochs.tolist()
    ('closed_form', [0, 100, 200])
    >>> result.epochs_to(0.01)
    12

    References:
        The updates are those of torch.optim.
    """
    request = Request.of(
        x=x, y=y, coef=coef, optimizer=optimizer, epochs=epochs, loss=loss, reduction=reduction, per_series=per_series,
        weight=weight, basis=basis, domain=domain, lr_scale=lr_scale, batch_size=batch_size, seed=seed,
        record_every=record_every, keep_path=keep_path, early_stopping=early_stopping, monitor=monitor, engine=engine,
        impl=impl, check_stability=check_stability, resume=resume,
    )  # fmt: skip
    with torch.no_grad(), select.without_autocast(request.x.device):
        return _run(*checked_plan(make_plan(request)))


def _run(plan: Plan, quadratic: Quadratic | None) -> Training:
    """Make the epochs of a plan, whose quadratic may be known."""
    request = plan.request
    monitors = MonitorGroup(request.monitor)
    supervisor = Supervisor(
        request.record_every,
        plan.n_series,
        per_series=request.per_series,
        early_stopping=request.early_stopping,
        monitors=monitors,
        as_coef=plan.as_coef,
        keep_path=request.keep_path,
    )
    descent = _descent(plan, quadratic)
    if descent is not None and request.check_stability and request.batch_size is None:
        _check_stability(descent)
    if descent is not None and plan.choice.engine == "closed_form":
        _warn_of_lost_modes(descent, request.epochs)
    engine = _engine(plan, quadratic)
    state = engine.start(plan.start)
    if request.resume is not None:
        state = resumed(plan, request.resume, engine, supervisor, state)
    monitors.begin(View(request.x, request.y, request.epochs, _evaluator(request.basis, request.domain)))
    with Interrupts(supervisor):
        state = engine.run(state, request.epochs, supervisor)
        diverged = supervisor.finish(state.epoch, engine.losses(state.coef), state.coef)
        if diverged is not None:
            state = state.with_coef(engine.settle(supervisor, state, state.epoch, diverged))
        supervisor.settle(state.coef, lambda: engine.losses(state.coef))
        result = _result(plan, state, quadratic, descent, supervisor)
        with contextlib.suppress(KeyboardInterrupt):  # the run is complete: only the monitors are still to be ended
            monitors.end(result.losses, result.coef)
    return result


def _evaluator(basis: str, domain: Sequence[float] | None) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, coef: functional.polyval(x, coef, basis=basis, domain=domain)


# --- engines ---

# Epochs of one series in the first launch of an engine; 0.2 s are allowed. On an H100 (Triton 3.6.0, 2026-11-26) an
# epoch of moments takes 65 ns, with Adam 0.9 us, whatever the number of samples: 90 ms at most. An epoch of resident
# takes 0.44 us with 2000 samples and 6 coefficients, 0.7 us with Adam. With 8192 samples, 11 coefficients and Adam it
# is estimated at 4 us: 40 ms. With float64 on a GPU that has few units for it, it takes tens of times as long.
_FIRST_OF_MOMENTS, _FIRST_OF_RESIDENT = 100_000, 10_000


def _engine(plan: Plan, quadratic: Quadratic | None) -> Engine[Any]:
    """The engine of a plan."""
    name, rule = plan.choice.engine, plan.rule
    if name == "closed_form":
        assert isinstance(rule, optimizers.SGD)
        assert quadratic is not None
        return ClosedForm(rule, quadratic, plan.lr_scale)
    if name == "moments":
        assert quadratic is not None
        return _moments(plan, quadratic)
    if name == "resident":
        return _resident(plan)
    measure, zeros = data_pass(plan.scaled, plan.scale)
    lr_scale: Any = plan.lr_scale
    if lr_scale is not None:
        lr_scale = torch.from_numpy(lr_scale).to(zeros) if isinstance(zeros, Tensor) else lr_scale.astype(zeros.dtype)
    batch_size = plan.request.batch_size
    if batch_size is None:
        kind = Graphed if plan.request.coef.device.type == "cuda" else Stepping
        return kind(rule, measure, zeros, lr_scale)
    n_batches = -(-plan.problem.x.shape[-1] // batch_size)
    return Stepping(rule, measure, zeros, lr_scale, batches(plan, zeros, batch_size), n_batches)


# The closed form knows the descent along a slow direction to this share of the initial error, or warns.
_LARGEST_ERROR = 1e-3
_EPS = float(np.finfo(np.float64).eps)


def _warn_of_lost_modes(descent: dynamics.Descent, epochs: int) -> None:
    """Warn where the run is so long that the rounding of the eigenvalues, p eps of the largest, is seen.

    In t epochs a slow direction goes t times as far as in one; so does the error of its curvature. It is seen if the
    direction has not converged by then.
    """
    values, momentum = descent.values, descent.rule.momentum
    of_epoch = values.shape[1] * _EPS * np.squeeze(descent.lr) * values[:, -1] / abs(1.0 - momentum or 1.0)
    may_be_lost = of_epoch * epochs > _LARGEST_ERROR
    if not may_be_lost.any():
        return
    with np.errstate(all="ignore"):
        is_lost = may_be_lost & (descent.radius**epochs > _LARGEST_ERROR) & descent.is_stable
    if is_lost.any():
        worst = _condition(values[is_lost, 0], values[is_lost, -1]).max()
        warnings.warn(
            f"epochs={epochs} is more than the closed form can follow: descent along the slowest directions of"
            f" {int(is_lost.sum())} of {len(is_lost)} series is lost in the rounding of float64. The Hessian has a"
            f" condition of {worst:.1e}. Pass a basis that is well conditioned on the data, such as basis='chebyshev'"
            " with domain=, or fewer epochs",
            RuntimeWarning,
            stacklevel=4,
        )


def _condition(smallest: optimizers.Array, largest: optimizers.Array) -> optimizers.Array:
    with np.errstate(all="ignore"):
        return np.where(smallest > 0.0, largest / smallest, np.inf)


def _moments(plan: Plan, quadratic: Quadratic) -> Engine[Any]:
    """Descent on the quadratic: in a kernel, in C++, or in numpy."""
    start, device = plan.start, plan.request.coef.device
    rule, (variant, constants) = plan.rule, plan.rule.kernel
    if plan.problem.impl == "triton" and start.shape[1] - 1 <= triton.LARGEST_DESCENT_DEGREE:
        make_loop = triton.descent_loop
    elif plan.problem.impl == "compile":
        make_loop, device = native.descent_loop, torch.device("cpu")
    else:
        measure = quadratic_pass(quadratic)
        if len(start) == 1 and isinstance(rule, (optimizers.Adam, optimizers.AdamW)):
            return Adaptive(rule, quadratic, measure, plan.lr_scale)
        return Stepping(rule, measure, np.zeros_like(start), plan.lr_scale)
    compiled = make_loop(quadratic.tensors(device), variant, constants, _lr_scale_tensor(plan, device))

    def loop(*operands: Any) -> None:
        compiled(*operands)
        operands[6].clamp_(min=0.0)  # the losses: see `Quadratic.losses`

    zeros = torch.zeros(start.shape, dtype=torch.float64, device=device)

    def losses_of(coef: Tensor) -> optimizers.Array:
        return quadratic.losses(coef.cpu().numpy())

    one_row = make_loop is triton.descent_loop
    return Launching(rule, loop, losses_of, zeros, first_launch=_FIRST_OF_MOMENTS, takes_one_row=one_row)


def _resident(plan: Plan) -> Engine[Any]:
    """Descent with the data in the registers of a GPU."""
    problem = plan.scaled
    x, y = torch.atleast_2d(problem.x), torch.atleast_2d(problem.y)
    weight = None if problem.weight is None else torch.atleast_2d(problem.weight)
    lr_scale = _lr_scale_tensor(plan, plan.request.coef.device)
    loop = triton.resident_loop(x, y, weight, problem.model, plan.scale, *plan.rule.kernel, lr_scale)
    measure, zeros = data_pass(problem, plan.scale)
    zeros = zeros if isinstance(zeros, Tensor) else torch.from_numpy(zeros)

    def losses_of(coef: Tensor) -> optimizers.Array:
        values = measure(coef if coef.device.type != "cpu" else coef.numpy(), True)[0]
        return values.double().cpu().numpy()

    return Launching(plan.rule, loop, losses_of, zeros, first_launch=_FIRST_OF_RESIDENT, takes_one_row=True)


def _lr_scale_tensor(plan: Plan, device: torch.device) -> Tensor | None:
    """Factors of the rate (S,), as compiled loops take them."""
    return None if plan.lr_scale is None else torch.from_numpy(plan.lr_scale).squeeze(1).to(device)


# --- stability, and what the quadratic says of a result ---


def _descent(plan: Plan, quadratic: Quadratic | None) -> dynamics.Descent | None:
    """What is known of SGD at a constant rate on a quadratic."""
    rule = plan.rule
    if quadratic is None or not isinstance(rule, optimizers.SGD) or optimizers.is_schedule(rule.lr):
        return None
    lr = optimizers.rate(rule.lr, 0)
    return dynamics.Descent(rule, quadratic.eigenvalues, lr if plan.lr_scale is None else lr * plan.lr_scale)


def _check_stability(descent: dynamics.Descent) -> None:
    is_stable = descent.is_stable
    if is_stable.all():
        return
    values, largest = descent.values, descent.largest_lr
    lr = np.broadcast_to(descent.lr, (len(values), 1))
    worst = int(np.argmax(np.where(is_stable, 0.0, lr[:, 0] / largest)))
    which = "" if len(values) == 1 else f" for {int((~is_stable).sum())} of {len(values)} series, number {worst} most"
    raise ValueError(
        f"lr={lr[worst, 0]:g} must diverge on these data{which}: the largest stable rate is {largest[worst]:.6g}."
        " Pass a smaller one, or check_stability=False to see it diverge"
    )


def _result(
    plan: Plan,
    state: State[Any],
    quadratic: Quadratic | None,
    descent: dynamics.Descent | None,
    supervisor: Supervisor,
) -> Training:
    """The result of a run."""
    batch = plan.problem.batch
    updates, reasons = supervisor.outcome(batch)
    return Training(
        plan.as_coef(state.coef),
        supervisor.losses(batch),
        int(updates.max()) if updates.numel() else 0,
        plan.choice.engine,
        updates,
        reasons,
        supervisor.path(),
        **({} if quadratic is None else _optimum(plan, quadratic, descent, supervisor)),
        _state=Resumable(plan, state, supervisor),
    )


def _optimum(
    plan: Plan, quadratic: Quadratic, descent: dynamics.Descent | None, supervisor: Supervisor
) -> dict[str, Any]:
    """What the quadratic says of the optimum, and of the way there."""
    per_series, values = plan.request.per_series, quadratic.eigenvalues
    smallest, largest = values[:, 0], values[:, -1]
    if not per_series:
        smallest, largest = smallest.min(keepdims=True), largest.max(keepdims=True)
    known = {
        "optimum": plan.as_coef(quadratic.minimum),
        "optimal_loss": plan.of_groups(supervisor.totals(quadratic.loss)),
        "condition": plan.of_groups(_condition(smallest, largest)),
    }
    if descent is None:
        return known
    stable, slowest = descent.largest_lr, descent.radius
    if not per_series:
        stable, slowest = stable.min(), slowest.max()
    return known | {"max_stable_lr": plan.of_groups(stable), "slowest_rate": plan.of_groups(slowest)}


def max_stable_lr(
    x: ArrayLike | Tensor,
    degree: int,
    *,
    weight: ArrayLike | Tensor | None = None,
    reduction: str = "mean",
    basis: str = "power",
    domain: Sequence[float] | None = None,
) -> float:
    r"""The largest learning rate at which gradient descent on the squared error does not diverge.

    .. math:: \eta_{max} = \frac{2}{\lambda_{max}(H)}, \qquad H_{jk} = 2 \sum_n w_n P_j(t_n) P_k(t_n)

    divided by the sum of the weights for "mean". It depends on x and the weights alone, not on y. It takes one pass, in
    float64.

    Args:
        x: samples of one series, any shape.
        degree: of the polynomial.
        weight: as for `polynomial_loss`.
        reduction: "mean" or "sum".
        basis: as for `polynomial_loss`.
        domain: as for `polynomial_loss`.

    >>> import torch
    >>> max_stable_lr(torch.tensor([-1.0, 1.0]), 1)  # H = 2 I
    1.0

    References:
        Any text on descent: the error along an eigenvector of H with eigenvalue v shrinks by 1 - lr v an update.
    """
    degree = check_count("degree", degree, 0)
    given = data_tensors({"x": x, "weight": weight})
    samples, weights = (None if part is None else part.detach().reshape(-1) for part in given.values())
    assert samples is not None
    start = torch.zeros(degree + 1, dtype=samples.dtype, device=samples.device)
    problem = canonical_problem(
        samples,
        torch.zeros_like(samples),
        start,
        loss="mse",
        weight=weights,
        reduction=reduction,
        per_series=False,
        basis=basis,
        domain=domain,
        impl="auto",
    )
    problem = sound_samples(problem)
    weight_row = None if problem.weight is None else problem.weight[None]
    gram = chunked.gram(problem.x[None], weight_row, degree, problem.model.affine_map, problem.model.basis)[0]
    if not bool(gram.isfinite().all()):
        raise ValueError(OVERFLOWS)
    largest = float(torch.linalg.eigvalsh(2.0 * gram)[-1]) * scaled_problem(problem, reduction, per_series=False)[1]
    return 2.0 / largest if largest > 0 else math.inf
