"""The tables and the picture of the map, from bench/results/map.jsonl, with map-before.jsonl beside it if there is one.

`python -m bench.report` puts the tables into README.md and docs/benchmarks.md, and draws the picture.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.transforms import Bbox

from bench.map.points import FORMS, LAYERS, LINES, LOSSES_IN_WORDS, NOISE, Line, Point, points
from bench.map.results import AFTER, BEFORE, Map, Result, Setting, read, worst
from bench.words import duration, table, two_digits, wrapped

BEGIN, END = "<!-- map of a CPU: begin, by python -m bench.report -->", "<!-- map of a CPU: end -->"
PICTURE = Path("bench") / "results" / "map.png"
ALTERNATIVE = "Time of eager PyTorch divided by that of polyfit over n, a panel for each form, on a CPU"
DETAILS = "[benchmarks](docs/benchmarks.md#the-map-of-a-cpu)"
RATIO = "Ratio: the time of eager PyTorch (Horner's rule, torch's own losses, autograd) divided by that of polyfit."
WORST = 20
COLUMNS = {64: "64", 2000: "2000", 20_000: "2e4", 100_000: "1e5", 1_000_000: "1e6", 10_000_000: "1e7"}
IN_README = tuple(LINES[k] for k in (0, 1, 2, 4, 6, 8, 9, 10))


# Words.


def first_setting(results: Map) -> Setting:
    """Quiet, with the most threads: that of the picture and of the tables over n."""
    return min({setting for _, setting in results}, key=lambda setting: (setting.busy, -setting.threads))


def machine(results: Map) -> str:
    """CPU, versions, commits and dates."""
    lines = [result.facts for result in results.values()]

    def values(name: str) -> str:
        return ", ".join(sorted({str(line.get(name)) for line in lines}))

    named = ", ".join(f"{word} {values(word.lower())}" for word in ("torch", "numpy", "Python"))
    return f"{values('cpu')}, {values('cores')} cores, {named}, {values('date')}, commit {values('commit')}"


def in_words(point: Point) -> str:
    """A point for a reader of the table."""
    loss = LOSSES_IN_WORDS.get(point.loss, point.loss)
    said = {
        "degree": f"degree {point.degree}",
        "is_weighted": "weighted",
        "wants": "gradients to " + ", ".join({"c": "coef", "w": "weight"}.get(name, name) for name in point.wants),
        "series": f"{point.series} {'channels' if point.form in LAYERS else 'series'}",
        "own_x": "each with its own x",
        "impl": 'impl="compile" beside torch.compile',
    }
    fields = {name: value for name, value in point.to_json().items() if name not in {"form", "n", "loss"}}
    words = [FORMS[point.form].format(loss=loss), f"n = {point.n}"]
    return ", ".join([*words, *(said.get(name) or value for name, value in fields.items())])


def group(point: Point) -> str:
    """What a point varies, from the lines over n."""
    if point.impl != "auto":
        return '`impl="compile"` beside torch.compile'
    if point.form in LAYERS:
        return "layers"
    if point.form == "vmap":
        return "vmap of the gradient"
    if point.series > 1:
        return f"{point.series} series, " + ("each with its own x" if point.own_x else "one x for all")
    named = {
        "degree": "degrees 0 to 20",
        "basis": "other bases",
        "dtype": "float64",
        "is_weighted": "weights",
        "layout": "columns of a table",
        "wants": "gradients to x, y and weight",
        "loss": "other losses",
    }
    varied = point.to_json()
    return next((words for name, words in named.items() if name in varied), "squared error and values, degree 5")


def _cell(result: Result | None) -> str:
    return "" if result is None else two_digits(result.ratio)


def _nearest(line: Line, n: int) -> Point:
    """The point of a line in a column: layers have powers of two."""
    return min(line.points(), key=lambda point: abs(math.log(point.n / n)))


def over_n(results: Map, lines: Iterable[Line]) -> str:
    """Ratios: a row for each line, a column for each n."""
    setting = first_setting(results)
    rows = []
    for line in lines:
        nearest = {n: _nearest(line, n) for n in COLUMNS}
        found = [results.get((point, setting)) if 0.6 < point.n / n < 1.7 else None for n, point in nearest.items()]
        rows.append([line.title, *map(_cell, found)])
    return table(("ratio, n =", *COLUMNS.values()), rows)


def by_group(results: Map) -> str:
    """Ratios of each axis: the smallest, the median, the largest."""
    setting, groups = first_setting(results), dict[str, list[float]]()
    for point in points(is_full=True):
        if result := results.get((point, setting)):
            groups.setdefault(group(point), []).append(result.ratio)
    rows = [
        [name, str(len(ratios)), *(two_digits(f(ratios)) for f in (min, statistics.median, max))]
        for name, ratios in groups.items()
    ]
    return table(("what", "points", "smallest ratio", "median", "largest"), rows)


def by_setting(results: Map, before: Map) -> str:
    """The ratios of all points, before and now: how many are below 1, and how many reach what is wanted."""
    rows = []
    for setting in sorted({setting for _, setting in results}, key=lambda setting: (setting.busy, setting.threads)):
        for name, some in (("before", before), ("now", results)):
            found = [result for (_, its), result in some.items() if its == setting]
            if found:
                ratios = [result.ratio for result in found]
                counts = [sum(ratio < 1.0 for ratio in ratios), sum(result.is_met for result in found)]
                cells = [str(len(found)), *(two_digits(f(ratios)) for f in (min, statistics.median)), *map(str, counts)]
                rows.append([f"{setting}, {name}", *cells])
    return table(("setting", "points", "smallest ratio", "median", "below 1", "as wanted"), rows)


def smallest_ratios(results: Map, before: Map) -> str:
    """The points of the first setting at which polyfit is slowest beside the peer."""
    setting = first_setting(results)
    found = [result for (_, its), result in results.items() if its == setting]
    return _rows_of(sorted(found, key=lambda result: result.ratio)[:WORST], before)


def worst_points(results: Map, before: Map) -> str:
    """The points that are farthest below what is wanted."""
    return _rows_of(worst(results.values(), WORST), before)


def _rows_of(found: Iterable[Result], before: Map) -> str:
    rows = []
    for result in found:
        earlier = before.get((result.point, result.setting))
        row = [in_words(result.point), str(result.setting), duration(result.facts["seconds"])]
        rows.append([*row, f"{two_digits(result.ratio)}", f"{result.required:g}", _cell(earlier)])
    return table(("what", "setting", "polyfit", "ratio", "wanted", "ratio before"), rows)


def memory(results: Map) -> str:
    """Where ours holds more memory than the peer, in a sentence."""
    counted = [result for result in results.values() if "peak" in result.facts]
    more = sorted((r for r in counted if r.holds_more), key=lambda r: r.facts["peer_peak"] - r.facts["peak"])
    text = f"Memory beyond operands and results was counted at {len(counted)} points and settings. Polyfit held more"
    if not more:
        return f"{text} than eager PyTorch at none of them."
    most = more[0].facts
    return (
        f"{text} than eager PyTorch at {len(more)} of them. The largest difference:"
        f" {most['peak'] / 2**20:.1f} MiB beside {most['peer_peak'] / 2**20:.1f} MiB ({in_words(more[0].point)})."
    )


def short_table(results: Map) -> str:
    """README's table."""
    text = (
        f"{RATIO} Above 1, polyfit is faster. Degree 5, float32; {first_setting(results)}; {machine(results)}, by"
        f" `python -m bench.map`. Other degrees, losses, bases and many series: {DETAILS}."
    )
    return "\n\n".join([over_n(results, IN_README), wrapped(text)])


