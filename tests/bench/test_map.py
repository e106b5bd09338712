"""The map of a CPU: its points, what is timed at them, and its tables and picture from made-up lines."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text

from bench import __main__ as bench_command
from bench import memory, peers, report
from bench.map import __main__ as command
from bench.map import forms, pages, runner
from bench.map.points import FORMS, LAYERS, LINES, WIDTH, Point, points, required
from bench.map.results import AFTER, BEFORE, Map, Result, Setting, read, worst
from polyfit.bases import BASES
from polyfit.losses import LOSSES

SETTING = Setting(2)
FACTS = {"date": "2026-11-27", "cpu": "A CPU", "cores": 2, "python": "3.11.7", "torch": "2.13.0", "numpy": "2.4.6"}


def small(point: Point) -> Point:
    """The same kind of point with a few samples, in float64 and without a compiler."""
    series = min(point.series, WIDTH if point.form in LAYERS else 3)
    n = 2 * WIDTH if point.form in LAYERS else 33
    return dataclasses.replace(point, n=n, series=series, dtype="float64", impl="auto")


KINDS = list(dict.fromkeys(small(point) for point in points(is_full=True)))


def line(point: Point, ratio: float, setting: Setting = SETTING, **more: Any) -> dict[str, Any]:
    """A made-up result: ours takes 1 ms."""
    facts = FACTS | {"commit": "abc1234", "is_right": True, "seconds": 1e-3, "peer_seconds": ratio * 1e-3} | more
    return facts | {"point": point.to_json(), "threads": setting.threads, "busy": setting.busy}


def write(path: Path, lines: list[dict[str, Any]], end: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(facts) + "\n" for facts in lines) + end)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with the two pages and their comments."""
    (tmp_path / "docs").mkdir()
    comments = "\n".join(("before", report.BEGIN, report.END, "between", pages.BEGIN, pages.END, "after"))
    for page in ("README.md", "docs/benchmarks.md"):
        (tmp_path / page).write_text(f"{comments}\n")
    return tmp_path


# --- points ---


def test_every_point_is_there_once_and_has_a_name_of_its_own():
    full, quick = points(is_full=True), points(is_full=False)
    assert len(set(map(str, full))) == len(set(full)) == len(full)
    assert len(set(quick)) == len(quick) < len(full)
    assert set(quick) < set(full)
    assert all(point.impl == "auto" for point in quick)


def test_a_point_comes_back_from_its_line():
    assert all(Point(**json.loads(json.dumps(point.to_json()))) == point for point in points(is_full=True))
    assert Point("step", 64).to_json() == {"form": "step", "n": 64}


def test_the_name_of_a_point_says_what_differs():
    point = Point("step", 64, 3, loss="huber", is_weighted=True, wants="xc", series=10, own_x=True)
    assert str(point) == "step n=64 d=3 huber weighted to=xc series=10 own-x"


@pytest.mark.parametrize("is_full", [False, True])
def test_the_map_has_every_axis(is_full):
    found = points(is_full)
    assert {point.form for point in found} == set(FORMS) == set(forms.MAKERS)
    assert {point.degree for point in found} >= {0, 1, 3, 5, 10, 20}
    assert {point.loss for point in found} == {*LOSSES, "own"}
    assert {point.basis for point in found} == set(BASES)
    assert {point.dtype for point in found} == {"float32", "float64"}
    assert {point.series for point in found} >= {1, 10, 1000, 100_000}
    assert {point.wants for point in found} >= {"c", "x", "xc", "xyc", "xywc"}
    assert {point.n for point in found if point.form == "step"} >= {64, 8191, 8192, 8193, 100_000, 10_000_000}
    assert {point.is_weighted for point in found} == {point.own_x for point in found} == {False, True}
    assert {point.impl for point in found} == ({"auto", "compile"} if is_full else {"auto"})


@pytest.mark.parametrize(
    ("point", "wanted"),
    [
        (Point("step", 64), 1.3),
        (Point("step", 20_000, loss="cauchy"), 1.3),
        (Point("step", 20_000, loss="own"), 1.0),
        (Point("step", 2000, wants="xc"), 1.0),
        (Point("step", 32_768), 1.0),
        (Point("step", 100_000), 2.0),
        (Point("step", 100_000, loss="huber"), 1.5),
        (Point("step", 10_000_000), 12.0),
        (Point("step", 10_000_000, loss="huber"), 1.5),
        (Point("step", 64, series=10), 2.0),
        (Point("step", 10_000_000, impl="compile"), 1.0),
        (Point("values", 4096), 0.8),
        (Point("values", 8192), 1.0),
        (Point("values", 100_000), 1.5),
        (Point("values", 64, series=1000), 2.0),
        (Point("loss", 1_000_000), 1.0),
        (Point("activation", 8192, series=64), 1.0),
        (Point("vmap", 64, series=100), 1.0),
    ],
)
def test_what_ratio_is_wanted(point, wanted):
    assert required(point) == wanted
    assert required(point, busy=True) == 0.5


