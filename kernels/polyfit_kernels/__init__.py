"""Triton kernels of polyfit: tensors in, tensors out. No autograd, no choice of device, no check of what users pass.

Launchers take canonical operands (see `polyfit_kernels.objective.objective`). Under Triton's interpreter they also take
CPU tensors. Import each module by its name: the package alone imports no Triton.
"""
