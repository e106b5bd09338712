"""`polyfit.train`: what it is asked for, which engine it takes, and what it tells of the run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyfit import functional, losses, optimizers
from polyfit._checks import check_choice, check_count
from polyfit._problem import Problem, canonical_problem
from polyfit.backends import chunked, operators, select, triton
from polyfit.backends.results import Wants
from polyfit.least_squares.residuals import to_array
from polyfit.monitor import Monitor, View
from polyfit.monitor.calling import MonitorGroup
from polyfit.optimizers import Array
from polyfit.training import engines, native, quadratic
from polyfit.training.result import EarlyStopping, Training
from polyfit.training.watch import Interrupts, Watch
from polyfit_kernels import launch

ENGINES = ("auto", "closed_form", "moments", "resident", "stepwise")


def train(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    *,
    optimizer: optimizers.Rule,
    epochs: int,
    loss: str | losses.Loss = "mse",
    reduction: str = "mean",
    per_series: bool = False,
    weight: Tensor | None = None,
    basis: str = "power",
    domain: Sequence[float] | None = None,
    lr_scale: Tensor | None = None,
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

    Ctrl-C ends the run after the epoch that it is in, and what was reached is returned; a second one raises.

    Args:
        x: samples, ``(*batch, N)``; any shape with a 1-D `coef`.
        y: targets, as for `polynomial_loss`.
        coef: where to start, ``(*batch, degree + 1)``, lowest degree first. Not changed.
        optimizer: the update rule, one of `polyfit.optimizers`: SGD, Adam, AdamW or RMSprop. Its rate may be a
            schedule.
        epochs: number of updates, each from the gradient of all of the data; with `batch_size` of passes over them.
        loss: as for `polynomial_loss`.
        reduction: "mean" or "sum"; the learning rate counts in its units.
        per_series: whether each series is trained on a loss of its own, "mean" being over its own samples; it then also
            ends by itself, and its losses are recorded. If not there is one loss, over everything.
        weight: as for `polynomial_loss`.
        basis: as for `polynomial_loss`.
        domain: as for `polynomial_loss`.
        lr_scale: factors of the learning rate, one for each series: ``(*batch)``, or what broadcasts to it.
        batch_size: samples of a batch, the last one of an epoch may have fewer: updates are made from batches, which
            `shuffled` draws anew in each epoch. The rate is that of the epoch. None for all of the data at once.
        seed: of the shuffling.
        record_every: record the loss, over all of the data, after each so many epochs, besides the first and the last.
        keep_path: keep the coefficients at each record.
        early_stopping: when to end before the last epoch, see `EarlyStopping`.
        monitor: called at records with the epoch, the loss (the mean of them with `per_series`) and the coefficients (a
            copy); or several. See `polyfit.monitor`, also for the share of the time that they may take.
        engine: "auto", "closed_form", "moments", "resident" or "stepwise", see `polyfit.training`.
        impl: as for `polynomial_loss`. With "compile" the engine "moments" runs in C++.
        check_stability: refuse SGD at a constant rate that must diverge on the squared loss, before any update. If
            False it is run up to the epoch at which it leaves the finite numbers.
        resume: what `Training.state_dict` of an earlier run gave, to go on from it up to `epochs`. All else must be as
            it was there, but for `early_stopping` and `monitor`.

    Returns:
        A `Training` with the coefficients, the recorded losses and the engine that ran; for the squared loss also the
        optimum and how far from it the run ended.

    Raises:
        TypeError: as for `polynomial_loss`, or counts that are not integers, or an optimizer of another kind.
        ValueError: as for `polynomial_loss`, or counts out of range, an engine that is unknown or does not apply, a
            rate that must diverge, or a state of another run.

    >>> import torch, polyfit
    >>> x = torch.linspace(-1, 1, 101, dtype=torch.float64)
    >>> start = torch.zeros(2, dtype=torch.float64)
    >>> result = polyfit.train(x, 3 - x, start, optimizer=polyfit.optimizers.SGD(lr=0.5), epochs=200)
    >>> result.coef
    tensor([ 3.0000, -1.0000], dtype=torch.float64)
    >>> result.engine, result.losses.epochs.tolist()
    ('closed_form', [0, 100, 200])
    >>> result.epochs_to(0.01)
    12

    References:
        The updates are those of torch.optim.
    """
    if not isinstance(optimizer, optimizers.Rule) or isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer is {type(optimizer).__name__}; pass a rule, say polyfit.optimizers.SGD(lr=1e-3)")
    if early_stopping is not None and not isinstance(early_stopping, EarlyStopping):
        raise TypeError(f"early_stopping is {type(early_stopping).__name__}; pass a polyfit.training.EarlyStopping")
    for name, value, least in (("epochs", epochs, 0), ("record_every", record_every, 1), ("seed", seed, 0)):
        check_count(name, value, least)
    if batch_size is not None:
        check_count("batch_size", batch_size, 1)
    if reduction not in {"mean", "sum"}:
        raise ValueError(f"reduction={reduction!r} cannot be trained on; pass 'mean' or 'sum', which give one loss")
    problem = canonical_problem(
        x.detach(),
        y.detach(),
        coef.detach(),
        loss=loss,
        weight=None if weight is None else weight.detach(),
        reduction=reduction,
        per_series=per_series,
        basis=basis,
        domain=domain,
        impl=impl,
    )
    if not isinstance(problem.model.loss, losses.Loss):
        raise TypeError(
            "a loss of your own cannot be trained by an engine; pass one of polyfit.losses, or write the loop"
        )
    engine, _ = explain(
        optimizer,
        problem.model.loss,
        engine=_resumed_engine(engine, resume),
        batch_size=batch_size,
        impl=problem.impl,
        n_samples=problem.x.shape[-1] * (problem.batch.numel() if coef.dim() == 1 else 1),
        degree=coef.shape[-1] - 1,
        dtype=x.dtype,
        weighted=weight is not None,
    )
    if coef.dim() == 1 and not per_series:
        problem = _as_one_series(problem)
    elif coef.shape[:-1] != problem.batch:
        raise ValueError(
            f"coef has shape {tuple(coef.shape)} and the data are for series {tuple(problem.batch)};"
            f" each trains its own coefficients: pass coef.expand({(*problem.batch, coef.shape[-1])})"
        )
    run = _Run(problem, coef, optimizer, reduction, per_series, _lr_scales(lr_scale, problem.batch))
    settings = {
        "optimizer": repr(optimizer), "loss": repr(problem.model.loss), "reduction": reduction, "per_series": per_series,
        "basis": basis, "domain": problem.domain, "record_every": record_every, "batch_size": batch_size, "seed": seed,
        "coef.shape": tuple(coef.shape), "coef.dtype": str(coef.dtype), "lr_scale": _fingerprint(lr_scale),
    }  # fmt: skip
    watchers = MonitorGroup(monitor)
    watch = Watch(
        record_every,
        run.n_series,
        per_series=per_series,
        early_stopping=early_stopping,
        watchers=watchers,
        as_coef=run.as_coef,
        keep_path=keep_path,
    )
    with torch.no_grad(), select.without_autocast(x.device):
        scaled, scale = _scaled(problem, reduction, per_series)
        landscape = None
        if isinstance(problem.model.loss, losses.MSE):
            landscape = quadratic.quadratic(scaled, scale)
            if check_stability and batch_size is None:
                _check_stability(run, landscape)
        made = _engine(run, engine, scaled, scale, landscape, batch_size, seed)
        state = made.start(run.start)
        if resume is not None:
            state = _resumed(resume, settings, engine, made, watch, epochs, state, repr(early_stopping))
        watchers.begin(View(x.detach(), y.detach(), epochs, _evaluator(basis, domain)))
        with Interrupts(watch):
            state = made.run(state, epochs, watch)
            left = watch.finish(state.epoch, made.losses(state.coef), state.coef)
            if left is not None:
                state = state._replace(coef=made.settle(watch, state, state.epoch, left))
            result = _training(run, state, engine, landscape, watch)
            with contextlib.suppress(KeyboardInterrupt):  # the run is made: only the monitors are left to be ended
                watchers.end(result.losses, result.coef)
    kept = {
        "version": 1,
        "engine": engine,
        "epoch": state.epoch,
        "settings": settings,
        "early_stopping": repr(early_stopping),
        "coef": _as_tensor(state.coef),
        "memory": [_as_tensor(part) for part in state.memory],
        "watch": watch.state(),
    }
    result._state.update(kept)
    return result


