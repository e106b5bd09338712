"""Stand-ins for devices, streams, events, memory and the profiler of torch.cuda. All work is done at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from stand_ins.gpu import Gpu

GIB = 2**30


def devices(gpu: Gpu) -> dict[str, Any]:
    """The functions of torch.cuda about devices. A GPU has two multiprocessors, as the interpreter has."""

    @contextlib.contextmanager
    def device(which: Any) -> Iterator[None]:
        before, gpu.current = gpu.current, gpu.number(which)
        try:
            yield
        finally:
            gpu.current = before

    def properties(which: Any = None) -> SimpleNamespace:
        gpu.number(which)
        return SimpleNamespace(
            name="a stand-in for a GPU", multi_processor_count=2, warp_size=32, total_memory=80 * GIB, major=9, minor=0,
            shared_memory_per_block=48 * 1024, shared_memory_per_block_optin=227 * 1024,
        )  # fmt: skip

    def set_device(which: Any) -> None:
        gpu.current = gpu.number(which)

    return {
        "device": device,
        "device_count": lambda: gpu.n_gpus,
        "current_device": lambda: gpu.current,
        "set_device": set_device,
        "get_device_properties": properties,
        "get_device_name": lambda which=None: properties(which).name,
        "get_device_capability": lambda which=None: (9, 0),
    }


# --- streams and events ---


class Stream:
    """A stream. Work on it is done at once.

    Args:
        gpu: the stand-in.
        index: the number of its GPU.
        of_default: whether it is the default stream.
    """

    def __init__(self, gpu: Gpu, index: int, *, of_default: bool = False) -> None:
        self._gpu, self.index = gpu, index
        self.device = torch.device("cuda", index)
        self.cuda_stream = 0 if of_default else gpu.next_stream()

    def wait_stream(self, stream: Stream) -> None:
        """Wait for another stream."""
        assert isinstance(stream, Stream)

    def wait_event(self, event: Event) -> None:
        """Wait for an event."""
        assert isinstance(event, Event)

    def record_event(self, event: Event | None = None) -> Event:
        """Record an event."""
        event = event or Event(self._gpu)
        event.record(self)
        return event

    def synchronize(self) -> None:
        """Wait for the stream."""
        synchronize(self._gpu)

    def query(self) -> bool:
        """Whether all work is done."""
        return True


class Event:
    """An event. Its time can be read after the host has waited for it.

    Args:
        gpu: the stand-in.
        enable_timing: whether it has a time.
    """

    def __init__(self, gpu: Gpu, enable_timing: bool = False, **_: Any) -> None:
        self._gpu, self._is_timed = gpu, enable_timing
        self._time: float | None = None
        self._is_over = False

    def record(self, stream: Stream | None = None) -> None:
        """Record the event on a stream."""
        assert stream is None or isinstance(stream, Stream)
        self._time, self._is_over = time.perf_counter(), False
        self._gpu.awaited.append(self)

    def synchronize(self) -> None:
        """Wait for the event."""
        self._gpu.forbid("synchronize")
        self._is_over = True

    def query(self) -> bool:
        """Whether the event has happened."""
        return True

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds from this event to another."""
        for event in (self, end):
            if not event._is_timed:
                raise ValueError("both events need enable_timing=True")
            if event._time is None:
                raise ValueError("both events must be recorded before their times are read")
            if not event._is_over:
                raise RuntimeError("device not ready: the host has not waited for both events")
        assert self._time is not None
        assert end._time is not None
        return (end._time - self._time) * 1e3


def synchronize(gpu: Gpu) -> None:
    """Wait for the device."""
    gpu.forbid("synchronize")
    for event in gpu.awaited:
        event._is_over = True
    gpu.awaited = []


def streams(gpu: Gpu) -> dict[str, Any]:
    """The functions of torch.cuda about streams and events."""

    @contextlib.contextmanager
    def stream(which: Stream | None) -> Iterator[None]:
        if which is None:
            yield
            return
        before, index = gpu.current_stream(which.index), gpu.current
        gpu.current = which.index
        gpu.set_stream(which)
        try:
            yield
        finally:
            gpu.set_stream(before)
            gpu.current = index

    def wait(device: Any = None) -> None:
        gpu.number(device)
        synchronize(gpu)

    return {
        "Stream": lambda device=None, priority=0: Stream(gpu, gpu.number(device)),
        "stream": stream,
        "set_stream": gpu.set_stream,
        "current_stream": gpu.current_stream,
        "default_stream": lambda device=None: Stream(gpu, gpu.number(device), of_default=True),
        "Event": lambda enable_timing=False, **options: Event(gpu, enable_timing, **options),
        "synchronize": wait,
    }


# --- memory ---


def memory(gpu: Gpu) -> dict[str, Any]:
    """The functions of torch.cuda about memory. Memory that was allocated counts until the end."""
    pools: list[object] = []

    class MemPool:
        """A memory pool."""

        def __init__(self, *_: Any) -> None:
            pools.append(self)
            self.id = (0, len(pools))

    @contextlib.contextmanager
    def use_mem_pool(pool: MemPool, device: Any = None) -> Iterator[None]:
        gpu.number(device)
        before, gpu.pool = gpu.pool, pool.id[1]
        try:
            yield
        finally:
            gpu.pool = before

    def snapshot(*_: Any) -> list[dict[str, Any]]:
        """One segment, all memory there is, of the pool that is in use."""
        return [{"address": 0, "total_size": 2**64, "segment_pool_id": (0, gpu.pool)}]

    return {
        "MemPool": MemPool,
        "use_mem_pool": use_mem_pool,
        "memory_snapshot": snapshot,
        "get_allocator_backend": lambda: "native",
        "mem_get_info": lambda device=None: (80 * GIB - gpu.allocated, 80 * GIB),
        "memory_allocated": lambda device=None: gpu.allocated,
        "max_memory_allocated": lambda device=None: gpu.allocated,
        "memory_reserved": lambda device=None: gpu.allocated,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
    }


# --- the profiler ---


class Profile:
    """torch.profiler.profile: its events are the launches of kernels.

    Args:
        gpu: the stand-in.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._first, self._names = gpu, 0, None

    def __enter__(self) -> Profile:
        self._first = len(self._gpu.launched)
        return self

    def __exit__(self, *_: object) -> None:
        self._names = self._gpu.launched[self._first :]

    def events(self) -> list[SimpleNamespace]:
        """The launches."""
        if self._names is None:
            raise RuntimeError("the events of a profile are there after its block")
        return [SimpleNamespace(name=name, device_type="DeviceType.CUDA") for name in self._names]
