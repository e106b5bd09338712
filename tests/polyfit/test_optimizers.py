"""Update rules and schedules against torch.optim, step by step, in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from polyfit.optimizers import SGD, Adam, AdamW, Cosine, Exponential, RMSprop, Step, Warmup, constant_row, table

RULES = {
    "plain": (SGD(0.05), lambda p: torch.optim.SGD(p, lr=0.05)),
    "momentum": (SGD(0.05, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
    "dampening, decay": (
        SGD(0.05, momentum=0.8, dampening=0.3, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, dampening=0.3, weight_decay=0.1),
    ),
    "nesterov": (
        SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "Adam": (Adam(), torch.optim.Adam),
    "Adam, all": (
        Adam(0.1, betas=(0.5, 0.8), eps=1e-3, weight_decay=0.2),
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.8), eps=1e-3, weight_decay=0.2),
    ),
    "AdamW": (AdamW(), torch.optim.AdamW),
    "AdamW, all": (
        AdamW(0.1, betas=(0.5, 0.8), eps=1e-3, weight_decay=0.2),
        lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.5, 0.8), eps=1e-3, weight_decay=0.2),
    ),
    "RMSprop": (RMSprop(), torch.optim.RMSprop),
    "RMSprop, all": (
        RMSprop(0.1, alpha=0.7, eps=1e-3, weight_decay=0.2, momentum=0.6, centered=True),
        lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.7, eps=1e-3, weight_decay=0.2, momentum=0.6, centered=True),
    ),
}


@pytest.mark.parametrize("is_array", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_that_of_torch(name, is_array):
    rule, make = RULES[name]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 4, dtype=torch.float64, generator=generator)
    parameter = start.clone().requires_grad_()
    optimizer = make([parameter])
    coef = start.numpy().copy() if is_array else start.clone()
    state = rule.start(np.zeros_like(coef) if is_array else torch.zeros_like(start))
    for count, row in enumerate(table(rule, 0, 29).tolist(), start=1):
        gradient = torch.randn(2, 4, dtype=torch.float64, generator=generator)
        parameter.grad = gradient
        optimizer.step()
        coef, state = rule.step(coef, gradient.numpy() if is_array else gradient, state, *row)
        # The same operations but for the order of some: a few roundings an update.
        torch.testing.assert_close(torch.as_tensor(coef), parameter.detach(), rtol=1e-14 * count, atol=1e-15 * count)


SCHEDULERS = torch.optim.lr_scheduler
SCHEDULES = {
    "step": (Step(0.3, step_size=3, gamma=0.7), lambda o: SCHEDULERS.StepLR(o, step_size=3, gamma=0.7)),
    "exponential": (Exponential(0.3, gamma=0.9), lambda o: SCHEDULERS.ExponentialLR(o, gamma=0.9)),
    "cosine": (
        Cosine(0.3, epochs=12, minimum=0.01),
        lambda o: SCHEDULERS.CosineAnnealingLR(o, T_max=12, eta_min=0.01),
    ),
    "warm-up": (Warmup(0.3, epochs=4, start_factor=0.2), lambda o: SCHEDULERS.LinearLR(o, 0.2, total_iters=4)),
    "warm-up, then cosine": (
        Warmup(Cosine(0.3, epochs=9), epochs=4),
        lambda o: SCHEDULERS.SequentialLR(
            o, [SCHEDULERS.LinearLR(o, total_iters=4), SCHEDULERS.CosineAnnealingLR(o, T_max=9)], milestones=[4]
        ),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_that_of_torch(name):
    schedule, make = SCHEDULES[name]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = make(optimizer)
    for epoch in range(13):
        assert schedule.rate(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=1e-16)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", ["plain", "dampening, decay", "Adam, all", "RMSprop"])
def test_a_table_does_not_depend_on_where_it_is_cut(name):
    rule = replace(RULES[name][0], lr=Cosine(0.3, epochs=5000))
    whole = table(rule, 0, 5000)
    np.testing.assert_array_equal(
        np.concatenate([table(rule, *cut) for cut in ((0, 7), (7, 1500), (1500, 5000))]), whole
    )
    assert whole[:, 0].tolist() == [rule.lr.rate(epoch) for epoch in range(5000)]
    # With batches the rate is that of the epoch, and the factors are those of the update.
    cut = table(rule, 7, 1500, 3)
    assert cut[:, 0].tolist() == [rule.lr.rate(update // 3) for update in range(7, 1500)]
    np.testing.assert_array_equal(cut[:, 1:], whole[7:1500, 1:])


BAD = [
    (lambda: SGD(-0.1), ValueError, "lr=-0.1 is not a rate to descend with"),
    (lambda: SGD("0.1"), TypeError, "lr='0.1' is not a number"),  # pyright: ignore[reportArgumentType]
    (lambda: SGD(0.1, momentum=-1), ValueError, "momentum=-1.0 is out of range; pass a finite number from 0 on"),
    (lambda: SGD(0.1, nesterov=True), ValueError, "nesterov=True needs momentum"),
    (lambda: SGD(0.1, 0.9, dampening=0.1, nesterov=True), ValueError, "nesterov=True needs momentum"),
    (lambda: Adam(math.nan), ValueError, "lr=nan is not a rate"),
    (lambda: Adam(betas=(0.9, 1.0)), ValueError, r"betas\[1\]=1.0 is out of range; .* from 0 and below 1"),
    (lambda: AdamW(eps=-1e-8), ValueError, "eps=-1e-08 is out of range"),
    (lambda: RMSprop(weight_decay=math.inf), ValueError, "weight_decay=inf is out of range"),
    (lambda: Step(0.1, step_size=0), ValueError, "step_size=0 is too small"),
    (lambda: Exponential(0.1, gamma=0.0), ValueError, "gamma=0.0 is out of range; pass a finite number above 0"),
    (lambda: Cosine(0.1, epochs=0), ValueError, "epochs=0 is too small"),
    (lambda: Warmup(0.0, epochs=3), ValueError, "lr=0.0 is not a rate"),
    (lambda: Warmup(0.1, epochs=3, start_factor=0), ValueError, "start_factor=0.0 is out of range"),
]


def test_one_row_stands_for_a_table_only_where_it_can():
    for rule in (SGD(0.1), SGD(0.1, momentum=0.9), SGD(0.1, momentum=0.9, nesterov=True), RMSprop(0.1)):
        row = constant_row(rule)
        assert row is not None
        assert np.array_equal(np.tile(row, (9, 1)), table(rule, 1, 10))
        # The first update has a share of the momentum of its own, which is 0 then.
        assert np.array_equal(row[[0, 2]], table(rule, 0, 1)[0, [0, 2]])
    for rule in (SGD(0.1, momentum=0.9, dampening=0.5), SGD(Step(0.1, 5)), RMSprop(Step(0.1, 5)), Adam(), AdamW()):
        assert constant_row(rule) is None


@pytest.mark.parametrize(("make", "error", "match"), BAD)
def test_bad_arguments_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()
