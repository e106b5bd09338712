"""One phase in its process: `python -m bench.gpu.phase smoke --small`. `python -m bench.gpu` runs all of them."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import traceback
from collections.abc import Iterator

import torch

from bench.gpu import machine
from bench.gpu.interpreter import multiply_bfloat16
from bench.gpu.measuring import Bench, Case, Report

NAMES = ("smoke", "headline", "proof", "sanitizer", "policy")


def main(arguments: list[str] | None = None) -> int:
    """Run the cases of a phase; 0 if each of them was measured, and was right."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.phase", description=__doc__)
    parser.add_argument("phase", choices=NAMES)
    parser.add_argument(
        "--results",
        metavar="FOLDER",
        help="where gpu.jsonl is written; by default nothing is, but by proof in bench/results",
    )
    # A time of day, not a number of seconds: importing torch took 10 s of a phase on a machine whose cores were busy.
    parser.add_argument("--until", type=float, default=float("inf"), help="no case begins after this time.time()")
    parser.add_argument("--part", default="0/1", metavar="K/N", help="the cases K, K + N, K + 2 N, ...")
    parser.add_argument("--first", type=int, default=0, metavar="I", help="of these the case I and all after it")
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose names contain one of these")
    parser.add_argument("--small", action="store_true", help="small sizes: with TRITON_INTERPRET=1 no GPU is needed")
    parser.add_argument("--warm", action="store_true", help="compile only: call each function once, report nothing")
    options = parser.parse_args(arguments)
    has_gpu = torch.cuda.is_available()
    if not options.small and (reason := machine.why_not()):
        print(reason, file=sys.stderr)
        return 1
    if not has_gpu:
        multiply_bfloat16()
    deadline = time.monotonic() + options.until - time.time()
    device = "cuda" if has_gpu else "cpu"
    report = Report(options.results, options.phase, device, quiet=options.warm)
    if options.phase == "proof":
        from bench.gpu.proof import proof

        return proof(max(1.0, options.until - time.time()), options.results or "bench/results", report)
    bench = Bench(device, has_gpu, options.small, options.warm, deadline)
    return run(options.phase, bench, report, options)


def run(phase: str, bench: Bench, report: Report, options: argparse.Namespace) -> int:
    """Measure the cases that the options name, until the time is over."""
    made, right, not_measured = 0, 0, []
    if phase == "smoke":  # a part that is killed names no cases that it leaves out
        from bench.gpu import smoke

        report.of = sum(1 for _ in _named(smoke.cases(bench), options))
    for index, case in enumerate(_chosen(importlib.import_module(f"bench.gpu.{phase}").cases(bench), options)):
        if index < options.first:
            continue
        if bench.seconds_left <= 0:
            not_measured.append(case.name)
            continue
        made += 1
        try:
            figures = case.measure()
        except Exception as error:  # whatever it is, the other cases are measured
            traceback.print_exc()
            report(case.name, failed=f"{type(error).__name__}: {error}"[:2000])
            if _is_lost(error):
                sys.stdout.flush()
                _go_on(index + 1)
            continue
        report(case.name, **figures)
        right += not figures.get("wrong", 0)
        try:
            bench.wait()  # an error of a peer, or one that comes late, is not one of the next case
        except RuntimeError as error:
            right -= not figures.get("wrong", 0)
            report(f"{case.name}, after it", failed=f"{type(error).__name__}: {error}"[:2000])
            _go_on(index + 1)
    if not_measured:
        report("not measured", cases=not_measured)
    print(f"{phase}: {right} of {made} cases passed{f', {len(not_measured)} not measured' if not_measured else ''}")
    return int(right < made or options.first > 0)


def _chosen(cases: Iterator[Case], options: argparse.Namespace) -> Iterator[Case]:
    part, parts = map(int, options.part.split("/"))
    return (case for index, case in enumerate(_named(cases, options)) if index % parts == part)


def _named(cases: Iterator[Case], options: argparse.Namespace) -> Iterator[Case]:
    return (case for case in cases if any(words in case.name for words in options.only))


def _is_lost(error: Exception) -> bool:
    """Whether the error leaves the CUDA context of this process unusable."""
    return "CUDA error" in str(error) or "device-side" in str(error)


def _go_on(first: int) -> None:
    """Replace this process by one with a new CUDA context, for the cases that are left."""
    os.execv(sys.executable, [sys.executable, "-m", "bench.gpu.phase", *sys.argv[1:], "--first", str(first)])


if __name__ == "__main__":
    sys.exit(main())
