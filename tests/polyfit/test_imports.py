"""What `import polyfit` and `polyfit --help` import beside torch: by number and by name, which no clock can blur.

The aims behind the bounds: `import polyfit` adds at most 60 ms to `import torch`, and `polyfit --help` takes at most
250 ms more than that.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Set

import pytest

_PROGRAMS = {
    "import polyfit": "import polyfit",
    "polyfit --help": """
import contextlib, io, sys
from polyfit.__main__ import main
sys.argv = ["polyfit", "--help"]
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    main()
assert "Commands" in out.getvalue()
""",
}
# Packages that take long to load, or that a user need not have.
_HEAVY = {
    "triton", "torch._dynamo", "torch._inductor", "torch._functorch.aot_autograd", "torch.onnx",
    "torch.utils.tensorboard", "tensorboard", "visdom", "scipy", "pandas", "polars", "pyarrow", "sklearn",
    "statsmodels", "matplotlib.pyplot", "sympy", "mpmath", "numpy.testing", "numpy.f2py", "unittest",
}  # fmt: skip
_OF_THE_COMMAND_LINE = {"matplotlib", "rich", "typer", "click", "pygments"}


@functools.cache
def imported(name: str) -> Set[str]:
    """The modules that a program imports, those of `import torch` apart."""
    if name == "polyfit --help":
        pytest.importorskip("typer")
    code = f"import sys, json, torch\nbefore = {{*sys.modules}}\n{_PROGRAMS[name]}"
    code += "\nprint(json.dumps(sorted({*sys.modules} - before)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return frozenset(json.loads(done.stdout))


def is_of(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("name", _PROGRAMS)
def test_heavy_packages_are_not_imported(name):
    heavy = _HEAVY if name == "polyfit --help" else _HEAVY | _OF_THE_COMMAND_LINE
    assert not {module for module in imported(name) for package in heavy if is_of(module, package)}


# Today (torch 2.13, Python 3.11): 109 modules of polyfit, none of torch and 16 others; 120, 0 and 262 for --help.
@pytest.mark.parametrize(("name", "n_ours", "n_others"), [("import polyfit", 140, 30), ("polyfit --help", 150, 320)])
def test_few_modules_are_imported(name, n_ours, n_others):
    ours = {module for module in imported(name) if is_of(module, "polyfit") or is_of(module, "polyfit_kernels")}
    of_torch = {module for module in imported(name) if is_of(module, "torch")}
    others = imported(name) - ours - of_torch
    assert len(ours) <= n_ours, sorted(ours)
    assert len(of_torch) <= 20, sorted(of_torch)
    assert len(others) <= n_others, sorted(others)
    if name == "import polyfit":
        standard = {module for module in others if module.partition(".")[0] in sys.stdlib_module_names}
        assert {module.partition(".")[0] for module in others - standard} <= {"numpy"}
