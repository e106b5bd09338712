"""A short form of the attack, with a fixed seed: `make attack` goes on for an hour."""

from __future__ import annotations

import os
from fractions import Fraction

import exact
import numpy as np
import pytest
import torch
import training_attack
from draws import BASES
from kinds import KINDS, attempt
from reference import Reference, ctx, exactly
from verdict import Judge

SEED = 20261126
# Problems of each kind; all together take some 20 s on two cores.
COUNTS = {
    "fit": 40,
    "conditions": 30,
    "far squares": 8,
    "inputs": 40,
    "selection": 20,
    "moments": 30,
    "polyval": 80,
    "loss": 80,
    "loss functions": 20,
    "train": 20,
    "train other losses": 10,
    "train in C++": 4,
    "polyval kernel": 12,
    "loss kernel": 12,
    "train kernel": 2,
}
_MARKS = {"train in C++": pytest.mark.compiler}
_PARTS = 4  # of each kind, so that several processes share it


def _marked(name: str) -> object:
    mark = pytest.mark.interpreter if name.endswith("kernel") else _MARKS.get(name)
    return pytest.param(name, marks=[] if mark is None else [mark])


@pytest.mark.parametrize("part", range(_PARTS))
@pytest.mark.parametrize("kind", [_marked(name) for name in COUNTS])
def test_right_to_the_stated_digits_or_said(kind, part):
    for number in range(part, COUNTS[kind], _PARTS):
        judge = attempt(SEED, kind, number)
        again = f'python tests/attack/run.py --seed {SEED} --only "{kind}:{number}"'
        assert not judge.wrong, "\n".join([again, *judge.wrong])


def test_every_kind_of_the_long_run_has_a_short_form():
    interpreting = os.environ.get("TRITON_INTERPRET") == "1"
    rare = {"loss in C++"}  # each problem compiles for seconds
    assert set(KINDS) - rare == {name for name in COUNTS if interpreting or not name.endswith("kernel")}


# --- the attack itself can be trusted, and can fail ---


@pytest.mark.parametrize("options", [{}, {"fixed": {0: 1.0, 2: -0.5}}, {"ridge": 0.25}], ids=str)
@pytest.mark.parametrize("domain", [None, (3.0, 3.5)])
@pytest.mark.parametrize("basis", BASES)
def test_the_reference_is_the_exact_fit(basis, domain, options):
    rng = np.random.default_rng(0)
    x, y, weight = 100.0 + rng.random(9), rng.random(9), 10.0 ** rng.uniform(-10, 10, 9)
    truth = exact.fit(x, y, 3, weight=weight, basis=basis, domain=domain, **options)
    columns = [[Fraction(value) for value in values.tolist()] for values in (x, y, weight)]
    reference = Reference(columns, 3, basis, domain, **options)

    def same(ours, theirs):
        assert abs(ours - exactly(theirs)) <= ctx.mpf(10) ** -50 * (abs(ours) + ctx.mpf(10) ** -30)

    for k, value in enumerate(truth.coef):
        same(reference.user_coef[k], value)
        same(reference.variance(reference.to_user[k]), truth.cofactors[k][k])
    same(reference.rss, truth.rss)
    same(reference.freedom, truth.freedom)
    same(reference.value(exactly(100.25)), truth.value(100.25))


def test_a_changed_digit_is_wrong():
    judge = Judge()
    rng = np.random.default_rng(1)
    x, y = rng.random(20), rng.random(20)
    columns = [[Fraction(value) for value in values.tolist()] for values in (x, y, np.ones(20))]
    reference = Reference(columns, 3, "power", None)
    for k, value in enumerate(reference.user_coef):
        allowed = reference.allowed(reference.to_user[k], is_extended=False)
        assert judge.within("coef", value, value, allowed)
        assert allowed < 1e-11 * abs(value)
        assert not judge.within("coef", value * (1 + 1e-10), value, allowed)
    assert judge.verdict == "wrong"


def test_an_exception_of_another_kind_is_wrong():
    judge = Judge()

    def crash():
        raise RuntimeError("inner")

    def refuse():
        raise ValueError("2 samples do not determine 3 coefficients")

    assert judge.ask(refuse) is None
    assert judge.verdict == "said"
    assert judge.ask(crash) is None
    assert judge.verdict == "wrong"


def test_a_problem_follows_from_its_seed_and_number():
    first, second = (attempt(3, "fit", 5).problem for _ in range(2))
    assert torch.equal(first["x"], second["x"])
    assert first["degree"] == second["degree"]


@pytest.mark.parametrize("seed", range(12))
def test_the_loop_in_50_digits_is_that_of_torch(seed):
    rng = np.random.default_rng(seed)
    given, place = training_attack.draw(rng, "mse")
    while place != "near zero":
        given, place = training_attack.draw(rng, "mse")
    rule, make, gamma = training_attack.draw_rule(rng, training_attack.stable_rate(given))
    eager = training_attack.eager(given, make, 12, 5, gamma)
    in_digits = training_attack.exactly(given, rule, 12, 5, gamma)
    np.testing.assert_allclose(eager.losses, in_digits.losses, rtol=1e-9)
    np.testing.assert_allclose(eager.values, in_digits.values, rtol=1e-7, atol=1e-9)
