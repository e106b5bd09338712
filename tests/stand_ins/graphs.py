"""A stand-in for CUDA graphs: calls are kept, and a replay makes them again, into the same memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stand_ins.gpu import Gpu, tensors_of
from stand_ins.runtime import Stream


class Graph:
    """A CUDA graph.

    A capture has to run the calls, as they give the tensors of those that follow. Its end makes that unseen: what was
    there before is as it was, and what the capture allocated is NaN (-1 in integers) until the first replay.

    Args:
        gpu: the stand-in whose calls are captured.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._calls = gpu, []
        self._before: dict[int, tuple[Any, Any]] = {}
        self._inside: dict[int, Any] = {}
        self._is_captured = False
        self.stream: Any = None

    # --- what the stand-in calls during a capture ---

    def remember(self, operands: list[Tensor]) -> None:
        """Keep the contents of memory that a call may change."""
        for tensor in operands:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._inside and storage._cdata not in self._before:
                self._before[storage._cdata] = storage, storage.clone()

    def add(self, call: Callable[[], Any], result: Any) -> None:
        """Keep a call and the tensors that it gave."""
        results = list(tensors_of(result))
        for tensor in results:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._before:
                self._inside[storage._cdata] = storage
        self._calls.append((call, results))

    # --- what users call ---

    def begin(self, stream: Any) -> None:
        """Start a capture on a stream."""
        if self._gpu.capture is not None:
            raise RuntimeError("another graph is being captured")
        if self._is_captured:
            raise RuntimeError("this graph has been captured already")
        self.stream, self._gpu.capture = stream, self

    def end(self) -> None:
        """End the capture."""
        self._gpu.capture = None
        with torch._C.DisableTorchFunction():
            for storage, before in self._before.values():
                storage.copy_(before)
            for storage in self._inside.values():
                torch.empty(0, dtype=torch.uint8).set_(storage).fill_(255)
        self._before = {key: (storage, None) for key, (storage, _) in self._before.items()}
        self._is_captured = True

    def replay(self) -> None:
        """Make all calls again."""
        if not self._is_captured:
            raise RuntimeError("replay of a graph that was not captured")
        self._gpu.forbid("replay")
        with torch._C.DisableTorchFunction():
            for call, results in self._calls:
                for tensor, again in zip(results, tensors_of(call()), strict=True):
                    if tensor.data_ptr() != again.data_ptr():
                        tensor.data.copy_(again.detach())

    def reset(self) -> None:
        """Forget the calls."""
        self._calls, self._before, self._inside, self._is_captured = [], {}, {}, False

    def pool(self) -> tuple[int, int]:
        """The name of the graph's memory pool."""
        return (0, id(self))


class GraphCapture:
    """torch.cuda.graph: a block of code that is captured.

    Args:
        gpu: the stand-in.
        graph: to capture into.
        stream: to capture on; None for a new one.
    """

    def __init__(self, gpu: Gpu, graph: Graph, stream: Any) -> None:
        self._gpu, self._graph = gpu, graph
        self._stream = Stream(gpu, gpu.current) if stream is None else stream
        self._blocks = contextlib.ExitStack()

    def __enter__(self) -> None:
        self._before = self._gpu.current_stream()
        self._gpu.set_stream(self._stream)
        self._graph.begin(self._stream)
        # A replay changes tensors in place that a backward pass has saved. Hooks leave versions unchecked.
        self._blocks.enter_context(torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t))

    def __exit__(self, *_: object) -> None:
        self._blocks.close()
        self._gpu.set_stream(self._before)
        self._graph.end()
