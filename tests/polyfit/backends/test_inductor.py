"""The loops that Inductor makes, for impl="compile"."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from oracle import polynomial_loss, polyval

import polyfit

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


@pytest.mark.compiler
def test_any_number_of_settings_of_torch():
    # torch.compile gives up after 8; here after one. The number of threads is part of the kind of a loop.
    x = torch.linspace(-1, 1, 20000)
    coef = torch.tensor([0.5, 1.0], requires_grad=True)
    expected = polynomial_loss(x.double(), x.double(), coef.double()), polyval(x.double(), coef.double())
    gradient_to_coef = torch.stack((torch.ones_like(x), x)).sum(1)
    n_threads, limit = torch.get_num_threads(), torch._dynamo.config.recompile_limit
    try:
        torch._dynamo.config.recompile_limit = 1
        for dtype, count in ((torch.float32, 1), (torch.float32, 2), (torch.float64, 2)):
            torch.set_default_dtype(dtype)
            torch.set_num_threads(count)
            loss = polyfit.polynomial_loss(x, x, coef, impl="compile")
            torch.testing.assert_close(loss.double(), expected[0], rtol=1e-6, atol=0)
            values = polyfit.polyval(x, coef, impl="compile")
            torch.testing.assert_close(values.double(), expected[1], rtol=1e-5, atol=1e-6)
            (gradient,) = torch.autograd.grad(values.sum(), coef)
            torch.testing.assert_close(gradient, gradient_to_coef, rtol=1e-6, atol=1e-2)
    finally:
        torch.set_num_threads(n_threads)
        torch.set_default_dtype(torch.float32)
        torch._dynamo.config.recompile_limit = limit
