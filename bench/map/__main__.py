"""Measure the map, or draw it: see the package."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import bench.map
from bench.map.points import FORMS, Point, points
from bench.map.results import AFTER, FOLDER, Setting
from bench.map.runner import run

ROOT = Path(__file__).parents[2]
SECONDS, SECONDS_IN_FULL = 0.2, 0.5
NEIGHBOURS = {"no": (False,), "yes": (True,), "both": (False, True)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, draw, or list the points."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.map", description=bench.map.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="all points, those of torch.compile among them")
    forms = "; ".join(f"{name}: {words.format(loss='a loss')}" for name, words in FORMS.items())
    parser.add_argument("--forms", default="", help=f"only these, with commas. {forms}")
    parser.add_argument("--points", default="", help="only those in whose name, see --list, this pattern is found")
    parser.add_argument("--threads", default="", help="of torch, with commas: a process for each number; as torch has")
    parser.add_argument("--busy", choices=NEIGHBOURS, default="no", help="beside a busy process on each core; no")
    parser.add_argument("--seconds", type=float, help=f"of timing a point; {SECONDS}, with --full {SECONDS_IN_FULL}")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which no point begins")
    parser.add_argument("--output", type=Path, help="JSON lines to append to; points that it has are left out")
    parser.add_argument("--record", action="store_true", help=f"append to bench/results/{AFTER}, likewise")
    parser.add_argument("--list", action="store_true", help="print the points and measure nothing")
    parser.add_argument("--draw", action="store_true", help="draw bench/results/map.png and measure nothing")
    options = parser.parse_args(arguments)
    if options.draw:
        from bench.map import pages  # needs matplotlib

        if pages.redraw(FOLDER, ROOT):
            return 0
        parser.error(f"{FOLDER / AFTER} has no results; measure with --record first")
    unknown = sorted({name for name in options.forms.split(",") if name} - FORMS.keys())
    if unknown:
        parser.error(f"--forms: {', '.join(unknown)} is none of {', '.join(FORMS)}")
    chosen = select(points(options.full), options.forms, options.points)
    if not chosen:
        parser.error(f"no point has these forms and a name with {options.points!r}; --list prints all names")
    if options.list:
        print(*chosen, f"{len(chosen)} points", sep="\n")
        return 0
    threads = options.threads or str(torch.get_num_threads())
    settings = [Setting(int(count), busy) for busy in NEIGHBOURS[options.busy] for count in threads.split(",")]
    if len(settings) > 1:
        given = sys.argv[1:] if arguments is None else arguments
        return max(_in_a_process(setting, given) for setting in settings)
    seconds = options.seconds or (SECONDS_IN_FULL if options.full else SECONDS)
    output = options.output or (FOLDER / AFTER if options.record else None)
    left = run(chosen, settings[0], seconds, output, options.limit)
    if left:
        print(f"{left} points are left; the same command with --output goes on")
    return 0


def select(all_points: Sequence[Point], forms: str, pattern: str) -> list[Point]:
    """The points of some forms in whose name a regular expression is found."""
    names = set(forms.split(",")) if forms else {point.form for point in all_points}
    return [point for point in all_points if point.form in names and re.search(pattern, str(point))]


def _in_a_process(setting: Setting, arguments: Sequence[str]) -> int:
    """One setting of several. Of an option that is given twice the last value counts."""
    chosen = ["--threads", str(setting.threads), "--busy", "yes" if setting.busy else "no"]
    return subprocess.run([sys.executable, "-m", "bench.map", *arguments, *chosen], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
