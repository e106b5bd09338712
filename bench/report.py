"""Tables and pictures from recorded results: `python -m bench.report [FOLDER] [--check]`.

The map of a CPU, FOLDER/map.jsonl: see `bench.map`; without that file the pages keep what they have. Runs on a GPU: of
each device in FOLDER/gpu.jsonl the newest run that has times counts, and earlier ones for what it did not reach. Later
runs without times are named. FOLDER is bench/results by default. README.md and docs/benchmarks.md get a table of each,
between two comments. bench/results/gpu.png shows each kernel beside a copy of as many bytes. With --check nothing is
written: the status is 1 if a page or a picture is not what the results give.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench.gpu.results import (
    DTYPES,
    FITS,
    GOALS,
    KAN,
    MISSING,
    PASSES,
    SERIES,
    TRAINING,
    Run,
    by_trials,
    checks,
    goal,
    is_positive,
    read,
    title,
)  # fmt: skip
from bench.map import pages
from bench.words import duration, table, two_digits, wrapped

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- gpu results: begin, by python -m bench.report -->", "<!-- gpu results: end -->"
PICTURE = Path("bench") / "results" / "gpu.png"
DETAILS = "[benchmarks](docs/benchmarks.md#on-a-gpu)"
ENDED_BADLY = "Not all checks of this run ended well"
NO_TIME = "No check of this run failed, but not all had time"
NO_RUN = "No run of `make gpu` is recorded yet."
COLUMNS = ("eager", "torch.compile", "cpu")

SIZES = "2^28 samples of float32 where no others are named; 2000 samples for 80000 epochs."
HEADS = (
    "Share of the copy: the time in which the device copies as many bytes, divided by the time."
    " A pass that writes less than it reads can exceed 1. Eager, torch.compile, CPU: how many times longer they take."
)
IN_README = (
    "objective d=5", "objective d=10", "moments d=5", "evaluate d=5", "a million series of 64, objective d=3",
    "a million series of 64, 1000 epochs of Adam", "80000 epochs, closed_form", "80000 epochs, resident",
)  # fmt: skip


# Words.


def share_in_words(name: str, line: dict[str, Any]) -> str:
    """The share of the copy. One below its goal is not rounded to it."""
    share, wanted = line.get("share_of_copy"), goal(name)
    if not is_positive(share):
        return ""
    return f"{share:.3f}" if wanted is not None and share < wanted <= round(share, 2) else f"{share:.2f}"


def ratio(line: dict[str, Any], peer: str) -> str:
    """How many times longer a peer takes; nothing where it was not measured."""
    seconds = line.get("peers", {}).get(peer)
    return two_digits(seconds / line["seconds"]) if is_positive(seconds) else ""


def facts(run: Run) -> str:
    """Device, versions, date, commit, and the CPU of the peers."""
    known = [(word, run.facts.get(word.lower())) for word in ("driver", "torch", "Triton", "Python")]
    parts = [run.device, *(f"{word} {value}" for word, value in known if value), f"{run.begun:%Y-%m-%d}"]
    cpu = f"; CPU: {run.facts['cpu']}" if run.facts.get("cpu") else ""
    return ", ".join([*parts, f"commit {run.facts.get('commit') or 'unknown'}"]) + cpu


def _copy_rate(run: Run) -> str:
    rate = next((line.get("bytes_per_second") for line in run.phase("headline") if line["benchmark"] == "copy"), None)
    return (
        f"The copy of the device moves {rate / 1e12:.2f} TB/s, read and written." if rate else f"The copy: {MISSING}."
    )


def short_table(runs: Sequence[Run]) -> str:
    """README's table: the device with most times."""
    if not runs:
        return NO_RUN
    run, rows = runs[0], []
    measured = run.measured()
    for name in IN_README:
        line = measured.get(name)
        if line is None:
            rows.append([title(name), MISSING, *[""] * (1 + len(COLUMNS))])
            continue
        cells = [duration(line["seconds"]), share_in_words(name, line), *(ratio(line, peer) for peer in COLUMNS)]
        rows.append([run.named(name), *cells])
    head = ("what", "time", "share of the copy", "eager", "torch.compile", "CPU")
    said = checks(run)
    wrong = [sentence for sentence in said if re.search(r"gave wrong results|failed\*\*|errors\.", sentence)]
    is_whole = not any(re.search(rf"\*\*|{MISSING}|did not run", sentence) for sentence in said)
    versions = ", ".join(f"{name} {run.facts.get(name.lower())}" for name in ("torch", "Triton"))
    sentences = [
        f"{run.device}, {versions}, {run.begun:%Y-%m-%d}, commit {run.facts.get('commit')}, by `make gpu`.",
        f"{SIZES} Share of the copy: the time of a copy of as many bytes, divided by the time.",
        "Reading alone is faster than a copy. Eager, torch.compile, CPU: how many times longer they take.",
        *(["A commit in brackets: of an earlier run."] if any("(" in row[0] for row in rows) else []),
        *([by_trials(run)] if by_trials(run) else []),
        *wrong,
        f"{ENDED_BADLY if wrong else 'All kernels and tests were right' if is_whole else NO_TIME}: {DETAILS}.",
    ]
    text = " ".join(sentences)
    picture = f"![{_alternative(run)}]({PICTURE.as_posix()})" if run.shares() else f"The picture: {MISSING}."
    return "\n\n".join([table(head, rows), wrapped(text), picture])


