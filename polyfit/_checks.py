"""Checks of what users pass, one of each kind. An error says what was given, what is accepted, what to do."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The dtypes that operands may have.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


# --- names and numbers ---


def check_choice(name: str, value: object, accepted: Collection[object], alternatives: str = "") -> None:
    """Refuse a value that is not among those that are accepted.

    Args:
        name: of the argument.
        value: what was passed.
        accepted: the values to choose from.
        alternatives: what else could be passed, as the end of a sentence.
    """
    try:
        is_known = value in accepted
    except TypeError:  # a value without a hash
        is_known = False
    if not is_known:
        raise ValueError(f"{name}={value!r} is unknown; pass one of {', '.join(map(repr, accepted))}{alternatives}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def plain_number(value: object) -> object:
    """A number of numpy, and an array or a tensor of one real number, as a float; everything else as it is.

    >>> plain_number(torch.tensor(0.5)), plain_number(3), plain_number("3")
    (0.5, 3.0, '3')
    """
    if isinstance(value, Tensor) and value.numel() == 1 and value.dtype != torch.bool and not value.is_complex():
        return float(value.detach())
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "iuf":
        return float(value.reshape(()))
    return float(value) if _is_number(value) else value  # pyright: ignore[reportArgumentType]


def check_number(
    name: str, value: object, least: float = -math.inf, below: float = math.inf, *, is_open: bool = False
) -> None:
    """Refuse what is not a finite number in [least, below), or with is_open in (least, below)."""
    if not _is_number(value):
        raise TypeError(f"{name}={value!r} is not a number; pass a float")
    assert isinstance(value, (int, float))
    if not (math.isfinite(value) and value < below and (value > least if is_open else value >= least)):
        bounds = f" {'above' if is_open else 'from'} {least:g}" if least > -math.inf else ""
        bounds += f" and below {below:g}" if below < math.inf else "" if is_open or not bounds else " on"
        raise ValueError(f"{name}={value!r} is out of range; pass a finite number{bounds}")


def check_limit(name: str, value: object, least: float) -> None:
    """Refuse what is not a number of at least `least`; infinity is accepted, None is no limit."""
    if value is None:
        return
    if not _is_number(value):
        raise TypeError(f"{name}={value!r} is not a number; pass a number, or leave it out")
    assert isinstance(value, (int, float))
    if not value >= least:
        raise ValueError(f"{name}={value!r} is out of range; pass {least:g} or more")


def check_rate(value: object) -> None:
    """Refuse what is not a learning rate: a positive finite number."""
    if not _is_number(value):
        raise TypeError(f"lr={value!r} is not a number; pass a positive float, or a schedule of this module")
    assert isinstance(value, (int, float))
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"lr={value!r} is not a rate to descend with; pass a positive finite number")


def check_count(name: str, value: object, least: int, most: int | None = None) -> int:
    """Refuse what is not an int of at least `least`, and at most `most`; integers of numpy and of torch become ints."""
    is_bool = isinstance(value, (bool, np.bool_)) or (isinstance(value, Tensor) and value.dtype == torch.bool)
    try:
        count = None if is_bool else operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        count = None
    if count is None:
        raise TypeError(f"{name}={value!r} is {type(value).__name__}; pass an int of at least {least}")
    if count < least:
        raise ValueError(f"{name}={count} is too small; pass at least {least}")
    if most is not None and count > most:
        raise ValueError(f"{name}={count} is too large; pass at most {most}")
    return count


def checked_degree(degree: int, name: str = "degree") -> int:
    """A degree as an int."""
    try:
        value = operator.index(degree)
    except TypeError:
        raise TypeError(f"{name}={degree!r} is {type(degree).__name__}; pass an int from 0 on") from None
    if value < 0 or isinstance(degree, bool):
        raise ValueError(f"{name}={degree!r} is not a degree; pass an int from 0 on")
    return value


def checked_ridge(ridge: float) -> float:
    """A penalty as a float."""
    value = float(ridge)
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueError(f"ridge={ridge!r} is not a penalty; pass a finite number from 0 on")
    return value


# --- tensors ---


def check_tensor(name: str, tensor: object) -> None:
    """Refuse what is not a tensor of one of `DTYPES`."""
    if tensor is None:
        raise TypeError(f"{name} is None; pass a torch.Tensor")
    if not isinstance(tensor, Tensor):
        if isinstance(tensor, torch.fx.Proxy):
            raise TypeError(
                f"{name} is of torch.fx.symbolic_trace, which knows neither shapes nor dtypes; use torch.export.export"
                " or torch.compile"
            )
        raise TypeError(f"{name} is {type(tensor).__name__}; pass a torch.Tensor, for example torch.as_tensor({name})")
    if tensor.is_nested:
        raise TypeError(
            f"{name} is a nested tensor; pass one of numbers, for example torch.nested.to_padded_tensor({name}, 0.0),"
            " with a weight of zero for what was added"
        )
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} has the layout {tensor.layout}; pass {name}.to_dense()")
    if tensor.dtype not in DTYPES:
        raise TypeError(
            f"{name} is {tensor.dtype}; polynomials need float16, bfloat16, float32 or float64:"
            f" pass {name}.to(torch.float32) or {name}.double()"
        )


def data_tensor(name: str, value: object) -> Tensor:
    """Data as a floating-point tensor: a tensor, or anything else that numpy.asarray takes.

    Args:
        name: of the argument.
        value: a strided tensor, an array, a list, a column of pandas or polars, a number.

    Returns:
        A tensor of one of `DTYPES`, in the shape of the data. A tensor stays on its device and is returned as it is if
        its dtype is one of these, unless torch negates it lazily. Other data are placed on the CPU, whatever torch's
        default device is, and share their memory with the result where torch can. Integers and booleans become float64.
        The masked elements of a numpy.ma.MaskedArray become NaN.

    Raises:
        TypeError: complex numbers, dates, texts, objects; lists of unequal lengths; a sparse, nested or quantised
            tensor.
    """
    if isinstance(value, Tensor):
        return _tensor_of_data(name, value)
    try:
        masked = isinstance(value, np.ma.MaskedArray)
        array: Any = value if masked else np.asarray(value)
    except Exception as error:  # each library of arrays raises its own
        raise TypeError(
            f"{name} is {type(value).__name__}, which numpy.asarray does not take ({error}); pass a tensor, or numbers"
            " in an array or in a list without gaps, on the CPU"
        ) from error
    kind = array.dtype.kind
    if kind not in "biuf":
        given = f"{name} is {type(value).__name__}" + ("" if kind == "O" else f" of {array.dtype}")
        remedies = {
            "c": f"pass real numbers, for example {name}.real",
            "M": f"pass numbers, for example ({name} - {name}[0]) / numpy.timedelta64(1, 'D') for days",
            "m": f"pass numbers, for example {name} / numpy.timedelta64(1, 's') for seconds",
        }
        remedy = f"pass real numbers, for example numpy.asarray({name}, dtype=float), with NaN for what is missing"
        raise TypeError(f"{given}, which does not hold real numbers; {remedies.get(kind, remedy)}")
    dtype = array.dtype.newbyteorder("=") if kind == "f" and array.dtype.itemsize <= 8 else np.dtype(np.float64)
    if masked:
        return torch.from_numpy(np.ma.filled(array.astype(dtype), np.nan))
    array = array.astype(dtype, copy=False)
    # torch takes neither these strides nor, without a warning, memory that must not be written to.
    is_plain = array.flags.writeable and array.flags.aligned
    if not is_plain or any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


def _tensor_of_data(name: str, tensor: Tensor) -> Tensor:
    """`data_tensor` of a tensor."""
    if type(tensor) is Tensor and tensor.layout == torch.strided and tensor.dtype in DTYPES and not tensor.is_nested:
        return tensor.resolve_neg()  # numpy, and views of another dtype, refuse what torch negates lazily
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized:
        layout = "nested" if tensor.is_nested else "quantised" if tensor.is_quantized else str(tensor.layout)
        remedy = f"{name}.dequantize()" if tensor.is_quantized else f"{name}.to_dense()"
        remedy = f"one tensor of numbers, for example {name}[0]" if tensor.is_nested else remedy
        raise TypeError(f"{name} is a tensor that is {layout}; data are strided tensors of real numbers: pass {remedy}")
    if tensor.is_complex():
        raise TypeError(f"{name} is {tensor.dtype}, which does not hold real numbers; pass {name}.real")
    if not tensor.is_floating_point():
        return tensor.double()
    check_tensor(name, tensor)
    return tensor.resolve_neg()


def data_tensors(named: Mapping[str, object]) -> dict[str, Tensor | None]:
    """Several operands by `data_tensor`, on one device, promoted to one dtype by torch.promote_types; None stays None.

    Raises:
        TypeError: as for `data_tensor`.
        ValueError: devices that differ.
    """
    found = {name: None if value is None else data_tensor(name, value) for name, value in named.items()}
    tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
    first, reference = next(iter(tensors.items()))
    dtype = reference.dtype
    for name, tensor in tensors.items():
        if tensor.device != reference.device:
            raise ValueError(
                f"{name} is on {tensor.device} and {first} is on {reference.device}; they must agree: pass tensors on"
                " one device (arrays and lists are on the CPU)"
            )
        if tensor.dtype != dtype:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return {
        name: tensor if tensor is None or tensor.dtype == dtype else tensor.to(dtype) for name, tensor in found.items()
    }


def check_tensors(named: dict[str, Tensor | None]) -> None:
    """Refuse operands that are not floating-point tensors of one dtype on one device."""
    first, reference = "", None
    for name, tensor in named.items():
        if tensor is None:
            continue
        check_tensor(name, tensor)
        if reference is None:
            first, reference = name, tensor
        elif tensor.dtype != reference.dtype:
            raise TypeError(
                f"{name} is {tensor.dtype} and {first} is {reference.dtype}; they must agree:"
                f" pass {name}.to({first}.dtype), or convert {first}"
            )
        elif tensor.device != reference.device:
            raise ValueError(
                f"{name} is on {tensor.device} and {first} is on {reference.device}; they must agree:"
                f" pass {name}.to({first}.device), or move {first}"
            )


def check_coef(coef: Tensor) -> None:
    """Refuse coefficients without an axis of coefficients, or without any."""
    if coef.dim() == 0 or coef.shape[-1] == 0:
        raise ValueError(
            f"coef has shape {tuple(coef.shape)}; its last axis holds the degree + 1 coefficients, lowest degree first,"
            " and needs at least one: pass coef.reshape(-1), say"
        )


def check_one_series(named: dict[str, Tensor | None]) -> None:
    """Refuse operands that do not all have one shape (N,); the first of them decides N."""
    first, reference = next((name, tensor) for name, tensor in named.items() if tensor is not None)
    for name, tensor in named.items():
        if tensor is not None and (tensor.dim() != 1 or tensor.shape != reference.shape):
            beside = "" if tensor is reference else f" and {first} {tuple(reference.shape)}"
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}{beside}; a fit takes one series, all operands of one shape"
                " (N,)"
            )


def check_finite(named: dict[str, Tensor | None], remedy: str) -> None:
    """Refuse values that are not finite: say how many there are, and where the first is."""
    found = []
    for name, tensor in named.items():
        if tensor is None or not tensor.numel():
            continue
        # Both are NaN if any value is. One pass over the data; `isfinite` and `all` take five.
        if all(map(math.isfinite, torch.stack(torch.aminmax(tensor)).tolist())):
            continue
        is_finite = tensor.isfinite()
        where = is_finite.logical_not().nonzero()[0].tolist()
        count = tensor.numel() - int(is_finite.sum())
        many = "1 value that is" if count == 1 else f"{count} values that are"
        place = ", ".join(map(str, where))
        found.append(f"{name} has {many} not finite, the first is {name}[{place}] = {float(tensor[tuple(where)])}")
    if found:
        raise ValueError("; ".join(found) + f": {remedy}")


def check_weights(weight: Tensor) -> None:
    """Refuse negative weights."""
    is_negative = weight < 0
    if bool(is_negative.any()):
        where = is_negative.nonzero()[0].tolist()
        place = ", ".join(map(str, where))
        raise ValueError(
            f"weight[{place}] is {float(weight[tuple(where)])!r}, and {int(is_negative.sum())} weights are negative;"
            " weights are 1/sigma**2: pass numbers from 0 on"
        )
