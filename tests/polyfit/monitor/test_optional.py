"""Optional packages: not imported before they are needed, and named where they are missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from polyfit.monitor import ProgressBar, TensorBoard, Visdom


def test_the_package_does_not_import_optional_packages():
    code = (
        "import sys, polyfit, polyfit.monitor; print({'rich', 'tensorboard', 'visdom', 'matplotlib'} & {*sys.modules})"
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
