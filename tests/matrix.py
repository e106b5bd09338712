"""The reference tests as other machines run them, as far as this one can imitate those: `make matrix`.

What a machine decides: the vector instructions of torch, the kernels of numpy's BLAS, the number of threads. On top
comes the order of the tests, which must not matter. `LEGS` holds every pair of two such values at least once. Each leg
has a home folder and caches of compiled code of its own: torch's cache does not tell vector instructions apart.

    make matrix                                     all legs, one after the other: 20 to 30 minutes on two cores
    make matrix LEGS="avx2-4-shuffled default-1"    these
    make matrix PYTHONS="python3.12 python3.13"     other interpreters besides, each in an environment made for it
    make matrix PYTHONS=python3.12 LEGS=python3.12  that interpreter alone
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

CHECKOUT = Path(__file__).resolve().parent.parent
# The workers of `make test`: one for each core.
WORKERS = ["-n", "logical", "--maxprocesses", "4", "--dist", "worksteal"]
TESTS = ["--doctest-modules", "-m", "not interpreter and not codegen", "polyfit", "tests"]
THREADS = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"]


@dataclass(frozen=True)
class Leg:
    """One run of the reference tests.

    Attributes:
        capability: vector instructions that torch may use, "default" being none; None: all that there are.
        blas: the processor whose kernels OpenBLAS takes; None: this one.
        threads: of torch and of BLAS; None: as many as they choose.
        seed: of the order of the tests; None: the order in which they are written.
    """

    capability: str | None = None
    blas: str | None = None
    threads: int | None = None
    seed: int | None = None

    def environment(self, folder: Path) -> dict[str, str]:
        """That of this process, but for what the leg decides, and for caches in the folder."""
        decided = dict.fromkeys(THREADS, self.threads)
        decided |= {"ATEN_CPU_CAPABILITY": self.capability, "OPENBLAS_CORETYPE": self.blas}
        inherited = {name: value for name, value in os.environ.items() if name not in decided}
        caches = {"HOME": "home", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
        for part in caches.values():
            (folder / part).mkdir()
        return {
            **inherited,
            **{name: str(value) for name, value in decided.items() if value is not None},
            **{name: str(folder / part) for name, part in caches.items()},
            "PYTHONPATH": os.pathsep.join((str(CHECKOUT), str(CHECKOUT / "kernels"))),
        }


LEGS = {
    "default-1": Leg("default", None, 1, None),
    "default-haswell-4-shuffled": Leg("default", "Haswell", 4, 1),
    "avx2-4-shuffled": Leg("avx2", None, 4, 2),
    "avx2-haswell-1-shuffled": Leg("avx2", "Haswell", 1, 3),
    "avx2-haswell-4": Leg("avx2", "Haswell", 4, None),
}


def made_environment(python: str, folder: Path) -> Path:
    """The interpreter of a virtual environment for `python`, with what constraints.txt names."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    inside = folder / Path(sys.executable).parent.name / "python"
    pip = [inside, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--requirement", CHECKOUT / "constraints.txt"], check=True)
    return inside


def run(name: str, leg: Leg, python: Path, folder: Path) -> tuple[bool, str]:
    """Whether the leg passed, and the line that says so."""
    report = folder / "report.xml"
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", *WORKERS, *TESTS]
    if leg.seed is not None:
        command.append(f"--shuffle={leg.seed}")
    print(f"\n== {name}: {leg}\n{' '.join(map(str, command))}", flush=True)
    start = time.monotonic()
    status = subprocess.run(command, cwd=CHECKOUT, env=leg.environment(folder), check=False).returncode
    minutes = (time.monotonic() - start) / 60
    counts = "no report"
    if report.exists():
        (suite,) = ElementTree.parse(report).getroot()
        total, *others = (int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped"))
        counts = "{} passed, {} failed, {} errors, {} skipped".format(total - sum(others), *others)
    return status == 0, f"{'pass' if status == 0 else 'FAIL'}  {name:28} {counts}, {minutes:.1f} min"


def main() -> int:
    """Run the legs that are asked for; 1 where one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("legs", nargs="*", metavar="LEG", help=f"one of {', '.join(LEGS)}, or a --python; default: all")
    parser.add_argument("--python", action="append", default=[], metavar="PYTHON", help="a further interpreter")
    arguments = parser.parse_args()
    known = [*LEGS, *arguments.python]
    if unknown := [name for name in arguments.legs if name not in known]:
        parser.error(f"unknown: {', '.join(unknown)}; pass some of {', '.join(known)}")
    lines = []
    all_passed = True
    for name in arguments.legs or known:
        with tempfile.TemporaryDirectory(prefix="matrix-", ignore_cleanup_errors=True) as home:
            folder = Path(home)
            python = Path(sys.executable) if name in LEGS else made_environment(name, folder / "venv")
            passed, line = run(name, LEGS.get(name, Leg()), python, folder)
        all_passed &= passed
        lines.append(line)
        print(line, flush=True)
    print("\n" + "\n".join(lines))
    return 0 if all_passed else 1


if __name__ == "__main__":
    sys.exit(main())
