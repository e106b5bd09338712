"""The update rules of the kernels and of `polyfit.optimizers`: the same names, the same number of memory vectors.

That both compute the same is shown in test_resident_kernel.py and test_descent_kernel.py, against torch.optim.
"""

from __future__ import annotations

import numpy as np
import pytest
from training_oracle import RULES

pytest.importorskip("triton")
from polyfit.optimizers import SGD, Rule, kernel_variants
from polyfit_kernels import rules

# Every variant of the registry, and rules whose options are not variants.
VARIANTS: list[Rule] = [
    *kernel_variants().values(),
    SGD(0.1, weight_decay=0.1),
    SGD(0.1, momentum=0.9, dampening=0.5),
]


@pytest.mark.parametrize("rule", [*VARIANTS, *(rule for rule, _ in RULES.values())], ids=repr)
def test_a_kernel_remembers_as_many_vectors_as_the_rule(rule):
    name, constants = rule.kernel
    assert rules.STATES[name] == len(rule.start(np.zeros(3)))
    assert len(constants) == 4


def test_every_rule_of_the_kernels_is_reached():
    assert {rule.kernel[0] for rule in VARIANTS} == set(rules.STATES)
    # The tests of the kernels train with each of them.
    assert {rule.kernel[0] for rule, _ in RULES.values()} == set(rules.STATES)
