"""The loops that Inductor makes, for impl="compile"."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import torch, polyfit
x = torch.linspace(-1, 1, 40000, dtype=torch.float64)
coef = torch.tensor([0.3, 0.2], dtype=torch.float64)
expected = ((coef[0] + coef[1] * x - x) ** 2).mean()
loss = polyfit.polynomial_loss(x.float(), x.float(), coef.float(), impl="compile")
assert abs(float(loss / expected) - 1.0) < 1e-5, (torch.backends.cpu.get_cpu_capability(), loss, expected)
"""


@pytest.mark.compiler
def test_kinds_of_vectors_share_a_cache(tmp_path):
    # A loop made for 16 lanes gave 1.4 for 1.8 where 8 were taken (torch 2.13).
    for capability in ("avx512", "avx2"):
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
