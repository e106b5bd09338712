"""The tables and the picture of GPU results, from made-up results."""

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.text import Text

from bench import report

ROOT = Path(__file__).resolve().parents[2]
RUN = {
    "run": "2026-11-26T19:12:05+00:00", "device": "Made-up GPU", "driver": "580.1", "python": "3.12.3",
    "torch": "2.11.0", "triton": "3.6.0", "commit": "abc1234",
}  # fmt: skip
PEERS = {"eager": 0.0223, "torch.compile": 0.00168, "cpu": 0.31}


def line(phase: str, name: str, **figures: Any) -> dict[str, Any]:
    return RUN | {"phase": phase, "benchmark": name} | figures


def time(name: str, share: float, **more: Any) -> dict[str, Any]:
    seconds = 7.2e-4 / share
    return line("headline", name, seconds=seconds, bytes=2**31, share_of_copy=share, peers=PEERS) | more


GOOD = [
    line("smoke", "smoke float32", wrong=0),
    line("headline", "copy", bytes_per_second=2.98e12, seconds=7.2e-4),
    time("objective d=5", 0.96),
    time("moments d=5", 0.84),
    time("objective float16 d=5", 0.65),
    line("headline", "80000 epochs, resident", seconds=0.038, peers={"eager": 96.0}),
    line("proof", "proof", passed=707, failed=0, skipped=3, not_run=0),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with the two pages."""
    (tmp_path / "docs").mkdir()
    for page in ("README.md", "docs/benchmarks.md"):
        (tmp_path / page).write_text(f"before\n\n{report.BEGIN}\n{report.END}\n\nafter\n")
    return tmp_path


def write(root: Path, lines: list[dict[str, Any]], end: str = "") -> None:
    folder = root / "bench" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines) + end)


def pages(root: Path) -> tuple[str, str]:
    return (root / "README.md").read_text(), (root / "docs" / "benchmarks.md").read_text()


def test_the_pages_of_this_checkout_show_its_results():
    assert report.main(["--check"]) == 0, "run python -m bench.report"


def test_tables(root):
    write(root, GOOD)
    assert report.main([], root) == 0
    readme, docs = pages(root)
    assert readme.startswith("before\n\n<!-- gpu")
    assert readme.endswith("-->\n\nafter\n")
    assert "| loss and gradient, degree 5 | 0.75 ms | 0.96 | 30 | 2.2 | 410 |" in readme
    assert "| moments, degree 5 | 0.86 ms | 0.84 | 26 | 2.0 | 360 |" in readme
    assert "| 80000 epochs of SGD, data in registers | 38 ms |  | 2500 |  |  |" in readme
    assert "| values, degree 5 | not yet measured |  |  |  |  |" in readme
    assert "| moments, degree 5 | 0.86 ms | 2505 | 0.84 (goal: 0.85) | 26 | 2.0 | 360 |" in docs
    assert "| loss and gradient, degree 5, float16 | 1.1 ms | 1939 | 0.65 | 20 | 1.5 | 280 |" in docs
    assert "moves 2.98 TB/s" in docs
    assert "values, degree 10;" in " ".join(docs.split()).split("Not yet measured: ")[1]
    short, long = (" ".join(page.split()) for page in (readme, docs))
    assert "Made-up GPU, torch 2.11.0, Triton 3.6.0, 2026-11-26, commit abc1234, by `make gpu`." in short
    assert "Made-up GPU, driver 580.1, torch 2.11.0, Triton 3.6.0, Python 3.12.3, 2026-11-26, commit abc1234" in long
    assert "Every kernel agreed with float64. 707 tests passed on the GPU, 3 skipped." in long
    for page in (readme, docs):
        assert "bench/results/gpu.png" in page
        assert "\n| copy" not in page


def test_the_cpu_of_the_peers_is_named(root):
    write(root, [entry | {"cpu": "A CPU, 16 threads"} for entry in GOOD])
    report.main([], root)
    assert "commit abc1234; CPU: A CPU, 16 threads." in " ".join(pages(root)[1].split())


def test_a_second_run_changes_nothing(root):
    write(root, GOOD)
    picture = root / report.PICTURE
    assert report.main(["--check"], root) == 1
    assert not picture.exists()
    assert report.main([], root) == 0
    before = (*pages(root), picture.read_bytes())
    assert report.main(["--check"], root) == 0
    assert report.main([], root) == 0
    assert (*pages(root), picture.read_bytes()) == before
    picture.unlink()
    assert report.main(["--check"], root) == 1
    assert report.main([], root) == 0
    assert picture.read_bytes() == before[-1]


def test_check_sees_results_that_the_picture_does_not_show(root, capsys):
    write(root, GOOD)
    report.main([], root)
    capsys.readouterr()
    write(root, [*GOOD, time("evaluate_backward d=5", 0.9)])
    assert report.main(["--check"], root) == 1
    assert "gpu.png: out of date; run python -m bench.report" in capsys.readouterr().out


def test_without_a_run_there_is_no_table(root):
    older = {name: value for name, value in time("objective d=5", 0.5).items() if name != "run"}
    rehearsal = time("objective d=5", 0.5, device="x86_64 CPU, 2 threads")
    write(root, [older, rehearsal])
    assert report.main([], root) == 0
    for page in pages(root):
        assert f"{report.BEGIN}\n\n{report.NO_RUN}\n\n{report.END}" in page
    assert not (root / report.PICTURE).exists()
    (root / "bench" / "results" / "gpu.jsonl").unlink()
    assert report.main(["--check"], root) == 0


def test_the_newest_run_of_each_device_counts(root):
    later = {"run": "2026-11-27T01:00:00+02:00"}  # after 2026-11-26T19:12:05+00:00
    old = time("objective d=5", 0.9)
    write(root, [time("objective d=5", 0.99, **later), old, time("evaluate d=1", 0.3, device="Other GPU")])
    first, second = report.read(root / "bench" / "results" / "gpu.jsonl")
    assert [run.device for run in (first, second)] == ["Made-up GPU", "Other GPU"]
    assert first.shares() == {"objective d=5": 0.99}
    assert second.shares() == {"evaluate d=1": 0.3}
    report.main([], root)
    readme, docs = pages(root)
    assert "Other GPU" not in readme
    assert "Other GPU" in docs


def test_what_the_newest_run_did_not_reach_is_of_an_earlier_one(root):
    later = {"run": "2026-11-27T01:00:00+02:00", "commit": "1a2b3c4"}
    by_default = {"phase": "policy", "kernel": "objective d=20", "policy": {}}
    by_another = by_default | {"kernel": "moments d=5", "policy": {"rows": "128"}}
    proof = line("proof", "proof", passed=600, failed=0, skipped=1, not_run=0)
    write(
        root,
        [
            *(time("objective d=5", 0.99, **later), time("objective d=5", 0.9), time("evaluate d=5", 0.8), proof),
            time("objective d=20: default", 0.7) | later | by_default,
            time("moments d=5: rows=128", 0.5) | later | by_another,
        ],
    )
    (run,) = report.read(root / "bench" / "results" / "gpu.jsonl")
    assert run.shares() == {"objective d=5": 0.99, "objective d=20": 0.7, "evaluate d=5": 0.8}
    earlier = proof["commit"]
    assert run.named("objective d=5") == "loss and gradient, degree 5"
    assert run.named("evaluate d=5") == f"values, degree 5 ({earlier})"
    report.main([], root)
    readme, docs = (" ".join(page.split()) for page in pages(root))
    assert "by a script of trials" not in readme
    assert "A commit in brackets: of an earlier run. No check of this run failed, but not all had time" in readme
    assert "Tests on the GPU: not yet measured" in docs
    assert f"At {earlier}: 600 tests passed on the GPU" in docs


def test_results_of_trials_are_called_so(root):
    write(root, [*GOOD, time("evaluate d=5", 0.8) | {"note": "by a script of trials"}])
    report.main([], root)
    for page in pages(root):
        assert "abc1234: by a script of trials, not by `make gpu`." in " ".join(page.split())


def test_a_folder_without_results_changes_no_page(root, capsys):
    write(root, GOOD)
    report.main([], root)
    before = pages(root)
    with pytest.raises(SystemExit, match="2"):
        report.main([str(root / "nothing")], root)
    assert "has no gpu.jsonl" in capsys.readouterr().err
    assert pages(root) == before


def test_what_is_wrong_is_shown(root):
    wrong = line("smoke", "smoke float16", wrong=2, which="[(1023, True, 'objective to x', 0.5)]")
    proof = line(
        "proof", "proof", passed=600, failed=2, skipped=1, not_run=107, which=["test_compile[default]", "test_a"]
    )
    found = line("sanitizer", "memcheck objective", errors=4)
    write(root, [*GOOD, wrong, proof, found])
    report.main([], root)
    for page in pages(root):
        words = " ".join(page.split())
        assert "**Kernels against float64 gave wrong results**: smoke float16: 2 ([(1023, True," in words
        assert "**2 failed** (test_compile[default], test_a), **107 did not run**" in words
        assert "**compute-sanitizer, memcheck objective**: 4 errors" in words


def test_what_did_not_run_is_said(root):
    write(root, GOOD[2:3], end='{"run": "2026')  # killed while it wrote
    report.main([], root)
    readme, docs = (" ".join(page.split()) for page in pages(root))
    assert "No check of this run failed, but not all had time" in readme
    assert "Kernels against float64: not yet measured. Tests on the GPU: not yet measured." in docs
    assert "The copy: not yet measured." in docs


def test_a_run_without_times_takes_none_from_the_tables(root):
    later = {"run": "2026-11-27T09:00:00+00:00", "commit": "def5678"}
    write(root, [*GOOD, line("smoke", "smoke float32", wrong=0, **later), line("smoke", "b", wrong=3, **later)])
    report.main([], root)
    for page in pages(root):
        words = " ".join(page.split())
        assert "| loss and gradient, degree 5 | 0.75 ms |" in words
        assert "commit abc1234" in words
        assert "Later runs without times: 2026-11-27 09:00 (**1 kernels wrong or failed**)." in words


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([line("smoke", "moments", failed="RuntimeError: no")], "**Kernels against float64 failed**: moments (Runt"),
        # From two parts of the phase.
        ([line("smoke", "not measured", cases=["a", "b"]), line("smoke", "not measured", cases=["c"])],
         "**3 cases of kernels against float64 were not measured.**"),
        # A part was killed.
        ([line("smoke", "a", wrong=0, of=4), line("smoke", "b", wrong=0, of=4)],
         "**2 of 4 cases of kernels against float64 were not measured.**"),
        ([line("proof", "proof", passed=0, failed=0, skipped=0, not_run=0, stopped="58 s were over")],
         "**the tests were stopped** (58 s were over)"),
        ([line("sanitizer", "compute-sanitizer memcheck", skipped="not installed")], "compute-sanitizer did not run."),
    ],
)  # fmt: skip
def test_what_was_not_checked_is_not_called_good(root, lines, words):
    write(root, [*GOOD, *lines])
    report.main([], root)
    readme, docs = (" ".join(page.split()) for page in pages(root))
    assert words in docs
    assert words in readme or "failed" not in words
    assert ("Not all checks of this run ended well" if "failed" in words else report.NO_TIME) in readme
    assert ("agreed with float64" in docs) == (lines[0]["phase"] != "smoke")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, None, "0.1"])
@pytest.mark.parametrize("name", ["seconds", "share_of_copy", "peers"])
def test_a_figure_that_is_no_number_is_left_out(root, name, value):
    write(root, [*GOOD, time("evaluate d=5", 0.9) | {name: {"eager": value} if name == "peers" else value}])
    report.main([], root)
    assert ("| values, degree 5 | not yet measured |" in pages(root)[0]) == (name == "seconds")


@pytest.mark.parametrize(
    "end",
    ['{"run": "2026', "\ufffd\x00\n", json.dumps({**GOOD[2], "run": "now"}), json.dumps({**GOOD[2], "device": None})],
)
def test_lines_that_are_no_results_are_left_out(root, end):
    write(root, GOOD, end)
    with (root / "bench" / "results" / "gpu.jsonl").open("ab") as file:
        file.write(b"\n\xff\xfe\n")
    (run,) = report.read(root / "bench" / "results" / "gpu.jsonl")
    assert len(run.lines) == len(GOOD)


def test_a_share_below_its_goal_is_not_rounded_to_it():
    assert report.share_in_words("objective d=5", time("", 0.949)) == "0.949"
    assert report.share_in_words("objective d=5", time("", 0.951)) == "0.95"
    assert report.share_in_words("objective d=20", time("", 0.949)) == "0.95"
    assert [report.goal(f"objective {name}") for name in ("d=10", "d=11", "float16 d=5")] == [0.95, None, None]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(12.34, "12 s"), (0.309, "0.31 s"), (0.0996, "0.10 s"), (0.038, "38 ms"), (7.48e-4, "0.75 ms"), (9.96e-3, "10 ms"),
     (4.2e-5, "42 us")],
)  # fmt: skip
def test_durations(seconds, words):
    assert report.duration(seconds) == words


def test_a_page_without_its_comments_is_refused(root):
    (root / "README.md").write_text("no comments")
    with pytest.raises(ValueError, match=r"README.md lacks the lines .*: put them where the table is to stand"):
        report.main([], root)


def test_words_of_the_picture_do_not_overlap(root):
    everything = [time(name, 0.9) for name in [*report.PASSES, *list(report.SERIES)[:3], "objective float16 d=5"]]
    failed = [f"test_every_engine_trains_as_the_cpu_does[resident-huber-adam-{n}]" for n in range(9)]
    proof = line("proof", "proof", passed=1, failed=9, skipped=0, not_run=0, which=failed)
    write(root, [*GOOD, *everything, proof])
    (run,) = report.read(root / "bench" / "results" / "gpu.jsonl")
    figure = report.draw(run)
    figure.draw_without_rendering()
    whole = figure.bbox
    shown = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_visible() and t.get_text().strip()]
    assert len(shown) > 40
    for index, text in enumerate(shown):
        box = text.get_window_extent()
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1, text
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1, text
        assert [other for other in shown[index + 1 :] if box.overlaps(other.get_window_extent())] == [], text
