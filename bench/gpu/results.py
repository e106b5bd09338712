"""Results of `make gpu`: runs read from gpu.jsonl, what each measured, in words, and what it checked.

A result that the newest run did not reach is taken from an earlier one, and says its commit.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

MISSING = "not yet measured"
FACTS = ("driver", "python", "torch", "triton", "commit", "cpu")
# Where the first name matches, its share of the copy is to reach the number. Sizes: 2^28 samples of float32.
GOALS = (
    (r"objective d=([0-9]|10)", 0.95),
    (r"moments d=\d+", 0.85),
    (r"activate_backward \w+ d=[58]", 0.85),
    (r"activate_backward bfloat16 \w+ d=5", 0.85),
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
_LAYOUTS = {
    "flat": "one polynomial",
    "columns": "a polynomial for each of the last axis",
    "planes": "a polynomial for each plane",
}
PASSES |= {
    f"activate_backward {layout} d={degree}": f"both gradients of the activation, degree {degree}, {words}"
    for layout, words in _LAYOUTS.items()
    for degree in (5, 8)
}
PASSES |= {
    f"activate and its backward {layout} d=5": f"the activation and its gradients, degree 5, {words}"
    for layout, words in _LAYOUTS.items()
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
KAN = {
    f"kan {name} d=4 {width} to {width}, {rows} rows": f"KAN layer {width} to {width}, degree 4, {rows} rows, {word},"
    " forward and backward"
    for width, rows in ((256, 4096), (1024, 8192))
    for name, word in (("bfloat16", "bfloat16"), ("tf32", "TF32"))
}
FITS = {f"fit d=5 n=2^{log}": f"`fit`, degree 5, 2^{log} samples" for log in (16, 20, 24, 27)}
DTYPES = ("float16", "bfloat16", "float64")


def title(name: str) -> str:
    """A result's name in words; names that are not known stay as they are."""
    known = PASSES | TRAINING | SERIES | KAN | FITS
    if name in KAN:
        return KAN[name]
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
        return {name: line for name, line in found.items() if is_positive(line.get("seconds"))}

    def measured(self) -> dict[str, dict[str, Any]]:
        """Times by name, in the order of the tables; what this run did not reach is of an earlier one."""
        found: dict[str, dict[str, Any]] = {}
        for run in (self, *self.earlier):
            found = {name: line for name, line in run.times().items() if name not in found} | found
        known = [*PASSES, *(name for name in found if set(DTYPES) & set(name.split()) and name not in KAN)]
        known += [*SERIES, *TRAINING, *KAN, *FITS]
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
            if is_positive(line.get("share_of_copy")) and not name.endswith(", the call") and " n=2^" not in name
        }


def is_positive(value: object) -> TypeGuard[float]:
    """Whether a value of a result is a positive, finite number."""
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
        whole = max((line["of"] for line in ended), default=0)
        yield f"**{left_out}{f' of {whole}' if whole else ''} cases of kernels against float64 were not measured.**"
    elif not (wrong or failed):
        yield "Every kernel agreed with float64."


def _of_earlier(run: Run) -> Iterator[str]:
    """What earlier runs checked whose results stand among those of this one."""
    used = {line.get("commit") for line in run.measured().values()} - {run.facts.get("commit")}
    if used:
        yield "A commit in brackets: of an earlier run, which measured what this one did not reach."
    if tried := by_trials(run):
        yield tried
    for earlier in run.earlier:
        if earlier.facts.get("commit") in used and earlier.phase("proof"):
            yield f"At {earlier.facts['commit']}: {_of_proof(earlier)}"


def by_trials(run: Run) -> str:
    """Which of the results were not measured by `make gpu`."""
    commits = sorted({str(line.get("commit")) for line in run.measured().values() if "note" in line})
    return f"{' and '.join(commits)}: by a script of trials, not by `make gpu`." if commits else ""


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
