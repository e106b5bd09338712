"""A stand-in for a GPU: CPU tensors that say that they are on one, and the parts of torch.cuda that tests use.

It shows the mistakes that a test or a script for a GPU makes before its kernels run: names, arguments, sizes,
expectations, tensors on different devices, an operation that a capture forbids, a time that is read too early. It
cannot show races, addresses, speed, or what a compiler makes of a kernel: all work is done at once, in order.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stand_ins import runtime
from stand_ins.gpu import Generator, Gpu
from stand_ins.graphs import Graph, GraphCapture


@contextlib.contextmanager
def installed(n_gpus: int = 2) -> Iterator[Gpu]:
    """torch.cuda stands for these GPUs, and tensors can be on them, until the end of the block."""
    from triton.runtime import interpreter

    from polyfit_kernels import operands, partials

    gpu = Gpu(n_gpus)
    cuda: dict[str, Any] = {
        "is_available": lambda: True,
        "is_current_stream_capturing": gpu.is_capturing,
        "CUDAGraph": lambda: Graph(gpu),
        "graph": lambda graph, pool=None, stream=None, **_: GraphCapture(gpu, graph, stream),
        **runtime.devices(gpu),
        **runtime.streams(gpu),
        **runtime.memory(gpu),
    }
    run_thread, run_backward = threading.Thread.run, torch.autograd.function.BackwardCFunction.apply
    launch = interpreter.GridExecutor.__call__

    def run_thread_on_gpu(thread: threading.Thread) -> None:
        with gpu:  # modes belong to a thread
            run_thread(thread)

    with pytest.MonkeyPatch.context() as patch:
        for name, stand_in in cuda.items():
            patch.setattr(torch.cuda, name, stand_in)
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch.profiler, "profile", lambda **_: runtime.Profile(gpu))
        patch.setattr(threading.Thread, "run", run_thread_on_gpu)
        patch.setattr(
            torch.autograd.function.BackwardCFunction,
            "apply",
            lambda context, *grads: gpu.run_backward(run_backward, context, grads),
        )
        patch.setattr(
            interpreter.GridExecutor,
            "__call__",
            lambda executor, *args, **kwargs: gpu.launch(launch, executor, args, kwargs),
        )
        number = SimpleNamespace(get_current_stream=lambda index: gpu.current_stream(index).cuda_stream)
        patch.setattr(partials, "driver", SimpleNamespace(active=number))
        patch.setattr(partials, "_tickets", {})
        caches = (operands.processors_and_warp, operands.compute_capability, operands.shared_memory)
        for cache in caches:
            cache.cache_clear()
        try:
            # What torch.compile has made runs as it was written.
            with gpu, torch.compiler.set_stance("force_eager"):
                yield gpu
        finally:
            for cache in caches:
                cache.cache_clear()