class _Run(NamedTuple):
    """What is trained, and how."""

    problem: Problem
    coef: Tensor  # as the caller passed it
    optimizer: optimizers.Rule
    reduction: str
    per_series: bool
    lr_scale: Array | None  # (S, 1)

    @property
    def n_series(self) -> int:
        """S: one for a 1-D coef."""
        return self.coef.shape[:-1].numel()

    @property
    def start(self) -> Array:
        """Coefficients (S, p) to start from, in float64."""
        return to_array(self.coef).reshape(-1, self.coef.shape[-1])

    def as_coef(self, coef: Any) -> Tensor:
        """Coefficients (S, p) of an engine as the caller has them, a copy."""
        if isinstance(coef, Tensor):
            return coef.detach().to(self.coef, copy=True).reshape(self.coef.shape)
        return torch.from_numpy(np.array(coef)).to(self.coef).reshape(self.coef.shape)

    def of_groups(self, values: Any) -> Any:
        """Numbers (S,) as the caller has them: a float of the only one, or (*batch)."""
        return (
            torch.from_numpy(np.array(values)).view(self.problem.batch)
            if self.per_series
            else float(np.squeeze(values))
        )


def _as_tensor(values: Any) -> Tensor:
    return values.clone() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def _fingerprint(values: Tensor | None) -> list[float] | None:
    return None if values is None else [float(values.double().sum()), float(values.double().square().sum())]


