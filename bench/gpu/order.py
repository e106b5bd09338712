"""A pytest plugin for each process that runs tests of a GPU: their order, their groups, and an end after a fatal error.

**Order.** Kinds of tests that are risky (streams, graphs, training loops, more than 2^31 samples) go before the others,
and slow tests before fast ones. The first group of each function goes before all others, so that a run that is cut off
has tried every function. Durations are those of an earlier run, see `Durations`.

**Groups.** A kernel is compiled for each variant of it. Cases that differ in the number of samples only share most
variants, so pytest-xdist gives them to one process (`--dist loadgroup`), unless they take long together.

**A fatal error.** After an illegal address every later call of CUDA in the same process fails with the same error. The
process ends at once, after it has sent its report, and pytest-xdist replaces it. Without pytest-xdist the run ends.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

# Parts of the names of functions whose tests are the likeliest to fail on a GPU only.
RISKY = (
    "int32", "2_to_the", "million", "train", "on_chip", "stream", "thread", "graph", "again", "tickets", "compile",
    "memory", "launch",
)  # fmt: skip
# Seconds of a case that was never timed, in a group. On an H100, from a bare cache of Triton, 710 cases took 95 s with
# 13 processes: 1.7 s each.
UNKNOWN_SECONDS = 1.0
UNKNOWN_RISKY_SECONDS = 2.0
# A group whose cases take longer together is divided into its cases, or the last process ends long after the others.
LONGEST_GROUP = 12.0
# Memory that a process keeps from one test to the next, at most: other processes use the same GPU.
KEPT_BYTES = 2**30
# Errors of CUDA after which a process can launch nothing more, and some that look like them.
FATAL = (
    "CUDA error", "illegal memory access", "device-side assert", "unspecified launch failure", "misaligned address",
    "illegal instruction", "invalid program counter",
)  # fmt: skip


def kind(nodeid: str) -> str:
    """The function of a test, without its file and its parameters."""
    return nodeid.rsplit("@g", 1)[0].partition("[")[0].rsplit("::", 1)[-1]


def case(nodeid: str) -> str:
    """The function of a test with its parameters, without its file and its group."""
    head, bracket, parameters = nodeid.partition("[")
    if not bracket:
        return kind(nodeid)
    return f"{kind(head)}[{parameters.rpartition(']')[0]}]"


def risky(nodeid: str) -> bool:
    """Whether a test is of a kind that is likely to fail on a GPU only."""
    return any(part in kind(nodeid) for part in RISKY)


def fatal(report: pytest.TestReport) -> bool:
    """Whether a test failed with an error after which its process can use the GPU no more."""
    if not report.failed:
        return False
    errors = [line for line in report.longreprtext.splitlines() if line.startswith("E ")]
    return any(sign in line for line in errors for sign in FATAL)


@dataclasses.dataclass(frozen=True)
class Durations:
    """Seconds of tests in an earlier run.

    Attributes:
        functions: the mean of a function's cases that are not in `cases`.
        cases: those that take long: more than 2 s, and more than twice the mean of their function.
    """

    functions: dict[str, float]
    cases: dict[str, float]

    @classmethod
    def read(cls, path: Path | None) -> Durations:
        """Those of a file; nothing is known where there is no file."""
        if path is None or not path.is_file():
            return cls({}, {})
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(content["functions"], content["cases"])

    @classmethod
    def of(cls, seconds: dict[str, float]) -> Durations:
        """Those of a run, from the seconds of each test."""
        functions = defaultdict(list)
        for nodeid, value in seconds.items():
            functions[kind(nodeid)].append(value)
        means = {name: sum(values) / len(values) for name, values in functions.items()}
        long = {case(nodeid): v for nodeid, v in seconds.items() if v > 2.0 and v > 2 * means[kind(nodeid)]}
        rest = defaultdict(list)
        for nodeid, value in seconds.items():
            if case(nodeid) not in long:
                rest[kind(nodeid)].append(value)
        return cls({name: sum(values) / len(values) for name, values in rest.items()}, long)

    def updated(self, later: Durations) -> Durations:
        """These with what a later run measured."""
        cases = {name: value for name, value in self.cases.items() if kind(name) not in later.functions}
        return Durations(self.functions | later.functions, cases | later.cases)

    def write(self, path: Path) -> None:
        """Write a file of a few kilobytes."""
        content = {
            part: {name: round(value, 2) for name, value in sorted(values.items())}
            for part, values in dataclasses.asdict(self).items()
        }
        new = path.with_suffix(".new")
        new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        new.replace(path)  # whole or not at all: the run may be killed now

    def __getitem__(self, nodeid: str) -> float:
        unknown = UNKNOWN_RISKY_SECONDS if risky(nodeid) else UNKNOWN_SECONDS
        return self.cases.get(case(nodeid), self.functions.get(kind(nodeid), unknown))


def groups(tests: dict[str, dict[str, Any]], durations: Durations) -> list[list[str]]:
    """Tests in the order and in the groups in which they are run.

    Args:
        tests: the parameters of each test, by its node id.
        durations: seconds of the tests.
    """
    alike = defaultdict(list)
    for nodeid, parameters in tests.items():
        alike[kind(nodeid), *(str(v) for name, v in parameters.items() if name != "n_samples")].append(nodeid)
    found = []
    for members in alike.values():
        seconds = sum(durations[nodeid] for nodeid in members)
        found.extend([members] if seconds <= LONGEST_GROUP else [[nodeid] for nodeid in members])

    def rank(group: list[str]) -> tuple[bool, float]:
        return not risky(group[0]), -sum(durations[nodeid] for nodeid in group)

    found.sort(key=rank)
    firsts = list({kind(group[0]): group for group in reversed(found)}.values())[::-1]
    return firsts + [group for group in found if group not in firsts]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say where the durations are."""
    parser.addoption("--gpu-durations", type=Path, help="a file with durations of an earlier run")


