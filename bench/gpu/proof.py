"""All tests of a GPU within some seconds, in several processes where pytest-xdist is installed.

What is known is written as soon as it is known, by the process that hands out the tests:
- `cuda_cases.jsonl`: a line for each test that ended;
- `failures.txt`: of each test that failed, enough to mend it on a machine without a GPU;
- at the end, or when the time is over: a result for the report, and `cuda_durations.json`, from which the next run
  takes its order.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import order

ROOT = Path(__file__).resolve().parents[2]
# All tests that are marked `cuda`; tests/conftest.py knows the option.
CUDA_TESTS = ("--require-gpu", "-m", "cuda", str(ROOT / "tests" / "test_cuda.py"))
DURATIONS = "cuda_durations.json"
REFUSALS = (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR)
# Characters of a failure in failures.txt, 3000 in all.
MESSAGE, TRACEBACK, OUTPUT = 900, 1300, 600
# The run ends so much before its time is over: whoever started it may kill it then. Ending takes a second.
MARGIN = 2.0


def proof(
    seconds: float,
    folder: str,
    report: Callable[..., None],
    *,
    tests: Sequence[str] = CUDA_TESTS,
    pytest_arguments: Sequence[str] = (),
    workers: int | None = None,
) -> int:
    """Run the tests and report how many passed, failed, were skipped and were not run.

    Args:
        seconds: the run ends when they are over, finished or not.
        folder: where the files go, see above.
        report: is called once, with the name "proof" and the figures.
        tests: which tests, as arguments of pytest.
        pytest_arguments: more arguments of pytest.
        workers: processes; by default three fewer than there are cores, 13 at most. They share the GPU's memory.

    Returns:
        0 if all tests ran and none failed, else 1.
    """
    results = Path(folder)
    results.mkdir(parents=True, exist_ok=True)
    known = next((path for path in (results / DURATIONS, ROOT / "bench/results" / DURATIONS) if path.exists()), None)
    arguments = [
        "-q", "--no-summary", "--tb=short", "-W", "default", "-p", "no:cacheprovider", "-p", "bench.gpu.order",
        *tests, *pytest_arguments, *(["--gpu-durations", str(known)] if known else []),
    ]  # fmt: skip
    count = 1
    if importlib.util.find_spec("xdist") is not None:
        count = workers or max(1, min(len(os.sched_getaffinity(0)) - 3, 13))
        arguments += ["-n", str(count), "--dist", "loadgroup", "--max-worker-restart", "1000"]
        # The cores are taken already by as many processes.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    recorder = Recorder(results, report, order.Durations.read(known), count)
    with _stopped_after(max(seconds - MARGIN, seconds / 2), recorder):
        status = pytest.main(arguments, plugins=[recorder])
        recorder.finish(f"pytest refused to run: status {int(status)}" if status in REFUSALS else "")
    return recorder.finish("")


@contextlib.contextmanager
def _stopped_after(seconds: float, recorder: Recorder) -> Iterator[None]:
    """Report and end the run when the time is over, or when this process is asked to end.

    The report is made by a thread of its own: the main thread may be in a call of CUDA that does not return.
    """

    def stop(number: int, _: object) -> None:
        if number == signal.SIGTERM:
            recorder.finish("was asked to end")
        raise KeyboardInterrupt  # pytest ends the session

    def time_is_over() -> None:
        recorder.finish(f"{seconds:.0f} s were over")
        signal.pthread_kill(main, signal.SIGALRM)

    main = threading.get_ident()
    before = {number: signal.signal(number, stop) for number in (signal.SIGALRM, signal.SIGTERM)}
    timer = threading.Timer(seconds, time_is_over)
    timer.daemon = True
    timer.start()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


class Recorder:
    """A pytest plugin that writes what happened: in the process that hands out the tests, or runs them itself."""

    def __init__(self, folder: Path, report: Callable[..., None], durations: order.Durations, n_processes: int) -> None:
        self._folder = folder
        self._report = report
        self._durations = durations
        self._began = time.perf_counter()
        self._lock = threading.RLock()
        self._status: int | None = None
        self._collected: list[str] = []
        self._running: dict[str, None] = {}
        self._before: dict[str, str] = {}
        self._outcomes: dict[str, str] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._fatal: list[str] = []
        self._n_processes = n_processes
        self._n_replaced = 0
        self._error = ""
        for name in ("cuda_cases.jsonl", "failures.txt"):
            (folder / name).write_text("", encoding="utf-8")

    # Hooks of pytest and of pytest-xdist.

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note the tests, where this process runs them."""
        self._collected = [item.nodeid for item in session.items]

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Note the tests, where other processes run them."""
        self._collected = ids

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, error: object | None) -> None:
        """Count processes that did not end by themselves."""
        self._n_replaced += error is not None

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Hand out groups of tests; see `order`."""
        if config.getvalue("dist") != "loadgroup":
            return None
        config.option.loadscopereorder = False  # the order of `order`, not by the lengths of the groups
        return _scheduler(config, log)

    def pytest_internalerror(self, excrepr: object) -> None:
        """Note an error of pytest or of a plugin, which ends the run."""
        with self._lock:
            self._write_failure("pytest", "internal error", [], str(excrepr), [])
        self._error = "internal error of pytest, see failures.txt"

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that cannot be imported."""
        if report.failed:
            with self._lock:
                self._outcomes[report.nodeid] = "failed"
                self._write_failure(report.nodeid, "collection", [], report.longreprtext, [])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note which tests are running."""
        with self._lock:
            self._running[nodeid] = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test, and write its failure."""
        with self._lock:
            if self._status is not None:
                return
            nodeid = report.nodeid
            self._seconds[nodeid] += report.duration
            before = self._outcomes.get(nodeid)
            if report.failed and before != "failed":
                self._outcomes[nodeid] = "failed"
                sections = [text for title, text in report.sections if title.startswith("Captured")]
                about = [
                    f"parameters: {given}" for name, given in report.user_properties if name == "parameters" and given
                ]
                if order.fatal(report):  # it may come late: a kernel runs while its caller goes on
                    self._fatal.append(nodeid)
                    about.append(f"before it, the same process ran {self._before.get(_process(report), 'no test')}")
                self._write_failure(nodeid, str(report.when), about, report.longreprtext, sections)
            elif before is None and (report.skipped or report.when == "call"):
                self._outcomes[nodeid] = report.outcome
            if report.when not in {"setup", "call"}:  # after its end, or after that of its process
                self._running.pop(nodeid, None)
                self._before[_process(report)] = order.case(nodeid)
                self._write_case(nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Do not wait for processes whose tests nobody waits for."""
        manager = getattr(session.config.pluginmanager.getplugin("dsession"), "nodemanager", None)
        if manager is not None:
            manager.EXIT_TIMEOUT = 0.5 if self._status is not None else 2

    # What is written.

    def _write_case(self, nodeid: str) -> None:
        line = {"case": order.case(nodeid), "outcome": self._outcomes.get(nodeid), "seconds": self._seconds[nodeid]}
        with (self._folder / "cuda_cases.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _write_failure(self, nodeid: str, when: str, about: list[str], text: str, sections: list[str]) -> None:
        errors = "\n".join(line for line in text.splitlines() if line.startswith("E "))[:MESSAGE]
        output = "\n".join(sections)[-OUTPUT:]
        parts = [
            f"=== {nodeid.rsplit('@g', 1)[0]} ({when})",
            *about,
            *([errors] if errors else []),
            f"--- the end of the traceback\n{text[-TRACEBACK:].strip()}",
            *([f"--- the end of its output\n{output.strip()}"] if output.strip() else []),
        ]
        with (self._folder / "failures.txt").open("a", encoding="utf-8") as file:
            file.write("\n".join(parts) + "\n\n")
        first = errors or text
        print(f"\nfailed: {order.case(nodeid)}: {first.strip().splitlines()[0][:200] if first.strip() else when}")

    def finish(self, stopped: str) -> int:
        """Report, once.

        Args:
            stopped: why the run ends before all tests have run, or nothing.

        Returns:
            The status of the run.
        """
        with self._lock:
            if self._status is not None:
                return self._status
            stopped = stopped or self._error or ("" if self._collected else "no test was found")
            missing = [nodeid for nodeid in self._collected if nodeid not in self._outcomes]
            counts = Counter(self._outcomes.values())
            failed = [order.case(nodeid) for nodeid, outcome in self._outcomes.items() if outcome == "failed"]
            self._status = 1 if missing or failed or stopped else 0
            figures: dict[str, Any] = {
                "passed": counts["passed"],
                "failed": counts["failed"],
                "skipped": counts["skipped"],
                "not_run": len(missing),
                "wall_seconds": round(time.perf_counter() - self._began, 1),
                "processes": self._n_processes,
                "replaced": self._n_replaced,
            }
            more = {
                "which": failed[:40],
                "fatal": [order.case(nodeid) for nodeid in self._fatal],
                "not_run_kinds": dict(Counter(order.kind(nodeid) for nodeid in missing)),
                "unfinished": [order.case(nodeid) for nodeid in self._running if nodeid in missing],
                "stopped": stopped,
            }
            print(flush=True)
            self._report("proof", **figures, **{name: value for name, value in more.items() if value})
            seconds = {nodeid: self._seconds[nodeid] for nodeid, o in self._outcomes.items() if o == "passed"}
            self._durations.updated(order.Durations.of(seconds)).write(self._folder / DURATIONS)
            return self._status


def _process(report: pytest.TestReport) -> str:
    """The process of pytest-xdist that ran a test; nothing without pytest-xdist."""
    node = getattr(report, "node", None)
    return "" if node is None else node.gateway.id


def _scheduler(config: pytest.Config, log: Any) -> Any:
    """That of `--dist loadgroup`, made safe for processes that end and are replaced."""
    from xdist.scheduler import LoadGroupScheduling

    class Scheduler(LoadGroupScheduling):
        def remove_node(self, node: Any) -> str | None:
            """Hand out again what a process had not begun, without the test at which it ended; return that test."""
            units = self.assigned_work.pop(node)
            ended = next((nodeid for unit in units.values() for nodeid, done in unit.items() if not done), None)
            for scope, unit in reversed(units.items()):
                rest = {nodeid: False for nodeid, done in unit.items() if not done and nodeid != ended}
                if rest:
                    self.workqueue[scope] = rest
                    self.workqueue.move_to_end(scope, last=False)
            if self.workqueue:
                for other in self.nodes:
                    self._reschedule(other)
            return ended

        def _reschedule(self, node: Any) -> None:
            """Give a process two tests: it begins one only when it knows the next, or that there is none."""
            if node not in self.registered_collections:  # a replacement that is not ready
                return
            while self.workqueue and not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
                self._assign_work_unit(node)
            if not self.workqueue:
                for other in self.nodes:
                    if other in self.registered_collections and not other.shutting_down:
                        other.shutdown()

    return Scheduler(config, log)