def long_table(results: Map, before: Map) -> str:
    """The tables of docs/benchmarks.md, and the picture."""
    setting = first_setting(results)
    wrong = sum(not result.facts["is_right"] for result in results.values())
    parts = [
        f"{RATIO} Above 1, polyfit is faster. {machine(results)}."
        + (f" **{wrong} points gave wrong results.**" if wrong else ""),
        f"![{ALTERNATIVE}](../{PICTURE.as_posix()})",
        f"Degree 5, float32, powers of x; {setting}:",
        over_n(results, LINES),
        f"The same points and others, {setting}, by what they vary:",
        by_group(results),
        f"All settings. As wanted: the ratio reaches our goal for the point, with {NOISE * 100:.0f} % for noise."
        + (f" Before: {machine(before)}, when the work on small calls began." if before else ""),
        by_setting(results, before),
        memory(results),
        f"The {WORST} smallest ratios, {setting}:",
        smallest_ratios(results, before),
        f"The {WORST} points of all settings that are farthest below our goals, sorted by ratio / wanted:",
        worst_points(results, before),
    ]
    return "\n\n".join(part if part.startswith(("|", "!")) else wrapped(part) for part in parts)


# The picture.


def digest(results: Map, before: Map) -> str:
    """What the picture shows, in a few letters: they are kept in the picture."""
    shown = [[str(key), result.ratio, result.required] for some in (before, results) for key, result in some.items()]
    return "polyfit-" + hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]


