"""Tables and a picture from the results of a GPU: `python -m bench.report [FOLDER] [--check]`.

Of each device in FOLDER/gpu.jsonl the newest run that has times counts; FOLDER is bench/results by default. Later runs
are named, so that one that was cut off takes no figures from the tables without a word. README.md and
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
from typing import Any, TypeGuard

from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- gpu results: begin, by python -m bench.report -->", "<!-- gpu results: end -->"
PICTURE = Path("bench") / "results" / "gpu.png"
MISSING = "not yet measured"
DETAILS = "[benchmarks](docs/benchmarks.md#on-a-gpu)"
NO_RUN = "No run of `make gpu` is recorded yet."
FACTS = ("driver", "python", "torch", "triton", "commit", "cpu")
COLUMNS = ("eager", "torch.compile", "cpu")

# Where the first name matches, its share of the copy is to reach the number. Sizes: 2^28 samples of float32.
GOALS = ((r"objective d=([0-9]|10)", 0.95), (r"moments d=\d+", 0.85))

SIZES = "2^28 samples of float32 where no others are named; 2000 samples for 80000 epochs."
HEADS = (
    "Share of the copy: the time in which the device copies as many bytes, divided by the time."
    " A pass that writes less than it reads can exceed 1. Eager, torch.compile, CPU: how many times longer they take."
)

# Names of results, as bench.gpu writes them, in words. The order is that of the tables and of the picture.
PASSES = {
    "objective d=1": "loss and gradient, degree 1",
    "objective d=5": "loss and gradient, degree 5",
    "objective d=10": "loss and gradient, degree 10",
    "objective d=20": "loss and gradient, degree 20",
    "polynomial_loss and backward d=5, the call": "`polynomial_loss` and `backward`, degree 5, the call",
    "objective chebyshev, domain, d=5": "loss and gradient, degree 5, Chebyshev, a domain",
    "objective huber d=5": "loss and gradient, degree 5, Huber's loss",
    "objective weighted d=5": "loss and gradient, degree 5, weights",
    "objective to x and y d=5": "loss and all gradients, degree 5",
    "moments d=1": "moments, degree 1",
    "moments d=5": "moments, degree 5",
    "moments d=8": "moments, degree 8",
    "moments d=10": "moments, degree 10",
    "moments d=20": "moments, degree 20",
    "moments weighted d=5": "moments, degree 5, weights",
    "evaluate d=1": "values, degree 1",
    "evaluate d=5": "values, degree 5",
    "evaluate d=10": "values, degree 10",
    "evaluate and its backward d=5": "values, then their gradient to `coef`, degree 5",
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
    "80000 epochs of Adam, stepwise": "80000 epochs of Adam, one launch an epoch",
}
SERIES = {
    "a million series of 64, objective d=3": "a million series of 64: loss and gradient, degree 3",
    "a million series of 64, moments d=3": "a million series of 64: moments, degree 3",
    "a million series of 64, evaluate d=3": "a million series of 64: values, degree 3",
    "a million series of 64, 1000 epochs of Adam": "a million series of 64: 1000 epochs of Adam",
}
FITS = {f"fit d=5 n=2^{log}": f"`fit`, degree 5, 2^{log} samples" for log in (16, 20, 24, 27)}
IN_README = (
    "objective d=5", "objective d=10", "moments d=5", "evaluate d=5", "a million series of 64, objective d=3",
    "a million series of 64, 1000 epochs of Adam", "80000 epochs, closed_form", "80000 epochs, resident",
)  # fmt: skip
DTYPES = ("float16", "bfloat16", "float64")


def title(name: str) -> str:
    """A result's name in words; names that are not known stay as they are."""
    known = PASSES | TRAINING | SERIES | FITS
    if size := re.fullmatch(r"objective d=5 (n=2\^\d+)(, the call)?", name):
        samples = size[1].removeprefix("n=")
        return f"loss and gradient, degree 5, {samples} samples{', the call' if size[2] else ''}"
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
        facts: driver, versions, commit, and the CPU of the peers.
        lines: all results, in the order in which they were written.
        later: later runs that have no times, in words.
        earlier: runs before it that measured what this one did not reach, the newest first.
    """

    device: str
    begun: datetime.datetime
    facts: dict[str, Any]
    lines: list[dict[str, Any]]
    later: tuple[str, ...] = ()
    earlier: tuple[Run, ...] = ()

    def phase(self, name: str) -> list[dict[str, Any]]:
        """The results of a phase; of one that ran twice, the later result of each name."""
        return list({line["benchmark"]: line for line in self.lines if line.get("phase") == name}.values())

    def times(self) -> dict[str, dict[str, Any]]:
        """Times of this run by name: those of headline, and of policy under the default for what it did not reach."""
        by_default = [line for line in self.phase("policy") if line.get("kernel") in PASSES and not line.get("policy")]
        found = {line["kernel"]: line for line in by_default} | {
            line["benchmark"]: line for line in self.phase("headline") if line["benchmark"] != "copy"
        }
        return {name: line for name, line in found.items() if _is_positive(line.get("seconds"))}

    def measured(self) -> dict[str, dict[str, Any]]:
        """Times by name, in the order of the tables; what this run did not reach is of an earlier one."""
        found: dict[str, dict[str, Any]] = {}
        for run in (self, *self.earlier):
            found = {name: line for name, line in run.times().items() if name not in found} | found
        known = [*PASSES, *(name for name in found if set(DTYPES) & set(name.split())), *SERIES, *TRAINING, *FITS]
        return {name: found[name] for name in dict.fromkeys([*known, *found]) if name in found}

    def named(self, name: str) -> str:
        """The name of a result in words, with the commit of an earlier run that it is of."""
        commit = self.measured().get(name, {}).get("commit", self.facts.get("commit"))
        return title(name) if commit == self.facts.get("commit") else f"{title(name)} ({commit})"

    def shares(self) -> dict[str, float]:
        """The share of the copy of each kernel on long series or many of them, in the order of the picture."""
        return {
            name: line["share_of_copy"]
            for name, line in self.measured().items()
            if _is_positive(line.get("share_of_copy")) and not name.endswith(", the call") and " n=2^" not in name
        }


def _is_positive(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0.0 < value < math.inf


def _parsed(text: str) -> tuple[str, datetime.datetime, dict[str, Any]] | None:
    """Device, begin of the run, and all that a line holds; None for what is no result of a GPU."""
    try:
        line = json.loads(text)
        device, begun = line["device"], datetime.datetime.fromisoformat(line["run"])
        if " CPU" in device or not isinstance(line["benchmark"], str):  # on a CPU: a rehearsal
            return None
    except (ValueError, KeyError, TypeError):  # of an older form, or the run was killed while it wrote
        return None
    return device, begun if begun.tzinfo else begun.replace(tzinfo=datetime.UTC), line


def _told(run: Run) -> str:
    """A run without times in a few words."""
    wrong = sum(bool(line.get("wrong")) or "failed" in line for line in run.phase("smoke"))
    return f"{run.begun:%Y-%m-%d %H:%M}{f' (**{wrong} kernels wrong or failed**)' if wrong else ''}"


def read(path: Path) -> list[Run]:
    """Of each device the newest run that has times, those with most times first. Lines without a run are left out."""
    by_device: dict[str, dict[datetime.datetime, list[dict[str, Any]]]] = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for device, begun, line in filter(None, map(_parsed, text.splitlines())):
        by_device.setdefault(device, {}).setdefault(begun, []).append(line)
    runs = []
    for device, its_lines in by_device.items():
        its_runs = []
        for begun, lines in sorted(its_lines.items(), reverse=True):
            facts = {name: lines[0].get(name) for name in FACTS}
            its_runs.append(Run(device, begun, facts, lines))
        chosen = next((index for index, run in enumerate(its_runs) if run.times()), 0)
        later = tuple(_told(run) for run in its_runs[:chosen])
        runs.append(dataclasses.replace(its_runs[chosen], later=later, earlier=tuple(its_runs[chosen + 1 :])))
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
    if not _is_positive(share):
        return ""
    return f"{share:.3f}" if wanted is not None and share < wanted <= round(share, 2) else f"{share:.2f}"


def ratio(line: dict[str, Any], peer: str) -> str:
    """How many times longer a peer takes; nothing where it was not measured."""
    seconds = line.get("peers", {}).get(peer)
    return two_digits(seconds / line["seconds"]) if _is_positive(seconds) else ""


def facts(run: Run) -> str:
    """Device, versions, date, commit, and the CPU of the peers."""
    known = [(word, run.facts.get(word.lower())) for word in ("driver", "torch", "Triton", "Python")]
    parts = [run.device, *(f"{word} {value}" for word, value in known if value), f"{run.begun:%Y-%m-%d}"]
    cpu = f"; CPU: {run.facts['cpu']}" if run.facts.get("cpu") else ""
    return ", ".join([*parts, f"commit {run.facts.get('commit') or 'unknown'}"]) + cpu


def checks(run: Run) -> list[str]:
    """What was found wrong, and what was not checked: a sentence each."""
    later = [f"Later runs without times: {', '.join(run.later)}."] if run.later else []
    return [*_of_smoke(run), _of_proof(run), *_of_sanitizer(run), *later, *_of_earlier(run)]


def _of_smoke(run: Run) -> Iterator[str]:
    smoke = run.phase("smoke")
    wrong = [line for line in smoke if line.get("wrong")]
    failed = [line for line in smoke if "failed" in line]
    # Each part of the phase names what it left out, unless it was killed.
    left_out = sum(len(line.get("cases", ())) for line in run.lines if _names_cases_left_out(line, "smoke"))
    ended = [line for line in smoke if "of" in line and not _names_cases_left_out(line, "smoke")]
    ended = [line for line in ended if not line["benchmark"].endswith(", after it")]
    left_out = max([left_out, *(line["of"] - len(ended) for line in ended)])
    if wrong:
        names = "; ".join(f"{line['benchmark']}: {line['wrong']} ({_short(line.get('which'))})" for line in wrong)
        yield f"**Kernels against float64 gave wrong results**: {names}."
    if failed:
        names = "; ".join(f"{line['benchmark']} ({_short(line['failed'])})" for line in failed)
        yield f"**Kernels against float64 failed**: {names}."
    if not [line for line in smoke if "wrong" in line]:
        yield f"Kernels against float64: {MISSING}."
    elif left_out:
        yield f"**{left_out} cases of kernels against float64 were not measured.**"
    elif not (wrong or failed):
        yield "Every kernel agreed with float64."


def _of_earlier(run: Run) -> Iterator[str]:
    """What earlier runs checked whose results stand among those of this one."""
    used = {line.get("commit") for line in run.measured().values()} - {run.facts.get("commit")}
    if used:
        yield "A commit in brackets: of an earlier run, which measured what this one did not reach."
    for earlier in run.earlier:
        if earlier.facts.get("commit") in used and earlier.phase("proof"):
            yield f"At {earlier.facts['commit']}: {_of_proof(earlier)}"


def _of_proof(run: Run) -> str:
    proof = next(iter(run.phase("proof")), None)
    if proof is None:
        return f"Tests on the GPU: {MISSING}."
    counts = {name: proof.get(name, 0) for name in ("passed", "failed", "skipped", "not_run")}
    text = f"{counts['passed']} tests passed on the GPU, {counts['skipped']} skipped"
    if counts["failed"]:
        text += f", **{counts['failed']} failed** ({_short(proof.get('which'))})"
    if counts["not_run"]:
        text += f", **{counts['not_run']} did not run**"
    if proof.get("stopped"):
        text += f"; **the tests were stopped** ({_short(proof['stopped'])})"
    return f"{text}."


def _of_sanitizer(run: Run) -> Iterator[str]:
    lines = [line for line in run.phase("sanitizer") if not _names_cases_left_out(line, "sanitizer")]
    ran = [line for line in lines if "skipped" not in line]
    if not ran:
        yield "compute-sanitizer did not run."
    for line in ran:
        if "failed" in line:
            yield f"**{line['benchmark']} failed**: {_short(line['failed'])}."
        elif found := line.get("errors") or line.get("wrong"):
            yield f"**compute-sanitizer, {line['benchmark']}**: {_short(found)} errors."


def _names_cases_left_out(line: dict[str, Any], phase: str) -> bool:
    return line.get("phase") == phase and line.get("benchmark") == "not measured"


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
        rows.append([run.named(name), *cells])
    head = ("what", "time", "share of the copy", "eager", "torch.compile", "CPU")
    said = checks(run)
    wrong = [sentence for sentence in said if re.search(r"gave wrong results|failed\*\*|errors\.", sentence)]
    is_whole = not any(re.search(rf"\*\*|{MISSING}|did not run", sentence) for sentence in said)
    versions = ", ".join(f"{name} {run.facts.get(name.lower())}" for name in ("torch", "Triton"))
    sentences = [
        f"{run.device}, {versions}, {run.begun:%Y-%m-%d}, commit {run.facts.get('commit')}, by `make gpu`.",
        f"{SIZES} Share of the copy: the time of a copy of as many bytes, divided by the time; reading alone is faster.",
        "Eager, torch.compile, CPU: how many times longer they take.",
        *(["A commit in brackets: of an earlier run."] if any("(" in row[0] for row in rows) else []),
        *wrong,
        f"{'All kernels and tests were right' if is_whole else 'Not all checks of this run ended well'}: {DETAILS}.",
    ]
    text = " ".join(sentences)
    picture = f"![{_alternative(run)}]({PICTURE.as_posix()})" if run.shares() else f"The picture: {MISSING}."
    return "\n\n".join([_table(head, rows), _wrapped(text), picture])


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
            if _is_positive(share) and wanted and share < wanted:
                told += f" (goal: {wanted:.2f})"
            rate = f"{line['bytes'] / line['seconds'] / 1e9:.0f}" if told and line.get("bytes") else ""
            rows.append([run.named(name), duration(line["seconds"]), rate, told, *(ratio(line, p) for p in COLUMNS)])
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
