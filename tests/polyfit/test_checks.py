"""Checks of what users pass: `polyfit._checks`."""

import warnings
from decimal import Decimal

import numpy as np
import pytest
import torch
from columns import Column

from polyfit import _checks

NUMBERS = [0.5, -2.0, 3.25]


def read_only(values: list[float]) -> np.ndarray:
    array = np.array(values)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor(NUMBERS, dtype=torch.float64),
        NUMBERS,
        tuple(NUMBERS),
        np.array(NUMBERS),
        np.array(NUMBERS[::-1])[::-1],
        np.array(NUMBERS, dtype=">f8"),
        np.array(NUMBERS, dtype=np.longdouble),
        np.array(list(zip(b"abc", NUMBERS, strict=True)), dtype=[("name", "u1"), ("value", "f8")])["value"],
        read_only(NUMBERS),
        Column(NUMBERS),
    ],
    ids=["tensor", "list", "tuple", "array", "reversed", "big-endian", "long", "field", "read-only", "column"],
)
def test_data_become_float64_on_the_cpu(value: object) -> None:
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("error")
        found = _checks.data_tensor("x", value)
    assert (found.dtype, found.device.type, found.tolist()) == (torch.float64, "cpu", NUMBERS)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_numbers_keep_their_dtype_and_memory(dtype: type) -> None:
    array = np.array(NUMBERS, dtype=dtype)
    found = _checks.data_tensor("x", array)
    assert found.dtype == getattr(torch, np.dtype(dtype).name)
    assert found.data_ptr() == array.__array_interface__["data"][0]


@pytest.mark.parametrize(
    "value",
    [
        [0, 1, 2],
        np.arange(3, dtype=np.uint8),
        np.arange(3, dtype=np.uint64),
        torch.arange(3),
        torch.arange(3, dtype=torch.uint8),
    ],
)
def test_integers_become_float64(value: object) -> None:
    found = _checks.data_tensor("x", value)
    assert (found.dtype, found.tolist()) == (torch.float64, [0.0, 1.0, 2.0])


@pytest.mark.parametrize("value", [[False, True], np.array([False, True]), torch.tensor([False, True])])
def test_booleans_become_float64(value: object) -> None:
    found = _checks.data_tensor("x", value)
    assert (found.dtype, found.tolist()) == (torch.float64, [0.0, 1.0])


def test_tensors_are_not_copied() -> None:
    x = torch.ones(3, requires_grad=True)
    assert _checks.data_tensor("x", x) is x


def test_masked_elements_become_nan() -> None:
    found = _checks.data_tensor("x", np.ma.masked_array([1, 2, 3], [False, True, False]))
    assert found.dtype == torch.float64
    assert found.isnan().tolist() == [False, True, False]
    assert found[0] == 1.0
    assert found[2] == 3.0


def test_scalars_have_no_axis() -> None:
    assert _checks.data_tensor("x", 2).shape == ()


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ([1j, 2.0], "pass real numbers, for example x.real"),
        (torch.tensor([1j]), "pass x.real"),
        (np.array(["2026-01-01"], dtype="M8[D]"), "numpy.timedelta64"),
        (np.array([1], dtype="m8[s]"), "numpy.timedelta64"),
        (["1", "2"], "dtype=float"),
        ([1.0, None], "dtype=float"),
        ([Decimal(1)], "dtype=float"),
        (None, "dtype=float"),
        ({1.0, 2.0}, "dtype=float"),
        ([[1.0], [1.0, 2.0]], "without gaps"),
        (torch.eye(2).to_sparse(), "x.to_dense()"),
        (torch.ones(2, dtype=torch.float8_e5m2), "x.double()"),
    ],
)
def test_other_data_are_refused(value: object, remedy: str) -> None:
    with pytest.raises(TypeError, match=r"^x is ") as refusal:
        _checks.data_tensor("x", value)
    assert remedy in str(refusal.value)


def test_nested_tensors_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prototype of torch
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(TypeError, match="x is a tensor that is nested"):
        _checks.data_tensor("x", nested)


@pytest.mark.parametrize("x_dtype", _checks.DTYPES)
@pytest.mark.parametrize("y_dtype", [*_checks.DTYPES, torch.int64])
def test_mixed_dtypes_are_promoted(x_dtype: torch.dtype, y_dtype: torch.dtype) -> None:
    found = _checks.data_tensors({"x": torch.ones(2, dtype=x_dtype), "y": torch.ones(2, dtype=y_dtype), "weight": None})
    floating = torch.float64 if y_dtype == torch.int64 else y_dtype
    assert found["x"] is not None
    assert found["y"] is not None
    assert found["x"].dtype == found["y"].dtype == torch.promote_types(x_dtype, floating)
    assert found["weight"] is None


def test_devices_must_agree() -> None:
    with pytest.raises(ValueError, match="y is on cpu and x is on meta"):
        _checks.data_tensors({"x": torch.ones(2, device="meta"), "y": [1.0, 2.0]})