def draw(results: Map, before: Map) -> Figure:
    """A panel for each line: the ratio over n before and after, and the one that is wanted."""
    setting = first_setting(results)
    figure = Figure(figsize=(13, 9.5), layout="constrained")
    panels = figure.subplots(3, 4, sharex=True, sharey=True).flatten()
    for axes, line in zip(panels, LINES, strict=False):
        _panel(axes, line, results, before, setting)
    _scale(panels[0], [axes.dataLim for axes in panels[: len(LINES)]])
    for axes in panels[len(LINES) :]:
        axes.set_axis_off()
    for axes in panels[len(LINES) - 4 : len(LINES)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("n")
    handles, names = panels[0].get_legend_handles_labels()
    panels[-1].legend(handles, names, loc="upper left", fontsize=11, frameon=False)
    words = [
        f"Degree 5, float32; {setting}.",
        "Points that reach the wanted ratio,",
        "those of other tables among them:",
    ]
    for name, some in (("before", before), ("now", results)):
        found = [result for (_, its), result in some.items() if its == setting]
        words += [f"{name} {sum(result.is_met for result in found)} of {len(found)}"] if found else []
    panels[-1].text(0.03, 0.5, "\n".join(words), transform=panels[-1].transAxes, va="top", fontsize=11)
    figure.supylabel("time of eager PyTorch / time of polyfit", fontsize=11)
    return figure


def _panel(axes: Axes, line: Line, results: Map, before: Map, setting: Setting) -> None:
    """The ratios of a line over n."""
    kinds = ((before, "before", "0.6", "o", 3.5), (results, "now", "#1f77b4", "o", 4.5))
    for some, name, colour, marker, size in kinds:
        found = [some[point, setting] for point in line.points() if (point, setting) in some]
        if found:
            sizes, ratios = [result.point.n for result in found], [result.ratio for result in found]
            axes.plot(sizes, ratios, color=colour, marker=marker, markersize=size, linewidth=1.6, label=name)
    wanted = [result for point in line.points() if (result := results.get((point, setting)))]
    sizes, ratios = [result.point.n for result in wanted], [result.required for result in wanted]
    axes.step(sizes, ratios, where="mid", color="black", linestyle="--", linewidth=1.1, label="wanted")
    axes.axhline(1.0, color="0.8", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(color="0.93", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(line.title, fontsize=10.5)


def _scale(axes: Axes, limits: list[Bbox]) -> None:
    """Limits and ticks of the panels, which share them."""
    low, high = min(box.y0 for box in limits) / 1.2, max(box.y1 for box in limits) * 1.2
    axes.set_ylim(low, high)
    ratios = [ratio for ratio in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if low <= ratio <= high]
    axes.yaxis.set_major_locator(FixedLocator(ratios))
    axes.yaxis.set_major_formatter(FixedFormatter([f"{ratio:g}" for ratio in ratios]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(40, 1.6e7)
    axes.xaxis.set_major_locator(FixedLocator((100, 10_000, 1_000_000)))
    axes.xaxis.set_major_formatter(FixedFormatter(("100", "1e4", "1e6")))
    axes.xaxis.set_minor_locator(NullLocator())


def save(results: Map, before: Map, path: Path) -> None:
    """Write the picture; the same results give the same bytes each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"Description": digest(results, before), "Software": None}
    draw(results, before).savefig(path, dpi=100, metadata=about)


# Files.


def load(folder: Path) -> tuple[Map, Map]:
    """The map, and the one before."""
    return read(folder / AFTER), read(folder / BEFORE)


def is_current(folder: Path, root: Path) -> bool:
    """Whether the picture shows the results; where there are none, any picture is right."""
    results, before = load(folder)
    path = root / PICTURE
    return not results or (path.exists() and digest(results, before).encode() in path.read_bytes())


def redraw(folder: Path, root: Path) -> bool:
    """Draw the picture of the results; False where there are none."""
    results, before = load(folder)
    if results:
        save(results, before, root / PICTURE)
    return bool(results)
