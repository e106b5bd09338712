"""All that a GPU has to say, within some minutes: `python -m bench.gpu --seconds 240 --results bench/results`.

Phases in order of worth, each in processes of its own, since an illegal address makes a CUDA context unusable:

    smoke      every kernel, small and large, every dtype, against float64
    headline   the kernels beside a copy, eager PyTorch, torch.compile and the CPU
    proof      all tests marked `cuda`
    sanitizer  compute-sanitizer over a small launch of each kernel
    policy     the launch policies worth trying

A phase has a share of the time and what earlier phases left over. It is stopped at the end of it, and a result is in
FOLDER/gpu.jsonl as soon as it is there: a run that is killed loses one case. FOLDER/gpu.log holds all that was printed.
While smoke runs, other processes compile the kernels of headline, and sanitizer those of policy: the cache of Triton is
empty on a machine that was just started.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

# This process imports no torch: it must live whatever becomes of the GPU.
VARIABLE = "POLYFIT_GPU_RUN"
TOTAL = 240.0
SHORTEST = 10.0  # seconds of a phase: torch alone takes some to import
GRACE = 2.0  # seconds between the end of a phase's time, of which it knows, and its being killed
DESCRIBING = 120.0  # seconds in which torch must find the GPU
FILES = ("gpu.log", "gpu.jsonl")
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclasses.dataclass(frozen=True)
class Phase:
    """A phase, its share of 240 s, and the processes that it is split over."""

    name: str
    share: float
    parts: int = 1


PHASES = (
    Phase("smoke", 30.0, parts=8),
    Phase("headline", 60.0),
    Phase("proof", 60.0),
    Phase("sanitizer", 40.0, parts=2),
    Phase("policy", 50.0),
)
# While the first phase of a pair runs, so many processes compile what the second one launches.
WARMED = {"smoke": ("headline", 6), "sanitizer": ("policy", 8)}


class Run:
    """The processes of a run, and all that they print.

    Args:
        folder: of the results.
        seconds: for all phases.
        extra: arguments for every phase.
    """

    def __init__(self, folder: Path, seconds: float, extra: list[str]) -> None:
        self._folder, self._extra = folder, extra
        self._began, self._scale = time.monotonic(), seconds / TOTAL
        self._lock = threading.Lock()
        self._alive: list[subprocess.Popen[str]] = []
        self._copying: dict[int, threading.Thread] = {}
        self._unwritten = ""
        self.ended: dict[str, str] = {}

    def describe(self) -> str:
        """Ask for the machine, and let all phases know it; why nothing can be measured, or nothing."""
        command = [sys.executable, "-m", "bench.gpu.machine", *self._extra]
        try:
            found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DESCRIBING)
        except subprocess.TimeoutExpired:
            return f"torch did not find a GPU within {DESCRIBING:.0f} s; check the driver (nvidia-smi, rocm-smi)"
        if found.returncode != 0:
            said = found.stderr.strip().splitlines()
            reason = said[-1] if said else f"{' '.join(command)} ended with status {found.returncode}"
            advice = f"; {sys.executable} needs torch, triton, numpy and pytest: make gpu PYTHON=..."
            return reason + (advice if "ModuleNotFoundError" in reason else "")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                (self._folder / name).open("a").close()
        except OSError as error:
            return f"results cannot be written: {error}; give another folder with --results"
        began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        os.environ[VARIABLE] = json.dumps({"run": began, **json.loads(found.stdout.splitlines()[-1])})
        self.say(os.environ[VARIABLE])
        return ""

    def say(self, line: str) -> None:
        """Print a line with the seconds since the beginning, and keep it.

        A full disk or a closed screen ends neither the run nor the thread that reads from a phase, which would then
        wait for its reader.
        """
        line = f"{time.monotonic() - self._began:5.1f} {line}"
        with self._lock:
            with contextlib.suppress(OSError):
                print(line, flush=True)
            try:
                with (self._folder / FILES[0]).open("a", encoding="utf-8") as log:
                    print(line, file=log)
            except OSError as error:
                if not self._unwritten:
                    self._unwritten = str(error)
                    with contextlib.suppress(OSError):
                        print(f"{FILES[0]} is not complete: {error}", flush=True)

    def phases(self, chosen: tuple[Phase, ...]) -> dict[str, str]:
        """Run them; how each ended."""
        ended, until = self.ended, 0.0
        warming: dict[str, list[subprocess.Popen[str]]] = {}
        for phase in chosen:
            until += phase.share * self._scale
            self._finish(warming.pop(phase.name, []), self._left(until) / 2)
            if phase.name in WARMED:
                target, parts = WARMED[phase.name]
                if target in {other.name for other in chosen}:
                    warming[target] = [self._start(target, part, parts, "--warm") for part in range(parts)]
            began = time.monotonic()
            self.say(f"== {phase.name}, until {until:.0f} s")
            seconds = self._left(until) - GRACE
            running = [
                self._start(phase.name, part, phase.parts, "--until", f"{time.time() + seconds:.1f}")
                for part in range(phase.parts)
            ]
            states = self._finish(running, seconds + GRACE)
            ended[phase.name] = _words(states)
            ended[phase.name] += f" after {time.monotonic() - began:.0f} s"
            self.say(f"== {phase.name} {ended[phase.name]}")
        return ended

    def end(self) -> None:
        """End what still runs: they have sessions of their own, which Ctrl-C does not reach."""
        self._finish(self._alive, 0.0)

    def _left(self, until: float) -> float:
        return max(1.0 + GRACE, self._began + until - time.monotonic())

    def _start(self, name: str, part: int, parts: int, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-m", "bench.gpu.phase", name, "--part", f"{part}/{parts}", *arguments]
        command += ["--results", str(self._folder), *self._extra]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            errors="replace",
        )
        self._alive.append(process)
        assert process.stdout is not None
        label = f"[{name} warm] " if "--warm" in arguments else ""
        self._copying[process.pid] = threading.Thread(target=self._copy, args=(process.stdout, label), daemon=True)
        self._copying[process.pid].start()
        return process

    def _copy(self, lines: IO[str], label: str) -> None:
        with lines:
            for line in lines:
                self.say(label + line.rstrip("\n"))

    def _finish(self, processes: list[subprocess.Popen[str]], seconds: float) -> list[int | None]:
        """Wait so long for them, and end those that still run: their states, None where one was ended.

        The processes that one of them started end with it: a process that is left over holds memory of the GPU.
        """
        end = time.monotonic() + seconds
        states: list[int | None] = []
        for process in processes:
            try:
                states.append(process.wait(max(0.0, end - time.monotonic())))
            except subprocess.TimeoutExpired:
                states.append(None)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._alive = [process for process in self._alive if process not in processes]
        for process in processes:
            self._copying[process.pid].join(1.0)  # a process of another session may hold the pipe open
        return states


def _words(states: list[int | None]) -> str:
    if all(state == 0 for state in states):
        return "ended well"
    if None in states:
        return "was STOPPED: its time was over"
    return f"FAILED with status {', '.join(str(state) for state in states)}"


def main() -> int:
    """Run the phases; 0 if all ended well."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("phases", nargs="*", metavar="PHASE", help="default: all, in their order")
    parser.add_argument("--seconds", type=float, default=TOTAL, help="for all phases; default 240")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("bench/results"),
        metavar="FOLDER",
        help="default bench/results; lines are appended",
    )
    parser.add_argument("--small", action="store_true", help="small sizes: with TRITON_INTERPRET=1 no GPU is needed")
    options = parser.parse_args()
    names = [phase.name for phase in PHASES]
    if unknown := set(options.phases) - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: the phases are {', '.join(names)}")
    if options.seconds <= 0:
        parser.error(f"--seconds {options.seconds}: give a positive number, 240 for all phases on one GPU")
    chosen = tuple(phase for phase in PHASES if phase.name in (options.phases or names))
    run = Run(
        options.results,
        options.seconds * TOTAL / sum(phase.share for phase in chosen),
        ["--small"] if options.small else [],
    )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if reason := run.describe():
        print(reason, file=sys.stderr)
        return 1
    share = options.seconds / sum(phase.share for phase in chosen)
    if short := [phase.name for phase in chosen if phase.share * share < SHORTEST]:
        run.say(f"{options.seconds:.0f} s are short for {', '.join(short)}: name fewer phases, or give more seconds")
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        run.phases(chosen)
    finally:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C would leave processes behind
        run.end()
        for phase in chosen:
            run.say(f"{phase.name:10s} {run.ended.get(phase.name, 'was not finished')}")
        run.say(f"results in {options.results / FILES[1]}; python -m bench.report makes tables and a picture of them")
    return int(any("ended well" not in words for words in run.ended.values()))


if __name__ == "__main__":
    sys.exit(main())
