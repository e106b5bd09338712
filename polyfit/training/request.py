"""What a run is asked for, checked: `Request` holds the arguments of `polyfit.train`, `Plan` what follows from them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from polyfit import losses, optimizers
from polyfit._checks import check_count, check_finite, check_weights, data_tensor, data_tensors
from polyfit._problem import Problem, canonical_problem
from polyfit.monitor import Monitor
from polyfit.optimizers import Array
from polyfit.training.choice import Choice, choose
from polyfit.training.result import EarlyStopping

# Looked for first: to look for the methods of a protocol takes 20 us.
_RULES = tuple(optimizers.OPTIMIZERS.values())
# Epochs are counted in float64, too: by the factors of rules.
_LARGEST_COUNT = 2**53
# Losses that the records of a run may hold: 8 GB of float64.
_MOST_RECORDED = 1 << 30


@dataclass(frozen=True)
class Request:
    """The arguments of `polyfit.train`, with their defaults; see there. `Request.of` makes tensors of the data."""

    x: Tensor
    y: Tensor
    coef: Tensor
    optimizer: optimizers.Rule
    epochs: int = 0
    loss: str | losses.Loss = "mse"
    reduction: str = "mean"
    per_series: bool = False
    weight: Tensor | None = None
    basis: str = "power"
    domain: Sequence[float] | None = None
    lr_scale: ArrayLike | Tensor | None = None
    batch_size: int | None = None
    seed: int = 0
    record_every: int = 100
    keep_path: bool = False
    early_stopping: EarlyStopping | None = None
    monitor: Monitor | Sequence[Monitor] | None = None
    engine: str = "auto"
    impl: str = "auto"
    check_stability: bool = True
    resume: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        rule, stopping = self.optimizer, self.early_stopping
        if not isinstance(rule, _RULES) and (
            not isinstance(rule, optimizers.Rule) or isinstance(rule, (torch.optim.Optimizer, type))
        ):
            given = f"the class {rule.__name__}" if isinstance(rule, type) else type(rule).__name__
            raise TypeError(f"optimizer is {given}; pass a rule, say polyfit.optimizers.SGD(lr=1e-3)")
        if stopping is not None and not isinstance(stopping, EarlyStopping):
            raise TypeError(f"early_stopping is {type(stopping).__name__}; pass a polyfit.training.EarlyStopping")
        counts = {"epochs": 0, "record_every": 1, "seed": 0, "batch_size": 1}
        for name, least in counts.items():
            value = getattr(self, name)
            if value is not None or name != "batch_size":
                most = None if name == "seed" else _LARGEST_COUNT
                object.__setattr__(self, name, check_count(name, value, least, most))
        if self.reduction not in {"mean", "sum"}:
            raise ValueError(
                f"reduction={self.reduction!r} cannot be trained on; pass 'mean' or 'sum', which give one loss"
            )

    @classmethod
    def of(cls, **arguments: Any) -> Request:
        """The request of the arguments of `polyfit.train`, with x, y, coef and weight as tensors of one dtype."""
        tensors = data_tensors({name: arguments.get(name) for name in ("x", "y", "coef", "weight")})
        detached = {name: None if tensor is None else tensor.detach() for name, tensor in tensors.items()}
        options: dict[str, Any] = arguments | detached
        return cls(**options)


@dataclass(frozen=True)
class Plan:
    """What a request comes to, before any pass over the data.

    Attributes:
        request: the arguments.
        problem: canonical operands of the loss.
        scaled: the same, with weights such that a factor gives the loss from the sums over samples.
        scale: that factor.
        choice: the engine.
        lr_scale: factors of the rate (S, 1), contiguous, or None.
    """

    request: Request
    problem: Problem
    scaled: Problem
    scale: float
    choice: Choice
    lr_scale: Array | None

    @property
    def rule(self) -> optimizers.Rule:
        """The update rule."""
        return self.request.optimizer

    @property
    def n_series(self) -> int:
        """S; 1 for a 1-D coef."""
        return self.request.coef.shape[:-1].numel()

    @functools.cached_property
    def start(self) -> Array:
        """A copy of the coefficients (S, p) to start from, in float64, contiguous."""
        coef = self.request.coef
        return np.array(coef.double().cpu().reshape(-1, coef.shape[-1]).numpy(force=True), order="C")

    def as_coef(self, coef: Any) -> Tensor:
        """A copy of coefficients (S, p) of an engine in the shape and dtype that the caller passed."""
        like = self.request.coef
        if isinstance(coef, Tensor):
            return coef.detach().to(like, copy=True).reshape(like.shape)
        return torch.from_numpy(np.array(coef)).to(like).reshape(like.shape)

    def of_groups(self, values: Any) -> Any:
        """Numbers (S,) as the caller gets them: a float for one loss, (*batch) with per_series."""
        if self.request.per_series:
            return torch.from_numpy(np.array(values)).view(self.problem.batch)
        return float(np.squeeze(values))


def make_plan(request: Request) -> Plan:
    """Check the operands of a request, bring them into canonical shape and choose the engine."""
    coef = request.coef
    problem = canonical_problem(
        request.x,
        request.y,
        coef,
        loss=request.loss,
        weight=request.weight,
        reduction=request.reduction,
        per_series=request.per_series,
        basis=request.basis,
        domain=request.domain,
        impl=request.impl,
    )
    if not isinstance(problem.model.loss, losses.Loss):
        raise TypeError(
            "a loss of your own cannot be trained by an engine; pass one of polyfit.losses, or write the loop"
        )
    if coef.dim() == 1 and not request.per_series:
        problem = _as_one_series(problem)
    elif coef.shape[:-1] != problem.batch:
        raise ValueError(
            f"coef has shape {tuple(coef.shape)} and the data are for series {tuple(problem.batch)};"
            f" each trains its own coefficients: pass coef.expand({(*problem.batch, coef.shape[-1])})"
        )
    _check_records(request, problem.batch)
    problem = sound_samples(problem)
    check_finite({"coef": problem.coef}, "pass a start of finite numbers, such as zeros")
    engine = engine_of_state(request.engine, request.resume)
    choice = choose(problem, request.optimizer, engine=engine, batch_size=request.batch_size)
    scaled, scale = scaled_problem(problem, request.reduction, per_series=request.per_series)
    return Plan(request, problem, scaled, scale, choice, _lr_scale(request.lr_scale, problem.batch))


def engine_of_state(engine: str, resume: dict[str, Any] | None) -> str:
    """The engine to look for: that of the state where a run is resumed."""
    if resume is None:
        return engine
    if not isinstance(resume, dict) or not {"version", "engine", "supervisor"} <= resume.keys():
        raise TypeError("resume is not the state of a run; pass what Training.state_dict() gave")
    if engine not in {"auto", resume["engine"]}:
        raise ValueError(f"the state is of engine {resume['engine']!r}; pass engine={resume['engine']!r}, or 'auto'")
    return resume["engine"]


def _lr_scale(lr_scale: ArrayLike | Tensor | None, batch: torch.Size) -> Array | None:
    if lr_scale is None:
        return None
    factors = data_tensor("lr_scale", lr_scale)
    try:
        factors = factors.reshape(()) if factors.numel() == 1 else factors
        scales = np.array(factors.detach().double().expand(batch).reshape(-1, 1).cpu().numpy(force=True), order="C")
    except RuntimeError:
        raise ValueError(
            f"lr_scale has shape {tuple(factors.shape)} and the series are {tuple(batch)}; pass one factor for each"
        ) from None
    if not (np.isfinite(scales).all() and (scales > 0.0).all()):
        raise ValueError("lr_scale holds factors that are not positive and finite; pass positive ones")
    return scales


def scaled_problem(problem: Problem, reduction: str, *, per_series: bool) -> tuple[Problem, float]:
    """A problem, and the factor that gives the loss from its sums over samples."""
    if reduction == "sum":
        return problem, 1.0
    n_sharing = 1 if per_series else problem.batch.numel()
    if problem.weight is None:
        return problem, 1.0 / (problem.x.shape[-1] * n_sharing)
    if not per_series:
        n_sharing = n_sharing if problem.weight.dim() == 1 else 1
        total = float(problem.weight.sum(dtype=torch.float64)) * n_sharing
        return problem, 1.0 / total if total > 0.0 else 0.0  # zero for a batch whose weights are all zero
    total = problem.weight.sum(-1, keepdim=True, dtype=torch.float64)
    share = problem.weight.double() / torch.where(total > 0.0, total, 1.0)
    return problem._replace(weight=share.to(problem.weight.dtype)), 1.0


# --- samples ---


def _check_records(request: Request, batch: torch.Size) -> None:
    """Refuse a run with more records than memory can hold."""
    n_losses = batch.numel() if request.per_series else 1
    n_values = n_losses + (request.coef.numel() if request.keep_path else 0)
    n_records = request.epochs // request.record_every
    if n_records * n_values > _MOST_RECORDED:
        enough = -(-request.epochs * n_values // _MOST_RECORDED)
        raise ValueError(
            f"epochs={request.epochs} with record_every={request.record_every} are {n_records:.3g} records,"
            f" {n_records * n_values * 8 / 1e9:.3g} GB; pass record_every={enough}, or more"
        )


def sound_samples(problem: Problem) -> Problem:
    """The problem without the samples of weight zero, whatever they hold. All others must be finite.

    Such a sample stays where it is, with the x of another one and y = 0.

    Raises:
        ValueError: samples that are not finite; weights that are negative or not finite, or all zero in a series.
    """
    x, y, weight = problem.x, problem.y, problem.weight
    if not x.numel() or not problem.batch.numel():
        given = "no series" if not problem.batch.numel() else "no samples"
        raise ValueError(
            f"x of shape {tuple(x.shape)} and coef of shape {tuple(problem.coef.shape)} hold {given}; pass at least one"
        )
    if weight is not None:
        check_finite({"weight": weight}, "pass finite weights, and a weight of zero to leave a sample out")
        check_weights(weight)
        is_left_out = weight == 0
        if bool(is_left_out.any()):
            _check_some_weight(is_left_out)
            x_mask, y_mask = (_left_out_of(part, is_left_out) for part in (x, y))
            first_kept = (~x_mask).byte().argmax(-1, keepdim=True)
            x = torch.where(x_mask, x.gather(-1, first_kept), x)
            y = torch.where(y_mask, torch.zeros((), dtype=y.dtype, device=y.device), y)
            problem = problem._replace(x=x, y=y)
    check_finite({"x": x, "y": y}, "leave such samples out, or give them a weight of zero")
    return problem


def _left_out_of(part: Tensor, is_left_out: Tensor) -> Tensor:
    """Which samples of x or y, (N,) or (S, N), no series uses, of a mask (N,) or (S, N)."""
    if part.dim() < is_left_out.dim():
        return is_left_out.all(0)
    return is_left_out.expand_as(part)


def _check_some_weight(is_left_out: Tensor) -> None:
    is_empty = torch.atleast_1d(is_left_out.all(-1))
    if not bool(is_empty.any()):
        return
    where = "all weights" if len(is_empty) == 1 else f"all weights of series {int(is_empty.nonzero()[0])}"
    others = "" if len(is_empty) == 1 else f" ({int(is_empty.sum())} of {len(is_empty)} series)"
    raise ValueError(
        f"{where} are zero{others}, which leaves no sample to train on; pass weights above zero, or leave it out"
    )


def _as_one_series(problem: Problem) -> Problem:
    """The problem of a 1-D coef with all samples on one axis; they are copied where views cannot do it."""
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
