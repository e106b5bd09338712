"""Triton kernels of polyfit: tensors in, tensors out; no autograd, no choice of device, no check a user could need.

Launchers take canonical operands (see `polyfit_kernels.objective.objective`) and run on CPU tensors too under Triton's
interpreter. Each module is imported on its own; importing the package alone imports no Triton.
"""