def _alternative(run: Run) -> str:
    least = min(run.shares().values())
    return f"Share of the copy by kernel on {run.device}: from {least:.2f} to {max(run.shares().values()):.2f}"


def long_table(runs: Sequence[Run]) -> str:
    """The table of docs/benchmarks.md: all times of all devices."""
    if not runs:
        return NO_RUN
    parts = [wrapped(f"Medians, by `make gpu`. {SIZES} {HEADS} An empty cell: it does not apply, or was not measured.")]
    head = ("what", "time", "GB/s", "share of the copy", "eager", "torch.compile", "CPU")
    for run in runs:
        rows = []
        measured = run.measured()
        for name, line in measured.items():
            share, wanted = line.get("share_of_copy"), goal(name)
            told = share_in_words(name, line)
            if is_positive(share) and wanted and share < wanted:
                told += f" (goal: {wanted:.2f})"
            rate = f"{line['bytes'] / line['seconds'] / 1e9:.0f}" if told and line.get("bytes") else ""
            rows.append([run.named(name), duration(line["seconds"]), rate, told, *(ratio(line, p) for p in COLUMNS)])
        missing = [title(name) for name in (PASSES | SERIES | TRAINING | KAN | FITS) if name not in measured]
        absent = [f"{MISSING.capitalize()}: {'; '.join(missing)}."] if missing else []
        text = " ".join([f"**{facts(run)}.**", _copy_rate(run), *checks(run), *absent])
        parts += [wrapped(text), *([table(head, rows)] if rows else [])]
    if runs[0].shares():
        parts.append(f"![{_alternative(runs[0])}](../{PICTURE.as_posix()})")
    return "\n\n".join(parts)


# The picture.


def digest(run: Run) -> str:
    """What a picture shows, in a few letters: they are kept in the picture."""
    shown = json.dumps([facts(run), checks(run), run.shares(), GOALS])
    return "polyfit-" + hashlib.sha256(shown.encode()).hexdigest()[:16]


def _family(name: str) -> str:
    """Kernels of a family stand together in the picture."""
    if name in SERIES:
        return "series"
    if set(DTYPES) & set(name.split()):
        return "other types"
    return "objective" if "loss" in name else name.split("_", maxsplit=1)[0].split(" ", maxsplit=1)[0]


