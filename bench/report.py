"""Tables and a picture from the results of a GPU: `python -m bench.report [FOLDER] [--check]`.

The newest run of each device in FOLDER/gpu.jsonl counts; FOLDER is bench/results by default. README.md and
docs/benchmarks.md get a table each, between two comments. bench/results/gpu.png shows each kernel beside a copy of as
many bytes. With --check nothing is written: the status is 1 if one of the three is not what the results give.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
import math
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- gpu results: begin, by python -m bench.report -->", "<!-- gpu results: end -->"
PICTURE = Path("bench") / "results" / "gpu.png"
MISSING = "not yet measured"
NO_RUN = "No run of `make gpu` is recorded yet."
COLUMNS = ("eager", "torch.compile", "cpu")

# Where the first name matches, its share of the copy is to reach the number. Sizes: 2^28 samples of float32.
GOALS = ((r"objective d=([0-9]|10)", 0.95), (r"moments d=\d+", 0.85))

SIZES = "2^28 samples of float32 where no others are named; 2000 samples for 80000 epochs."
HEADS = (
    "Share of the copy: the time in which the device copies as many bytes, divided by the time."
    " Eager, torch.compile, CPU: how many times longer they take."
)

# Names of results, as bench.gpu writes them, in words. The order is that of the tables and of the picture.
PASSES = {
    "objective d=1": "loss and gradient, degree 1",
    "objective d=5": "loss and gradient, degree 5",
    "objective d=10": "loss and gradient, degree 10",
    "objective d=20": "loss and gradient, degree 20",
    "polynomial_loss and backward d=5": "the same by `polynomial_loss` and `backward`, degree 5",
    "moments d=1": "moments, degree 1",
    "moments d=5": "moments, degree 5",
    "moments d=8": "moments, degree 8",
    "moments d=10": "moments, degree 10",
    "evaluate d=1": "values, degree 1",
    "evaluate d=5": "values, degree 5",
    "evaluate d=10": "values, degree 10",
    "evaluate_backward d=5": "gradient of values to `coef`, degree 5",
    "evaluate_backward to x d=1": "gradient of values to `x`, degree 1",
    "evaluate_backward to x d=5": "gradient of values to `x`, degree 5",
    "evaluate_backward to x d=10": "gradient of values to `x`, degree 10",
}
TRAINING = {
    "80000 epochs, closed_form": "80000 epochs of SGD, closed form",
    "80000 epochs, moments": "80000 epochs of SGD, from moments",
    "80000 epochs, resident": "80000 epochs of SGD, data in registers",
    "80000 epochs, stepwise": "80000 epochs of SGD, one launch an epoch",
    "80000 epochs of Adam, moments": "80000 epochs of Adam, from moments",
    "80000 epochs of Adam, resident": "80000 epochs of Adam, data in registers",
}
SERIES = {
    "a million series of 64, objective d=3": "a million series of 64: loss and gradient, degree 3",
    "a million series of 64, moments d=3": "a million series of 64: moments, degree 3",
    "a million series of 64, evaluate d=3": "a million series of 64: values, degree 3",
    "a million series of 64, 1000 epochs of Adam": "a million series of 64: 1000 epochs of Adam",
}
FITS = {"fit d=5 n=2^27": "`fit`, degree 5, 2^27 samples"}
IN_README = (
    "objective d=5", "objective d=10", "moments d=5", "evaluate d=5", "a million series of 64, objective d=3",
    "a million series of 64, 1000 epochs of Adam", "80000 epochs, closed_form", "80000 epochs, resident",
)  # fmt: skip
DTYPES = ("float16", "bfloat16", "float64")


def title(name: str) -> str:
    """A result's name in words; names that are not known stay as they are."""
    known = PASSES | TRAINING | SERIES | FITS
    words = name.split()
    for dtype in DTYPES:
        if dtype in words and (plain := " ".join(word for word in words if word != dtype)) in known:
            return f"{known[plain]}, {dtype}"
    return known.get(name, name)


