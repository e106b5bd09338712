"""Optional packages: not imported before they are needed, and named, with their extra, where they are missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import polyfit
from polyfit.backends import select
from polyfit.backends.select import resolve_impl
from polyfit.monitor import ProgressBar, TensorBoard, Visdom

X = torch.arange(9, dtype=torch.float64)


def test_the_package_does_not_import_optional_packages():
    code = (
        "import sys, polyfit, polyfit.monitor;"
        " optional = {'rich', 'tensorboard', 'visdom', 'matplotlib', 'scipy', 'triton', 'sklearn', 'statsmodels'};"
        " print(optional & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [
        ("rich.progress", ProgressBar, "cli"),
        ("torch.utils.tensorboard", lambda: TensorBoard("never"), "tensorboard"),
        ("matplotlib", lambda: TensorBoard("never"), "tensorboard"),
        ("visdom", Visdom, "visdom"),
    ],
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, module: str, make: Any, extra: str):
    if module == "matplotlib":
        pytest.importorskip("tensorboard")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ImportError, match=rf"needs {module}: .*; install it with: pip install 'fused-polyfit\[{extra}\]'"
    ):
        make()
    assert not Path("never").exists()


@pytest.mark.parametrize(
    ("module", "call", "said"),
    [
        ("scipy.special", lambda fit: fit.interval(X), r"Fit\.interval needs scipy\.special: .*fused-polyfit\[stats\]"),
        ("scipy.special", lambda fit: fit.plot(), r"needs scipy\.special: .*fused-polyfit\[stats\]"),
        ("matplotlib.figure", lambda fit: fit.plot(), r"needs matplotlib\.figure: .*fused-polyfit\[cli\]"),
        ("matplotlib.figure", lambda fit: fit.selection.plot(), r"needs matplotlib\.figure: .*fused-polyfit\[cli\]"),
    ],
)
def test_statistics_and_pictures_name_the_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, call: Callable[[polyfit.Fit], object], said: str
):
    fit = polyfit.select_degree(X, X**2 + torch.cos(9 * X), 3)
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(ImportError, match=said):
        call(fit)


def test_triton_is_named_where_it_is_asked_for_and_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(select, "_HAS_TRITON", False)
    with pytest.raises(ValueError, match=r"impl='triton' needs Triton, .* pip install 'fused-polyfit\[triton\]'"):
        polyfit.polyval(X, X[:2], impl="triton")
    assert resolve_impl("auto", torch.device("cuda")) == "torch"