def draw(run: Run) -> Figure:
    """Horizontal bars: the share of the copy of each kernel."""
    names = list(run.shares())
    rows: dict[str, float] = {}
    row, family = -1.0, _family(names[0])
    for name in names:
        row += 1.0 if _family(name) == family else 1.5  # a gap between families
        rows[name], family = row, _family(name)
    figure = Figure(figsize=(9, 1.7 + 0.27 * row), layout="constrained")
    axes = figure.add_subplot()
    right = max(1.0, *run.shares().values())
    axes.barh(list(rows.values()), list(run.shares().values()), height=0.68, color="#6ba3d0")
    axes.axvline(1.0, color="0.25", linewidth=1.2)
    goals = [(share, rows[name]) for name in rows if (share := goal(name)) is not None]
    for share, row in goals:
        axes.plot([share, share], [row - 0.44, row + 0.44], color="black", linewidth=2.2, solid_capstyle="butt")
    for name, row in rows.items():
        axes.text(right + 0.015, row, share_in_words(name, run.measured()[name]), va="center", fontsize=10)
    names = [run.named(name).replace("`", "").replace("the same by ", "") for name in rows]
    axes.set_yticks(list(rows.values()), names, fontsize=10)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.set_xlim(0, right + 0.09)
    axes.set_ylim(max(rows.values()) + 0.6, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("share of the rate of a copy" + ("; tick: goal" if goals else ""))
    caption = [*textwrap.wrap(facts(run), 125), *textwrap.wrap(" ".join(checks(run)).replace("**", ""), 125)]
    figure.supxlabel("\n".join(caption), x=0.01, ha="left", fontsize=9)
    return figure


def save(run: Run, path: Path) -> None:
    """Write the picture; one run gives the same bytes each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(run).savefig(path, dpi=110, metadata={"Description": digest(run), "Software": None})


# Files.


def outputs(folder: Path, root: Path) -> Iterator[tuple[Path, bool, str]]:
    """Each page, whether it is what the results give, and what it has to be.

    Raises:
        ValueError: a page lacks the two comments.
    """
    runs = read(folder / "gpu.jsonl")
    results, before = pages.load(folder)
    blocks = {
        root / "README.md": (short_table(runs), pages.short_table(results) if results else None),
        root / "docs" / "benchmarks.md": (long_table(runs), pages.long_table(results, before) if results else None),
    }
    for page, (of_gpu, of_cpu) in blocks.items():
        text = page.read_text(encoding="utf-8")
        new = _filled(page, text, of_gpu, BEGIN, END)
        if of_cpu is not None:
            new = _filled(page, new, of_cpu, pages.BEGIN, pages.END)
        yield page, new == text, new


def _filled(page: Path, text: str, block: str, begin: str, end: str) -> str:
    """The text of a page with a block between two comments."""
    before, has_begin, rest = text.partition(begin)
    _, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        raise ValueError(f"{page} lacks the lines {begin!r} and {end!r}: put them where the table is to stand")
    return f"{before}{begin}\n\n{block}\n\n{end}{after}"


def picture_is_current(folder: Path, root: Path) -> bool:
    """Whether the picture shows the results; where there are none, any picture is right."""
    runs = read(folder / "gpu.jsonl")
    path = root / PICTURE
    if not runs or not runs[0].shares():
        return True
    return path.exists() and digest(runs[0]).encode() in path.read_bytes()


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write the tables and the picture, or check them."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    usual = root / "bench" / "results"
    parser.add_argument("folder", nargs="?", type=Path, default=usual, help="that of gpu.jsonl")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a file is out of date")
    options = parser.parse_args(arguments)
    if options.folder != usual and not (options.folder / "gpu.jsonl").exists():
        parser.error(f"{options.folder} has no gpu.jsonl; give the folder that was RESULTS of make gpu")
    stale = []
    for page, is_current, text in outputs(options.folder, root):
        if not is_current:
            stale.append(page)
            if not options.check:
                page.write_text(text, encoding="utf-8")
    if not picture_is_current(options.folder, root):
        stale.append(root / PICTURE)
        if not options.check:
            save(read(options.folder / "gpu.jsonl")[0], root / PICTURE)
    if not pages.is_current(options.folder, root):
        stale.append(root / pages.PICTURE)
        if not options.check:
            pages.redraw(options.folder, root)
    for path in stale:
        print(f"{path}: {'out of date; run python -m bench.report' if options.check else 'written'}")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
