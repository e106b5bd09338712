"""Triton kernels of polyfit: tensors in, tensors out; no autograd, no choice of device, no check a user could need.

Launchers take canonical operands (see `objective`) and run on CPU tensors too under Triton's interpreter.
"""

from polyfit_kernels.evaluate import evaluate, evaluate_backward
from polyfit_kernels.objective import objective

__all__ = ["evaluate", "evaluate_backward", "objective"]
