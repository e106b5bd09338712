"""The standing attack: random problems of hostile kinds, until the time is over.

    python tests/attack/run.py --seconds 3600                  # all kinds in turn, from a random seed, which is printed
    python tests/attack/run.py --seed 7 --only "fit:12"        # one problem again, with its inputs

Every problem follows from the seed, its kind and its number. The exit status is 1 if any answer is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    _TESTS = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(_TESTS.parent), str(_TESTS.parent / "kernels"), str(_TESTS)]

import numpy as np
import torch
from kinds import KINDS, attempt
from verdict import Judge


def show(judge: Judge, name: str, *, whole: bool) -> None:
    """Print a problem: its verdict and what is wrong; with whole also its inputs and what was said."""
    print(f"{name}: {judge.verdict}", flush=True)
    for line in judge.wrong:
        print(f"    wrong: {line}")
    if whole:
        for line in judge.said:
            print(f"    said: {line}")
        torch.set_printoptions(precision=17, threshold=10_000)
        np.set_printoptions(precision=17, threshold=10_000)
        for key, value in judge.problem.items():
            print(f"    {key} = {value!r}")
    sys.stdout.flush()


def attack(seed: int, table: dict[str, dict[str, float]], first: int, end: float) -> None:
    """A problem of each kind after the other until the time `end`; the table counts verdicts."""
    for number in itertools.count(first):
        for name, row in table.items():
            if (number - first) % KINDS[name].every:
                continue
            start = time.monotonic()
            judge = attempt(seed, name, number)
            row[judge.verdict] += 1
            row["seconds"] += time.monotonic() - start
            if judge.wrong:
                show(judge, f"{name}:{number}", whole=False)
            if time.monotonic() >= end:
                return


def main() -> int:
    """Run, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to draw problems")
    parser.add_argument("--seed", type=int, help="of the problems; a random one if it is left out")
    parser.add_argument("--kinds", help="comma-separated names; all if it is left out")
    parser.add_argument("--first", type=int, default=0, help="the number of the first problem of each kind")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="one problem, with its inputs")
    options = parser.parse_args()
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    if options.only:
        kind, number = options.only.rsplit(":", 1)
        judge = attempt(seed, kind, int(number))
        show(judge, options.only, whole=True)
        return int(judge.verdict == "wrong")
    names = list(KINDS) if options.kinds is None else [name.strip() for name in options.kinds.split(",")]
    table: dict[str, dict[str, float]] = {name: {"right": 0, "said": 0, "wrong": 0, "seconds": 0.0} for name in names}
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C shows the table too
        attack(seed, table, options.first, time.monotonic() + options.seconds)
    print(f"\nseed {seed}\n{'kind':16} {'problems':>9} {'right':>8} {'said':>8} {'wrong':>8} {'seconds':>8}")
    for name, row in table.items():
        n = row["right"] + row["said"] + row["wrong"]
        print(f"{name:16} {n:9.0f} {row['right']:8.0f} {row['said']:8.0f} {row['wrong']:8.0f} {row['seconds']:8.1f}")
    wrong = sum(row["wrong"] for row in table.values())
    print(f"{wrong:.0f} wrong; repeat one by: --seed {seed} --only KIND:NUMBER")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