def pytest_configure(config: pytest.Config) -> None:
    """Watch for fatal errors."""
    if not hasattr(config.option, "dist") or config.option.dist == "no":  # a process that runs tests
        config.pluginmanager.register(_Process(is_worker=hasattr(config, "workerinput")))


def _shown(value: object) -> object:
    """A parameter in words that are the same in each process: without an address in memory."""
    text = str(value)
    return type(value).__name__ if " at 0x" in text else text


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests, note their groups, and keep their parameters for the list of failures."""
    by_id = {item.nodeid: item for item in items}
    tests = {}
    for nodeid, item in by_id.items():
        callspec = getattr(item, "callspec", None)
        tests[nodeid] = {name: _shown(v) for name, v in callspec.params.items()} if callspec is not None else {}
        item.user_properties.append(("parameters", ", ".join(f"{name}={v}" for name, v in tests[nodeid].items())))
    ordered = groups(tests, Durations.read(config.getoption("--gpu-durations")))
    items[:] = [by_id[nodeid] for group in ordered for nodeid in group]
    if hasattr(config, "workerinput"):
        for index, group in enumerate(ordered):
            for nodeid in group:
                by_id[nodeid].add_marker(pytest.mark.xdist_group(f"g{index}"))


class _Process:
    """What a process does between tests."""

    def __init__(self, *, is_worker: bool) -> None:
        self._is_worker = is_worker
        self._session: pytest.Session | None = None

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._session = session

    @pytest.hookimpl(trylast=True)  # after pytest-xdist has sent the report
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """End a process that can use the GPU no more."""
        if not fatal(report):
            return
        if self._is_worker:
            os._exit(1)  # not by an exception: what runs at an orderly end would wait for the GPU, or fail
        if self._session is not None:
            self._session.shouldstop = "an error after which this process can use the GPU no more"

    def pytest_runtest_logfinish(self) -> None:
        """Give memory back that other processes may need."""
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
            return
        if torch.cuda.memory_reserved() > KEPT_BYTES:
            gc.collect()
            torch.cuda.empty_cache()