def goal(name: str) -> float | None:
    """The share of the copy that a kernel is to reach, where there is a goal."""
    return next((share for pattern, share in GOALS if re.fullmatch(pattern, name)), None)


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run of `make gpu` gave on one device.

    Attributes:
        device: its name.
        begun: when the run began.
        facts: driver, versions and commit.
        lines: all results, in the order in which they were written.
    """

    device: str
    begun: datetime.datetime
    facts: dict[str, Any]
    lines: list[dict[str, Any]]

    def phase(self, name: str) -> list[dict[str, Any]]:
        """The results of a phase; of one that ran twice, the later result of each name."""
        return list({line["benchmark"]: line for line in self.lines if line.get("phase") == name}.values())

    def measured(self) -> dict[str, dict[str, Any]]:
        """Times of the headline phase by name, in the order of the tables."""
        found = {line["benchmark"]: line for line in self.phase("headline") if "seconds" in line}
        found.pop("copy", None)
        known = [*PASSES, *(name for name in found if set(DTYPES) & set(name.split())), *SERIES, *TRAINING, *FITS]
        return {name: found[name] for name in dict.fromkeys([*known, *found]) if name in found}

    def shares(self) -> dict[str, float]:
        """The share of the copy of each kernel, in the order of the picture."""
        return {name: line["share_of_copy"] for name, line in self.measured().items() if line.get("share_of_copy")}


def read(path: Path) -> list[Run]:
    """The newest run of each device, those with most times first. Lines that name no run are of an older form."""
    by_device: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # the run was killed while it wrote
            continue
        # A device that is a CPU: a rehearsal.
        if isinstance(line, dict) and {"run", "device", "benchmark"} <= line.keys() and " CPU" not in line["device"]:
            by_device.setdefault(line["device"], {}).setdefault(line["run"], []).append(line)
    runs = []
    for device, its_runs in by_device.items():
        newest = max(its_runs, key=datetime.datetime.fromisoformat)
        lines = its_runs[newest]
        facts = {name: lines[0].get(name) for name in ("driver", "python", "torch", "triton", "commit")}
        runs.append(Run(device, datetime.datetime.fromisoformat(newest), facts, lines))
    return sorted(runs, key=lambda run: (-len(run.measured()), run.device))


# Words.


def duration(seconds: float) -> str:
    """Two digits with a unit."""
    unit, size = ("s", 1.0) if seconds >= 0.0995 else ("ms", 1e-3) if seconds >= 0.0995e-3 else ("us", 1e-6)
    return f"{two_digits(seconds / size)} {unit}"


def two_digits(value: float) -> str:
    """A positive number rounded to two digits, without an exponent."""
    rounded = float(f"{value:.1e}")
    return f"{rounded:.{max(0, 1 - math.floor(math.log10(rounded)))}f}"


def share_in_words(name: str, line: dict[str, Any]) -> str:
    """The share of the copy. One below its goal is not rounded to it."""
    share, wanted = line.get("share_of_copy"), goal(name)
    if not share:
        return ""
    return f"{share:.3f}" if wanted is not None and share < wanted <= round(share, 2) else f"{share:.2f}"


def ratio(line: dict[str, Any], peer: str) -> str:
    """How many times longer a peer takes; nothing where it was not measured."""
    seconds = line.get("peers", {}).get(peer)
    return "" if seconds is None else two_digits(seconds / line["seconds"])


def facts(run: Run) -> str:
    """Device, versions, date and commit."""
    known = [(word, run.facts.get(word.lower())) for word in ("driver", "torch", "Triton", "Python")]
    parts = [run.device, *(f"{word} {value}" for word, value in known if value), f"{run.begun:%Y-%m-%d}"]
    return ", ".join([*parts, f"commit {run.facts.get('commit') or 'unknown'}"])


def checks(run: Run) -> list[str]:
    """What was found wrong, and what was not checked: a sentence each."""
    said = []
    smoke = run.phase("smoke")
    wrong = [line for line in smoke if line.get("wrong")]
    if not [line for line in smoke if "wrong" in line]:
        said.append(f"Kernels against float64: {MISSING}.")
    elif wrong:
        names = "; ".join(f"{line['benchmark']}: {line['wrong']} ({_short(line.get('which'))})" for line in wrong)
        said.append(f"**Kernels against float64 gave wrong results**: {names}.")
    else:
        said.append("Every kernel agreed with float64.")
    proof = next(iter(run.phase("proof")), None)
    if proof is None:
        said.append(f"Tests on the GPU: {MISSING}.")
    else:
        counts = {name: proof.get(name, 0) for name in ("passed", "failed", "skipped", "not_run")}
        text = f"{counts['passed']} tests passed on the GPU, {counts['skipped']} skipped"
        if counts["failed"]:
            text += f", **{counts['failed']} failed** ({_short(proof.get('which'))})"
        if counts["not_run"]:
            text += f", **{counts['not_run']} did not run**"
        said.append(f"{text}.")
    for line in run.phase("sanitizer"):
        found = line.get("errors") or line.get("failed") or line.get("wrong")
        if found:
            said.append(f"**compute-sanitizer, {line['benchmark']}**: {_short(found)} errors.")
    return said


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return (text if len(text) <= 200 else text[:197] + "...").replace("|", "/").replace("\n", " ")


def _copy_rate(run: Run) -> str:
    rate = next((line.get("bytes_per_second") for line in run.phase("headline") if line["benchmark"] == "copy"), None)
    return (
        f"The copy of the device moves {rate / 1e12:.2f} TB/s, read and written." if rate else f"The copy: {MISSING}."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


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
        rows.append([title(name), *cells])
    head = ("what", "time", "share of the copy", "eager", "torch.compile", "CPU")
    text = f"{facts(run)}, by `make gpu`. {SIZES} {HEADS}"
    picture = f"![{_alternative(run)}]({PICTURE.as_posix()})" if run.shares() else f"The picture: {MISSING}."
    return "\n\n".join([_table(head, rows), _wrapped(f"{text} {' '.join(checks(run))}"), picture])


def _alternative(run: Run) -> str:
    least = min(run.shares().values())
    return f"Share of the copy by kernel on {run.device}: from {least:.2f} to {max(run.shares().values()):.2f}"


def long_table(runs: Sequence[Run]) -> str:
    """The table of docs/benchmarks.md: all times of all devices."""
    if not runs:
        return NO_RUN
    parts = [
        _wrapped(f"Medians, by `make gpu`. {SIZES} {HEADS} An empty cell: it does not apply, or was not measured.")
    ]
    head = ("what", "time", "GB/s", "share of the copy", "eager", "torch.compile", "CPU")
    for run in runs:
        rows = []
        measured = run.measured()
        for name, line in measured.items():
            share, wanted = line.get("share_of_copy"), goal(name)
            told = share_in_words(name, line)
            if share and wanted and share < wanted:
                told += f" (goal: {wanted:.2f})"
            rate = f"{line['bytes'] / line['seconds'] / 1e9:.0f}" if share and line.get("bytes") else ""
            rows.append([title(name), duration(line["seconds"]), rate, told, *(ratio(line, p) for p in COLUMNS)])
        missing = [title(name) for name in (PASSES | SERIES | TRAINING | FITS) if name not in measured]
        absent = [f"{MISSING.capitalize()}: {'; '.join(missing)}."] if missing else []
        text = " ".join([f"**{facts(run)}.**", _copy_rate(run), *checks(run), *absent])
        parts += [_wrapped(text), *([_table(head, rows)] if rows else [])]
    if runs[0].shares():
        parts.append(f"![{_alternative(runs[0])}](../{PICTURE.as_posix()})")
    return "\n\n".join(parts)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


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
    measured = {name: line for name, line in run.measured().items() if line.get("share_of_copy")}
    rows: dict[str, float] = {}
    row, family = -1.0, _family(next(iter(measured)))
    for name in measured:
        row += 1.0 if _family(name) == family else 1.5  # a gap between families
        rows[name], family = row, _family(name)
    figure = Figure(figsize=(9, 1.7 + 0.27 * row), layout="constrained")
    axes = figure.add_subplot()
    right = max(1.0, *run.shares().values())
    axes.barh(list(rows.values()), list(run.shares().values()), height=0.68, color="#6ba3d0")
    axes.axvline(1.0, color="0.25", linewidth=1.2)
    goals = [(share, rows[name]) for name in measured if (share := goal(name)) is not None]
    for share, row in goals:
        axes.plot([share, share], [row - 0.44, row + 0.44], color="black", linewidth=2.2, solid_capstyle="butt")
    for name, row in rows.items():
        axes.text(right + 0.015, row, share_in_words(name, measured[name]), va="center", fontsize=10)
    names = [title(name).replace("`", "").replace("the same by ", "") for name in rows]
    axes.set_yticks(list(rows.values()), names, fontsize=10)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.set_xlim(0, right + 0.09)
    axes.set_ylim(max(rows.values()) + 0.6, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("share of the rate at which the device copies as many bytes" + ("; tick: goal" if goals else ""))
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
    for page, block in ((root / "README.md", short_table(runs)), (root / "docs" / "benchmarks.md", long_table(runs))):
        text = page.read_text(encoding="utf-8")
        before, begin, rest = text.partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            raise ValueError(f"{page} lacks the lines {BEGIN!r} and {END!r}: put them where the table is to stand")
        new = f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"
        yield page, new == text, new


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
    parser.add_argument("folder", nargs="?", type=Path, default=root / "bench" / "results", help="that of gpu.jsonl")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a file is out of date")
    options = parser.parse_args(arguments)
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
    for path in stale:
        print(f"{path}: {'out of date; run python -m bench.report' if options.check else 'written'}")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
