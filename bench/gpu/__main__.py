"""The kernels on a GPU: right first, then timed beside a copy of as many bytes: `python -m bench.gpu [PHASE ...]`.

Phases, in order of worth: smoke, headline, many, training, policy. Each result is printed and, with --out FOLDER,
written as a JSON line when it is there: a run that is cut off loses only what it had not measured.
`--warm` compiles everything that the phases launch, in a minute or two, and its times say nothing: several phases can
do so at once, and what is timed after that finds all kernels in the cache. `--small` takes small sizes: with
TRITON_INTERPRET=1 every line runs on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

import torch

from bench.gpu.passes import headline, many
from bench.gpu.policy import policy
from bench.gpu.smoke import smoke
from bench.gpu.timing import Bench, Report
from bench.gpu.training import training

PHASES = {"smoke": smoke, "headline": headline, "many": many, "training": training, "policy": policy}


def main() -> int:
    """Run the phases."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("phases", nargs="*", choices=[*PHASES, []], help="default: all")
    parser.add_argument("--out", help="a folder for gpu.jsonl")
    parser.add_argument("--warm", action="store_true", help="compile only")
    parser.add_argument("--small", action="store_true", help="small sizes, to try every line")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.small:
        print("no GPU that torch can use; --small with TRITON_INTERPRET=1 tries the lines of this file without one")
        return 1
    bench, status = Bench(device, options.small, Report(options.out, device), options.warm), 0
    for name in options.phases or PHASES:
        began = time.perf_counter()
        try:
            PHASES[name](bench)
        except Exception:  # whatever it is, a lent GPU measures the other phases; the status says that one failed
            traceback.print_exc()
            status = 1
        print(f"phase {name}: {time.perf_counter() - began:.1f} s", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
