"""How an operation is carried out, and which implementation carries it out.

- `select`: which implementation, by name and device;
- `triton`: launches of the kernels, the only place that imports polyfit_kernels;
- `chunked`: the one pass in plain PyTorch, a chunk of the data at a time;
- `inductor`: loops that torch.compile makes of `traced`, for impl="compile";
- `native`: the loop over epochs in C++;
- `operators`: the operations themselves, also as custom operators for tracers.
"""

from polyfit.backends.select import IMPLS, resolve_impl

__all__ = ["IMPLS", "resolve_impl"]