def _lr_scales(lr_scale: Tensor | None, batch: torch.Size) -> Array | None:
    if lr_scale is None:
        return None
    if not isinstance(lr_scale, Tensor) or not lr_scale.is_floating_point():
        raise TypeError("lr_scale is no tensor of floats; pass one factor for each series, such as torch.ones(batch)")
    try:
        scales = to_array(lr_scale.detach().expand(batch)).reshape(-1, 1)
    except RuntimeError:
        raise ValueError(
            f"lr_scale has shape {tuple(lr_scale.shape)} and the series are {tuple(batch)}; pass one factor for each"
        ) from None
    if not (np.isfinite(scales).all() and (scales > 0.0).all()):
        raise ValueError("lr_scale holds factors that are not positive and finite; pass positive ones")
    return scales


def shuffled(n_samples: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch, counted from 0, takes the samples: batches are its stretches.

    It depends on nothing else, so that a run can be cut anywhere.

    >>> shuffled(5, seed=0, epoch=0).tolist()
    [2, 4, 3, 0, 1]
    """
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(n_samples))


def explain(
    optimizer: optimizers.Rule,
    loss: str | losses.Loss = "mse",
    *,
    engine: str = "auto",
    batch_size: int | None = None,
    impl: str = "torch",
    n_samples: int = 0,
    degree: int = 0,
    dtype: torch.dtype = torch.float32,
    weighted: bool = False,
) -> tuple[str, str]:
    """The engine that `train` takes for a rule and a loss, and why.

    Args:
        optimizer: the update rule.
        loss: as for `train`.
        engine: as for `train`; one that is named must apply.
        batch_size: as for `train`.
        impl: what computes, "torch", "compile" or "triton", as `resolve_impl` tells for a device.
        n_samples: of a series.
        degree: of the polynomial.
        dtype: of the data.
        weighted: whether there are weights.

    Returns:
        Its name, and a sentence.

    Raises:
        ValueError: an engine or loss that is unknown, or an engine that does not apply.

    >>> explain(optimizers.Adam())
    ('moments', 'the squared loss is a quadratic of the coefficients, on which every rule runs without the data')
    >>> explain(optimizers.SGD(1e-3), "huber")[0]
    'stepwise'
    >>> explain(optimizers.SGD(1e-3), "huber", impl="triton", n_samples=2000, degree=5)[0]
    'resident'
    """
    check_choice("engine", engine, ENGINES)
    is_squared = isinstance(losses.resolve(loss), losses.MSE)
    is_affine = isinstance(optimizer, optimizers.SGD) and not isinstance(optimizer.lr, optimizers.Schedule)
    is_whole = batch_size is None
    held = launch.largest_resident(degree, 8 if dtype == torch.float64 else 4, weighted=weighted)
    reasons = {
        "closed_form": (
            is_squared and is_affine and is_whole,
            "descent at a constant rate on a quadratic is an affine map of the coefficients, whose powers are known",
            "it needs the squared loss, SGD at a constant rate, and no batches",
        ),
        "moments": (
            is_squared and is_whole,
            "the squared loss is a quadratic of the coefficients, on which every rule runs without the data",
            "it needs the squared loss and no batches",
        ),
        "resident": (
            impl == "triton" and is_whole and n_samples <= held,
            "the data of a series stay in the registers of a GPU, and many epochs are one launch",
            f"it needs a GPU and Triton, no batches, and at most {held} samples of a series for this degree and dtype",
        ),
        "stepwise": (True, "one fused pass over the data an epoch serves every loss and rule, and batches", ""),
    }
    for name, (applies, why, lacks) in reasons.items():
        if engine == name and not applies:
            raise ValueError(
                f"engine={engine!r} does not apply: {lacks}; pass engine='auto', which takes the first that does"
            )
        if applies and engine in {"auto", name}:
            return name, why
    raise AssertionError(engine)


def _engine(
    run: _Run,
    name: str,
    problem: Problem,
    scale: float,
    landscape: quadratic.Quadratic | None,
    batch_size: int | None,
    seed: int,
) -> engines.Engine:
    if name == "closed_form":
        assert isinstance(run.optimizer, optimizers.SGD)
        assert landscape is not None
        return engines.ClosedForm(run.optimizer, landscape, run.lr_scale)
    if name == "moments":
        assert landscape is not None
        return _moments(run, landscape)
    if name == "resident":
        return _resident(run, problem, scale)
    measure, zeros = engines.data_pass(problem, scale)
    lr_scale = run.lr_scale
    if lr_scale is not None:
        lr_scale = torch.from_numpy(lr_scale).to(zeros) if isinstance(zeros, Tensor) else lr_scale.astype(zeros.dtype)
    if batch_size is None:
        engine = engines.Graphed if run.coef.device.type == "cuda" else engines.Stepping
        return engine(run.optimizer, measure, zeros, lr_scale)
    n_samples = run.problem.x.shape[-1]
    batches = _batches(run, zeros, batch_size, seed)
    return engines.Stepping(run.optimizer, measure, zeros, lr_scale, batches, -(-n_samples // batch_size))


def _moments(run: _Run, landscape: quadratic.Quadratic) -> engines.Engine:
    if run.problem.impl == "triton" and run.start.shape[1] - 1 <= launch.LARGEST_DESCENT_DEGREE:
        return _launched_moments(run, landscape)
    if run.problem.impl == "compile":
        scales = None if run.lr_scale is None else torch.from_numpy(run.lr_scale).squeeze(1)
        zeros = torch.zeros(run.start.shape, dtype=torch.float64, device="cpu")
        loop = native.loop(landscape, run.optimizer, scales)
        return engines.Launching(run.optimizer, loop, lambda coef: landscape.losses(coef.numpy()), zeros)
    return engines.Stepping(run.optimizer, engines.quadratic_pass(landscape), np.zeros_like(run.start), run.lr_scale)


def _launched_moments(run: _Run, landscape: quadratic.Quadratic) -> engines.Engine:
    from polyfit_kernels import descent

    launch_descent: Callable[..., None] = descent.descent
    name, constants = run.optimizer.kernel
    device = run.coef.device
    given = landscape.tensors(device)
    lr_scale = None if run.lr_scale is None else torch.from_numpy(run.lr_scale).squeeze(1).to(device)

    def loop(coef: Tensor, memory: Tensor, table: Tensor, *rest: Any) -> None:
        with triton._on(device):
            launch_descent(*given, coef, memory, name, constants, table, lr_scale, *rest)

    zeros = torch.zeros(run.start.shape, dtype=torch.float64, device=device)
    return engines.Launching(run.optimizer, loop, lambda coef: landscape.losses(coef.cpu().numpy()), zeros)


def _resident(run: _Run, problem: Problem, scale: float) -> engines.Engine:
    from polyfit_kernels import resident

    launch_resident: Callable[..., None] = resident.resident
    assert isinstance(problem.model.loss, losses.Loss)
    name, constants = run.optimizer.kernel
    pointwise, parameter = problem.model.loss.kernel
    x, y = torch.atleast_2d(problem.x), torch.atleast_2d(problem.y)
    weight = None if problem.weight is None else torch.atleast_2d(problem.weight)
    lr_scale = None if run.lr_scale is None else torch.from_numpy(run.lr_scale).squeeze(1).to(run.coef.device)
    measure, zeros = engines.data_pass(problem, scale)
    zeros = zeros if isinstance(zeros, Tensor) else torch.from_numpy(zeros)

    def loop(coef: Tensor, memory: Tensor, table: Tensor, *rest: Any) -> None:
        with triton._on(coef.device):
            launch_resident(
                x, y, weight, coef, memory, problem.model.affine_map, problem.model.basis, pointwise, parameter, name, constants,
                table, lr_scale, scale, *rest,
            )  # fmt: skip

    def of(coef: Tensor) -> Array:
        values = measure(coef if coef.device.type != "cpu" else coef.numpy(), True)[0]
        return values.double().cpu().numpy()

    return engines.Launching(run.optimizer, loop, of, zeros)


def _batches(run: _Run, zeros: Any, batch_size: int, seed: int) -> Callable[[int], Iterator[Callable[[Any], Any]]]:
    """Gives the gradients of the batches of an epoch, each by one pass over its samples."""
    problem, n_samples = run.problem, run.problem.x.shape[-1]
    shape = problem.coef.shape

    def batches(epoch: int) -> Iterator[Callable[[Any], Any]]:
        order = shuffled(n_samples, seed, epoch).to(problem.x.device)
        x, y, weight = (
            None if part is None else part.index_select(-1, order) for part in (problem.x, problem.y, problem.weight)
        )
        assert x is not None
        assert y is not None
        for first in range(0, n_samples, batch_size):
            cut = slice(first, first + batch_size)
            some = problem._replace(x=x[..., cut], y=y[..., cut], weight=None if weight is None else weight[..., cut])
            scaled, scale = _scaled(some, run.reduction, run.per_series)

            def gradient(coef: Any, scaled: Problem = scaled, scale: float = scale) -> Any:
                own = (coef if isinstance(coef, Tensor) else torch.from_numpy(coef)).to(scaled.x.dtype).view(shape)
                assert isinstance(scaled.model.loss, losses.Loss)
                sums = operators.objective(
                    scaled.x,
                    scaled.y,
                    own,
                    scaled.weight,
                    None,
                    scaled.model,
                    scaled.impl,
                    Wants(coef=True),
                    scale=scale,
                )
                assert sums.grad_coef is not None
                return sums.grad_coef.to(zeros) if isinstance(zeros, Tensor) else _like(sums.grad_coef, zeros)

            yield gradient

    return batches


def _like(values: Tensor, zeros: Array) -> Array:
    return values.numpy().astype(zeros.dtype, copy=False)


def _scaled(problem: Problem, reduction: str, per_series: bool) -> tuple[Problem, float]:
    """A problem, and what its sums over samples are multiplied with to give the loss."""
    if reduction == "sum":
        return problem, 1.0
    sharing = 1 if per_series else problem.batch.numel()
    if problem.weight is None:
        return problem, 1.0 / (problem.x.shape[-1] * sharing)
    if not per_series:
        sharing = sharing if problem.weight.dim() == 1 else 1
        return problem, 1.0 / (float(problem.weight.sum(dtype=torch.float64)) * sharing)
    share = problem.weight.double() / problem.weight.sum(-1, keepdim=True, dtype=torch.float64)
    return problem._replace(weight=share.to(problem.weight.dtype)), 1.0


def _resumed_engine(engine: str, resume: dict[str, Any] | None) -> str:
    if resume is None:
        return engine
    if not isinstance(resume, dict) or "watch" not in resume:
        raise TypeError("resume is no state of a run; pass what Training.state_dict() gave")
    if engine not in {"auto", resume["engine"]}:
        raise ValueError(f"the state is of engine {resume['engine']!r}; pass engine={resume['engine']!r}, or 'auto'")
    return resume["engine"]


def _resumed(
    resume: dict[str, Any],
    settings: dict[str, Any],
    engine: str,
    made: engines.Engine,
    watch: Watch,
    epochs: int,
    start: engines.State,
    early_stopping: str,
) -> engines.State:
    for name, value in settings.items():
        was = resume["settings"].get(name)
        if was != value:
            raise ValueError(f"the state is of a run with {name}={was}, not {value}; pass what it was begun with")
    if resume["epoch"] > epochs:
        raise ValueError(f"the state is of epoch {resume['epoch']}, beyond epochs={epochs}; pass as many, or more")
    if engine == "closed_form":
        return start
    watch.load(resume["watch"], resume["epoch"], goes_on=early_stopping != resume["early_stopping"])
    return made.load(resume["epoch"], resume["coef"], resume["memory"])


def _evaluator(basis: str, domain: Sequence[float] | None) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, coef: functional.polyval(x, coef, basis=basis, domain=domain)


def max_stable_lr(
    x: Tensor,
    degree: int,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
    basis: str = "power",
    domain: Sequence[float] | None = None,
) -> float:
    r"""The largest learning rate at which gradient descent on the squared error does not diverge.

    .. math:: \eta_{max} = \frac{2}{\lambda_{max}(H)}, \qquad H_{jk} = 2 \sum_n w_n P_j(t_n) P_k(t_n)

    divided by the sum of the weights for "mean". It depends on x and the weights alone, not on y. One pass, in float64.

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
    check_count("degree", degree, 0)
    start = torch.zeros(degree + 1, dtype=x.dtype, device=x.device)
    problem = canonical_problem(
        x.detach().reshape(-1),
        x.detach().reshape(-1),
        start,
        loss="mse",
        weight=None if weight is None else weight.detach().reshape(-1),
        reduction=reduction,
        per_series=False,
        basis=basis,
        domain=domain,
        impl="auto",
    )
    weight_row = None if problem.weight is None else problem.weight[None]
    gram = chunked.gram(problem.x[None], weight_row, degree, problem.model.affine_map, problem.model.basis)[0]
    largest = float(torch.linalg.eigvalsh(2.0 * gram)[-1]) * _scaled(problem, reduction, per_series=False)[1]
    return 2.0 / largest if largest > 0 else math.inf


def _as_one_series(problem: Problem) -> Problem:
    """The problem of a 1-D coef with all samples on one axis; copies them where they do not lie so."""
    if not problem.batch:
        return problem
    shape = (problem.batch.numel(), problem.x.shape[-1])
    x, y, weight = (
        None if tensor is None else tensor.expand(shape).reshape(-1)
        for tensor in (problem.x, problem.y, problem.weight)
    )
    assert x is not None
    assert y is not None
    return problem._replace(x=x, y=y, weight=weight, coef=problem.coef[0], batch=torch.Size(()))


def _constant_sgd(rule: optimizers.Rule) -> optimizers.SGD | None:
    return rule if isinstance(rule, optimizers.SGD) and not isinstance(rule.lr, optimizers.Schedule) else None


def _rates(run: _Run, rule: optimizers.SGD) -> Any:
    """The rate of all series, or (S, 1)."""
    lr = optimizers.rate(rule.lr, 0)
    return lr if run.lr_scale is None else lr * run.lr_scale


def _check_stability(run: _Run, landscape: quadratic.Quadratic) -> None:
    rule = _constant_sgd(run.optimizer)
    if rule is None:
        return
    values = landscape.eigenvalues()
    lr = np.broadcast_to(_rates(run, rule), (len(values), 1))
    is_stable = quadratic.is_stable(rule, values, lr)
    if is_stable.all():
        return
    largest = quadratic.largest_stable_lr(rule, values)
    worst = int(np.argmax(np.where(is_stable, 0.0, lr[:, 0] / largest)))
    which = "" if len(values) == 1 else f" for {int((~is_stable).sum())} of {len(values)} series, number {worst} most"
    raise ValueError(
        f"lr={lr[worst, 0]:g} must diverge on these data{which}: the largest stable rate is {largest[worst]:.6g}."
        " Pass a smaller one, or check_stability=False to see it diverge"
    )


def _training(
    run: _Run, state: engines.State, engine: str, landscape: quadratic.Quadratic | None, watch: Watch
) -> Training:
    batch = run.problem.batch
    updates, reasons = watch.outcome(batch)
    known: dict[str, Any] = {}
    if landscape is not None:
        values = landscape.eigenvalues()
        least, most = values[:, 0], values[:, -1]
        optimal = watch.totals(landscape.losses(landscape.reference))
        if not run.per_series:
            least, most = least.min(keepdims=True), most.max(keepdims=True)
        with np.errstate(all="ignore"):
            condition = np.where(least > 0.0, most / least, np.inf)
        known = {
            "optimum": run.as_coef(landscape.reference),
            "optimal_loss": run.of_groups(optimal),
            "condition": run.of_groups(condition),
        }
        rule = _constant_sgd(run.optimizer)
        if rule is not None:
            largest = quadratic.largest_stable_lr(rule, values)
            slowest = quadratic.spectral_radius(rule, values, _rates(run, rule))
            if not run.per_series:
                largest, slowest = largest.min(), slowest.max()
            known |= {"max_stable_lr": run.of_groups(largest), "slowest_rate": run.of_groups(slowest)}
    return Training(
        run.as_coef(state.coef),
        watch.losses(batch),
        int(updates.max()) if updates.numel() else 0,
        engine,
        updates,
        reasons,
        watch.path(),
        **known,
    )
