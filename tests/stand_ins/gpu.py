"""Tensors on a GPU that is not there: the memory of a CPU tensor is marked with the number of a GPU.

All tensors that share memory share the mark, also those that autograd keeps. A mode of torch sees each function that
is called. It takes "cuda" from the arguments, marks the results, and answers for `device` and `is_cuda`. It raises
what a GPU raises: for operands on two devices, for numpy, and for a capture that waits for the device.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode

# These copy from one device to another, or take an index on the CPU, or give a parameter of a module other memory.
_ACROSS_DEVICES = {
    "copy_", "__getitem__", "__setitem__", "index_put_", "set_", "type_as", "lift_fresh", "__set__",
    "_has_compatible_shallow_copy_type",
}  # fmt: skip
# These move a tensor.
_MOVES = {"to", "cuda", "cpu"}
# These give the host numbers of the device, and so wait for it: a capture forbids them.
_WAITS = {
    "item", "tolist", "equal", "nonzero", "count_nonzero", "__bool__", "__float__", "__int__", "__index__", "allclose",
    "unique", "unique_consecutive", "masked_select", "__repr__", "__format__",
}  # fmt: skip
# These read numbers of the host, which a capture cannot copy.
_FROM_HOST = {"tensor", "as_tensor", "asarray", "from_numpy"}
_OF_NUMPY = {"numpy", "__array__", "__dlpack__"}
# Fresh memory of these is NaN, and -1 in integers: a kernel that writes nothing shows.
_UNINITIALIZED = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}


class Generator(torch._C.Generator):
    """A generator that knows for which device it was made."""

    gpu: int | None

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, "cpu")  # pyright: ignore[reportCallIssue]
        made.gpu = _index(device)
        return made


def _index(device: Any) -> int | None:
    """The number of the GPU that a device names, -1 for the current one; None for a CPU."""
    if isinstance(device, int):
        return device
    device = torch.device(device)
    if device.type != "cuda":
        return None
    return -1 if device.index is None else device.index


def tensors_of(parts: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(parts, Tensor):
        yield parts
    elif isinstance(parts, (tuple, list)):
        for part in parts:
            yield from tensors_of(part)
    elif isinstance(parts, dict):
        yield from tensors_of(list(parts.values()))


def _has_mask(index: Any) -> bool:
    """Whether an index holds a mask, whose number of samples the host must know."""
    return any(part.dtype in {torch.bool, torch.uint8} and part.dim() for part in tensors_of(index))


def memory_of(tensor: Tensor) -> Any:
    """The storage of a tensor, also under a transform of torch.func. Outside the mode only."""
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor.untyped_storage()


def where(tensor: Tensor) -> int | None:
    """The number of the GPU that a tensor is on; None for the CPU. Outside the mode only."""
    return getattr(memory_of(tensor), "gpu", None)


def _named(index: int | None) -> str:
    return "cpu" if index is None else f"cuda:{index}"


class Gpu(TorchFunctionMode):
    """GPUs that are not there.

    Args:
        n_gpus: their number.

    Attributes:
        n_gpus: their number.
        launched: names of the kernels launched so far.
        allocated: bytes of all tensors so far. Nothing is given back.
        capture: the graph that is being captured, or None.
        pool: the number of the memory pool in use; 0 for the common one.
        awaited: events that were recorded and that the host has not waited for.
    """

    def __init__(self, n_gpus: int) -> None:
        super().__init__()
        self.n_gpus, self.launched, self.allocated = n_gpus, [], 0
        self.capture: Any = None
        self.pool = 0
        self.awaited: list[Any] = []
        self._lock = threading.RLock()  # the interpreter runs one kernel at a time
        self._local = threading.local()
        self._n_streams = 0

    # --- the state of a thread ---

    @property
    def current(self) -> int:
        """The number of the current GPU."""
        return getattr(self._local, "current", 0)

    @current.setter
    def current(self, index: int) -> None:
        self._local.current = index

    def number(self, device: Any) -> int:
        """The number of the GPU that an argument `device` of torch.cuda names."""
        index = self.current if device is None else _index(device)
        if index is None:
            raise ValueError(f"Expected a cuda device, but got: {device}")
        index = self.current if index == -1 else index
        if not 0 <= index < self.n_gpus:
            raise RuntimeError(f"CUDA error: invalid device ordinal: cuda:{index} of {self.n_gpus} stand-ins")
        return index

    def next_stream(self) -> int:
        """A number for a new stream."""
        with self._lock:
            self._n_streams += 1
            return self._n_streams

    def current_stream(self, device: Any = None) -> Any:
        """The current stream of a GPU."""
        from stand_ins.runtime import Stream

        streams = self._local.__dict__.setdefault("streams", {})
        index = self.number(device)
        return streams.get(index) or Stream(self, index, of_default=True)

    def set_stream(self, stream: Any) -> None:
        """Make a stream the current one of its GPU."""
        self._local.__dict__.setdefault("streams", {})[stream.index] = stream

    @property
    def _is_nested(self) -> bool:
        """Whether this thread is inside a backward pass, which a graph replays as one call."""
        return getattr(self._local, "backward", None) is not None

    # --- graphs ---

    def is_capturing(self) -> bool:
        """Whether a graph is being captured on the current stream."""
        return self.capture is not None and self.capture.stream.cuda_stream == self.current_stream().cuda_stream

    def forbid(self, what: str) -> None:
        """Raise what a capture raises for such a call, say one that waits for the device."""
        if self.is_capturing():
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing: {what}")

    # --- functions of torch ---

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `TorchFunctionMode`: called for each function, with the mode off."""
        kwargs = dict(kwargs or {})
        name = func.__name__
        if name == "__get__":
            return self._attribute(func, args)
        inputs = list(tensors_of((args, kwargs)))
        on = [index for tensor in inputs if (index := where(tensor)) is not None]
        if on and name in _OF_NUMPY:
            raise TypeError(f"can't convert {_named(on[0])} device type tensor to numpy: call cpu() first")
        if on and (name in _WAITS or (name in {"__getitem__", "__setitem__"} and _has_mask(args[1]))):
            self.forbid(name)
        if name in _FROM_HOST and kwargs.get("device") is not None and _index(kwargs["device"]) is not None:
            self.forbid(f"{name} of numbers of the host")
        if not self.is_capturing() or self._is_nested:
            return self._call(func, name, args, kwargs)
        if func in {Tensor.backward, torch.autograd.grad}:
            kwargs["retain_graph"] = True  # for the replays
        self.capture.remember(inputs)
        result = self._call(func, name, args, kwargs)
        self.capture.add(lambda: self._call(func, name, args, kwargs), result)
        return result

    def _attribute(self, func: Any, args: Any) -> Any:
        tensor, what = args[0], func.__self__.__name__
        if what in {"device", "is_cuda", "is_cpu"} and (index := where(tensor)) is not None:
            return torch.device("cuda", index) if what == "device" else what == "is_cuda"
        found = func(*args)
        if what == "grad" and found is not None:
            self._mark(found, where(tensor))
        return found

    def _call(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """The function on CPU tensors, with results on the GPU that it would give them."""
        if name in _MOVES and isinstance(args[0], Tensor):
            return self._moved(name, *args, **kwargs)
        if func is Tensor.backward:
            return self._backward(where(args[0]), func, args, kwargs)
        if func is torch.autograd.grad:
            inputs = kwargs.get("inputs", args[1] if len(args) > 1 else None)
            inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
            found = self._backward(where(next(tensors_of(args))), func, args, kwargs)
            for result, like in zip(found, inputs, strict=True):
                if result is not None:
                    self._mark(result, where(like))
            return found
        inputs = list(tensors_of((args, kwargs)))
        target = self._check_devices(name, inputs)
        if (device := kwargs.get("device")) is not None:
            index = _index(device)
            target = None if index is None else self.number(device)
            kwargs = {**kwargs, "device": "cpu"}
        if isinstance(generator := kwargs.get("generator"), torch._C.Generator):
            of_generator = getattr(generator, "gpu", None)
            if (of_generator is None) != (target is None):
                raise RuntimeError(f"Expected a generator for {_named(target)}, but found {_named(of_generator)}")
        result = func(*args, **kwargs)
        if target is not None:
            result = self._marked(result, target, inputs)
            if name in _UNINITIALIZED:
                for part in tensors_of(result):
                    part.detach().fill_(float("nan") if part.is_floating_point() else -1)
        return result

    def _check_devices(self, name: str, inputs: list[Tensor]) -> int | None:
        """The GPU that the operands of a function are on, None for the CPU."""
        on = [(where(tensor), tensor.dim()) for tensor in inputs]
        gpus = {index for index, _ in on if index is not None}
        if name not in _ACROSS_DEVICES and gpus and (len(gpus) > 1 or any(i is None and dim for i, dim in on)):
            found = ", ".join(_named(index) for index, _ in on)
            raise RuntimeError(f"Expected all tensors to be on the same device, but {name} found them on {found}")
        if name in _ACROSS_DEVICES:
            if name in {"__getitem__", "index_put_"} and on[0][0] is None and gpus:
                raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
            if name in {"copy_", "__setitem__"} and gpus and any(index is None for index, _ in on):
                self.forbid(f"{name} between CPU and GPU")
            return on[0][0] if on else None
        return min(gpus, default=None)

    def _moved(self, name: str, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What `to`, `cuda` and `cpu` give."""
        source, copy = where(tensor), kwargs.pop("copy", False)
        dtype = None
        if name == "to" and args and isinstance(args[0], Tensor):
            target, dtype = where(args[0]), args[0].dtype
        elif name == "to":
            device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
            target = source if device is None else None if device.type == "cpu" else self.number(device)
        else:
            target = None if name == "cpu" else self.number(kwargs.get("device", args[0] if args else None))
        if target != source:
            self.forbid(f"{name} between CPU and GPU")
        moved = tensor.to(tensor.dtype if dtype is None else dtype, copy=copy or target != source)
        if target is not None:
            self._mark(moved, target)
        return moved

    def _marked(self, result: Any, target: int, inputs: list[Tensor]) -> Any:
        """A result on a GPU. One that shares memory with an operand on the CPU is copied."""
        if isinstance(result, Tensor):
            on_cpu = {memory_of(tensor)._cdata for tensor in inputs if where(tensor) is None}
            if memory_of(result)._cdata in on_cpu:
                result = result.clone()
            self._mark(result, target)
            return result
        for part in tensors_of(result):
            self._mark(part, target)
        return result

    def _mark(self, tensor: Tensor, index: int | None) -> None:
        storage = memory_of(tensor)
        if index is not None and getattr(storage, "gpu", None) is None:
            storage.gpu = index
            self.allocated += storage.nbytes()

    # --- backward passes and launches ---

    def _backward(self, index: int | None, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self._local.backward = index
        try:
            return func(*args, **kwargs)
        finally:
            del self._local.backward

    def run_backward(self, run: Callable[..., Any], context: Any, grads: Any) -> Any:
        """The backward of an autograd Function, with this mode on and its gradients on the GPU of the root."""
        index = getattr(self._local, "backward", None)
        for grad in tensors_of(grads):
            self._mark(grad, index)
        with self:
            return run(context, *grads)

    def launch(self, run: Callable[..., None], executor: Any, args: Any, kwargs: Any) -> None:
        """Launch a kernel."""
        with torch._C.DisableTorchFunction(), self._lock:
            for position, part in enumerate((*args, *kwargs.values())):
                for tensor in tensors_of(part):
                    index = where(tensor)
                    if index is None:
                        raise ValueError(f"argument {position} cannot be accessed from Triton (cpu tensor?)")
                    if index != self.current:
                        raise RuntimeError(f"a launch on cuda:{self.current} got memory of cuda:{index}")
            self.launched.append(executor.fn.__name__)
            if not self.is_capturing() or self._is_nested:
                run(executor, *args, **kwargs)
                return
            self.capture.remember(list(tensors_of((args, kwargs))))
            run(executor, *args, **kwargs)
            self.capture.add(lambda: run(executor, *args, **kwargs), None)
