"""All kinds of problems, by their names, and one attempt at a problem."""

from __future__ import annotations

import os
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import fit_attack
import numpy as np
import operator_attack
import sums_attack
import torch
import training_attack
from verdict import Judge, heard


@dataclass(frozen=True)
class Kind:
    """A kind of problem.

    Attributes:
        attack: draws a problem and judges the answers.
        every: how many rounds lie between two problems of the kind; more than 1 for what takes seconds.
    """

    attack: Callable[[np.random.Generator, Judge], None]
    every: int = 1


_PARTS = (fit_attack.KINDS, sums_attack.KINDS, operator_attack.KINDS, training_attack.KINDS)
KINDS = {name: Kind(attack) for part in _PARTS for name, attack in part.items()}
KINDS |= {name: Kind(attack) for name, attack in training_attack.COMPILED.items()}
KINDS |= {name: Kind(attack, every=200) for name, attack in operator_attack.COMPILED.items()}
if os.environ.get("TRITON_INTERPRET") == "1":
    KINDS |= {name: Kind(attack, every=10) for name, attack in operator_attack.KERNELS.items()}
    KINDS |= {name: Kind(attack, every=10) for name, attack in training_attack.KERNELS.items()}


def attempt(seed: int, kind: str, number: int) -> Judge:
    """The problem of that number, judged."""
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), number])
    torch.manual_seed(int(rng.integers(2**31)))
    judge = Judge()
    try:
        with heard():
            KINDS[kind].attack(rng, judge)
    except Exception as error:
        lines = traceback.format_exception(error)
        judge.wrong.append(f"crash: {type(error).__name__}: {error}\n" + "".join(lines[-4:]))
    return judge