# --- what is timed ---


@pytest.mark.parametrize("point", KINDS, ids=str)
def test_ours_and_the_peer_give_the_same_numbers(point):
    case = forms.make(point)
    for _ in range(2):  # the second call finds the gradients of the first
        ours, peer = case.ours(), case.peer()
        assert len(ours) == len(peer)
        for a, b in zip(ours, peer, strict=True):
            # Both are float64 sums of 33 samples, or 128; the Hermite polynomials of degree 10 reach 3e4.
            scale = float(b.detach().abs().max())
            torch.testing.assert_close(a.flatten(), b.flatten(), rtol=1e-10, atol=1e-12 * max(scale, 1.0))
        assert runner.agree(ours, peer)


def test_a_point_has_the_gradients_that_it_wants():
    assert len(forms.make(Point("step", 8, is_weighted=True, wants="xywc")).ours()) == 5
    assert len(forms.make(Point("step", 8)).ours()) == 2
    assert len(forms.make(Point("loss", 8)).ours()) == 1


@pytest.mark.parametrize("basis", BASES)
def test_the_peer_of_a_basis_is_numpys_series(basis):
    x, coef = torch.linspace(-1, 1, 9, dtype=torch.float64), torch.arange(1.0, 8.0, dtype=torch.float64)
    expected = getattr(np.polynomial, BASES[basis].numpy_class)(coef.numpy())(x.numpy())
    torch.testing.assert_close(peers.polynomial(x, coef, basis), torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


def test_wrong_results_are_seen():
    assert runner.agree((torch.ones(3),), (torch.ones(3) * 1.001,))
    assert not runner.agree((torch.ones(3),), (torch.tensor([1.0, 1.0, 1.1]),))
    assert not runner.agree((torch.tensor([float("nan")]),), (torch.ones(1),))


def test_memory_of_numpy_is_counted():
    point = Point("step", 100_000)
    case = forms.make(point)
    assert 4 * 100_000 <= runner.bytes_beyond_results(case.peer) < 100 * 100_000
    n_bytes = memory.numpy_peak(lambda: bytearray(1_000_000))
    assert 1_000_000 <= n_bytes < 1_100_000


def test_a_run_goes_on_where_it_was_stopped(tmp_path, capsys):
    output, some = tmp_path / "map.jsonl", [Point("values", 64), Point("loss", 64)]
    threads = torch.get_num_threads()
    try:
        assert runner.run(some, Setting(1), 0.001, output, limit=-1.0) == 2
        assert read(output) == {}
        assert runner.run(some[:1], Setting(1), 0.001, output, limit=60.0) == 0
        capsys.readouterr()
        assert runner.run(some, Setting(1), 0.001, output, limit=60.0) == 0
    finally:
        torch.set_num_threads(threads)
    assert re.findall(r"^\S+ n=64", capsys.readouterr().out, re.MULTILINE) == ["loss n=64"]
    assert [point for point, _ in read(output)] == some
    facts = read(output)[some[0], Setting(1)].facts
    assert facts.keys() >= {*FACTS, "commit", "ratio", "required"}
    assert facts["ratio"] == facts["peer_seconds"] / facts["seconds"]


def test_neighbours_end_with_the_run():
    with runner.neighbours(1) as found:
        assert [process.poll() for process in found] == [None]
    assert all(process.poll() is not None for process in found)


def test_each_setting_has_a_process(monkeypatch):
    commands = []

    def run(words: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        commands.append(words[1:])
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(subprocess, "run", run)
    given = ["--threads", "1,2", "--busy", "both", "--forms", "loss"]
    assert command.main(given) == 0
    settings = [words[-4:] for words in commands]
    assert settings == [["--threads", str(n), "--busy", busy] for busy in ("no", "yes") for n in (1, 2)]
    assert all(words[:8] == ["-m", "bench.map", *given] for words in commands)


def test_points_are_chosen_by_form_and_name(capsys):
    assert command.main(["--list", "--forms", "values,hvp", "--points", "n=64$"]) == 0
    assert capsys.readouterr().out.splitlines() == ["values n=64", "hvp n=64", "2 points"]


def test_results_that_a_run_appends_make_no_other_commit(tmp_path, monkeypatch):
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    for name in ("bench/results/map.jsonl", "bench/code.py"):
        write(tmp_path / name, [])
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    monkeypatch.delenv("POLYFIT_COMMIT", raising=False)
    monkeypatch.setattr(bench_command, "HERE", tmp_path / "bench")
    commit = bench_command.describe_machine("cpu")["commit"]
    assert re.fullmatch(r"[0-9a-f]{7,}", commit)
    (tmp_path / "bench/results/map.jsonl").write_text("{}")
    assert bench_command.describe_machine("cpu")["commit"] == commit
    (tmp_path / "bench/code.py").write_text("{}")
    assert bench_command.describe_machine("cpu")["commit"] == f"{commit}-dirty"


# --- results, tables, picture ---


def test_the_last_line_of_a_point_counts_and_half_a_line_does_not(tmp_path):
    path, point = tmp_path / AFTER, Point("step", 64)
    assert read(path) == {}
    unknown = line(point, 1.0) | {"point": {"form": "step", "n": 64, "colour": "red"}}
    untimed = line(point, 1.0, Setting(7)) | {"seconds": 0.0}
    write(path, [line(point, 0.5), line(point, 2.0), unknown, untimed, line(point, 3.0, Setting(1))], '{"point": ')
    found = read(path)
    assert {setting.threads: result.ratio for (_, setting), result in found.items()} == {2: 2.0, 1: 3.0}


def test_a_result_below_what_is_wanted():
    def result(ratio: float, **more: Any) -> Result:
        return Result(Point("step", 64), SETTING, line(Point("step", 64), ratio, **more))

    assert result(1.3 * 0.91).is_met  # noise is allowed for
    assert not result(1.3 * 0.89).is_met
    assert not result(5.0, is_right=False).is_met
    assert result(1.0, peak=2, peer_peak=1).holds_more
    assert not result(1.0, peak=1, peer_peak=1).holds_more
    assert [r.ratio for r in worst([result(3.0), result(0.5), result(2.0)], 2)] == [0.5, 2.0]


MADE_UP = [
    line(Point("step", 64), 1.34),
    line(Point("step", 2000), 1.5),
    line(Point("step", 100_000), 0.98, peak=3 * 2**20, peer_peak=2**20),
    line(Point("step", 10_000_000), 12.4, peak=2**20, peer_peak=2**27),
    line(Point("values", 1_000_000), 4.86),
    line(Point("activation", 2048), 0.61),
    line(Point("step", 64, 3, loss="huber", series=1000, own_x=True), 0.04),
    line(Point("step", 64), 0.7, Setting(2, busy=True)),
]
EARLIER = [line(Point("step", 64), 1.1), line(Point("step", 64, 3, loss="huber", series=1000, own_x=True), 0.24)]


def test_tables(root):
    folder = root / "bench" / "results"
    write(folder / AFTER, MADE_UP)
    write(folder / BEFORE, EARLIER)
    assert report.main([], root) == 0
    readme, docs = (root / "README.md").read_text(), (root / "docs" / "benchmarks.md").read_text()
    for page in (readme, docs):
        assert "| ratio, n = | 64 | 2000 | 2e4 | 1e5 | 1e6 | 1e7 |" in page
        assert "| squared error and its gradient | 1.3 | 1.5 |  | 0.98 |  | 12 |" in page
        assert "| values without a gradient |  |  |  |  | 4.9 |  |" in page
        assert "| nn.Polynomial and its gradients |  | 0.61 |  |  |  |  |" in page
        assert "A CPU, 2 cores, torch 2.13.0, numpy 2.4.6, Python 3.11.7, 2026-11-27, commit abc1234" in " ".join(
            page.split()
        )
    assert "| 1000 series, each with its own x | 1 | 0.040 | 0.040 | 0.040 |" in docs
    assert "| 2 threads, quiet, before | 2 | 0.24 | 0.67 | 1 | 0 |" in docs
    assert "| 2 threads, quiet, now | 7 | 0.040 | 1.3 | 3 | 4 |" in docs
    assert "| 2 threads, busy, before |" not in docs
    assert "| 2 threads, busy, now | 1 | 0.70 | 0.70 | 1 | 1 |" in docs
    rows = [row for row in docs.splitlines() if ", quiet | 1.0 ms" in row or ", busy | 1.0 ms" in row]
    what = "Huber's loss and its gradients, n = 64, degree 3, 1000 series, each with its own x"
    n_quiet = len(MADE_UP) - 1  # the rows of the smallest ratios; then those farthest below what is wanted
    assert len(rows) == n_quiet + len(MADE_UP)
    assert rows[0] == rows[n_quiet] == f"| {what} | 2 threads, quiet | 1.0 ms | 0.040 | 2 | 0.24 |"
    assert rows[1].startswith("| nn.Polynomial and its gradients, n = 2048 | 2 threads, quiet | 1.0 ms | 0.61 |")
    assert rows[n_quiet - 1].startswith("| squared error and its gradients, n = 10000000 |")
    words = " ".join(docs.split())
    assert "counted at 2 points and settings. Polyfit held more than eager PyTorch at 1 of them." in words
    assert "3.0 MiB beside 1.0 MiB (squared error and its gradients, n = 100000)" in words
    assert max(len(row) for page in (readme, docs) for row in page.splitlines() if row[:1] not in "|!<") <= 120


def test_a_second_run_changes_nothing_and_new_results_are_seen(root, capsys):
    folder = root / "bench" / "results"
    write(folder / AFTER, MADE_UP)
    assert report.main(["--check"], root) == 1
    assert not (root / pages.PICTURE).exists()
    report.main([], root)
    before = (root / pages.PICTURE).read_bytes()
    assert report.main(["--check"], root) == 0
    (root / pages.PICTURE).unlink()
    report.main([], root)
    assert (root / pages.PICTURE).read_bytes() == before
    capsys.readouterr()
    write(folder / AFTER, [*MADE_UP, line(Point("step", 20_000), 1.2)])
    assert report.main(["--check"], root) == 1
    said = capsys.readouterr().out
    assert all(f"{name}: out of date" in said for name in ("README.md", "benchmarks.md", "map.png"))


def test_without_results_the_pages_stay_as_they_are(root):
    kept = {}
    for name in ("README.md", "docs/benchmarks.md"):
        text = (root / name).read_text().replace(pages.BEGIN, f"{pages.BEGIN}\nof another day\n")
        (root / name).write_text(text)
        kept[name] = text.partition("between")[2]
    write(root / "bench" / "results" / BEFORE, EARLIER)
    assert report.main([], root) == 0
    assert all((root / name).read_text().endswith(text) for name, text in kept.items())
    assert not (root / pages.PICTURE).exists()


def test_wrong_results_are_told(root):
    write(root / "bench" / "results" / AFTER, [*MADE_UP, line(Point("loss", 64), 9.0, is_right=False)])
    report.main([], root)
    assert "**1 points gave wrong results.**" in " ".join((root / "docs" / "benchmarks.md").read_text().split())


def whole_map(ratio: float) -> Map:
    found = {}
    for one in LINES:
        for k, point in enumerate(one.points()):
            found[point, SETTING] = Result(point, SETTING, line(point, ratio * (1 + k) ** 1.2))
    return found


def test_words_of_the_picture_do_not_overlap():
    figure = pages.draw(whole_map(0.6), whole_map(0.2))
    figure.draw_without_rendering()
    shown = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_visible() and t.get_text().strip()]
    inside = [t for t in shown if t.axes is None or t.axes.get_visible()]
    assert {one.title for one in LINES} <= {t.get_text() for t in inside}
    for index, text in enumerate(inside):
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, text
        assert [other for other in inside[index + 1 :] if box.overlaps(other.get_window_extent())] == [], text


def test_the_picture_shows_what_was_measured():
    results, before = whole_map(0.6), whole_map(0.2)
    panels = pages.draw(results, before).axes
    for panel, one in zip(panels, LINES, strict=False):
        drawn = {str(shown.get_label()): np.asarray(shown.get_ydata()).tolist() for shown in panel.get_lines()}
        assert panel.get_title() == one.title
        assert drawn["now"] == pytest.approx([results[point, SETTING].ratio for point in one.points()])
        assert drawn["before"] == pytest.approx([before[point, SETTING].ratio for point in one.points()])
        assert drawn["wanted"] == [required(point) for point in one.points()]


def test_drawing_needs_results(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setattr(command, "ROOT", tmp_path)
    with pytest.raises(SystemExit):
        command.main(["--draw"])
    assert "has no results; measure with --record first" in capsys.readouterr().err
    write(tmp_path / AFTER, MADE_UP)
    assert command.main(["--draw"]) == 0
    assert (tmp_path / pages.PICTURE).exists()


def test_the_module_starts():
    words = [sys.executable, "-m", "bench.map", "--list", "--forms", "hvp", "--points", "n=64$"]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    assert ended.stdout == "hvp n=64\n1 points\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--forms", "valuez"], "valuez is none of step, loss,"), (["--points", "^nothing$"], "no point has these forms")],
)
def test_a_choice_of_no_points_is_refused(words, said, capsys):
    with pytest.raises(SystemExit):
        command.main(words)
    assert said in capsys.readouterr().err
