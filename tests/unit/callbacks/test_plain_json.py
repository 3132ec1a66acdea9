"""Outputs as JSON: arrays, bytes, complex numbers and NaN, in both encodings."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from umbel_batching import wire
from umbel_callbacks.plain_json import plain
from umbel_registry.manifest import OutputEncoding

DTYPES = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "complex64", "complex128",
]  # fmt: skip
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


def through_json(value: Any, encoding: OutputEncoding = "list") -> Any:
    """Encoded as a worker does it, then as a callback does, and read by a receiver."""
    text = msgspec.json.encode(plain(wire.decode(wire.encode(value)), encoding))
    return json.loads(text, parse_constant=pytest.fail)


def from_base64(value: dict[str, Any]) -> np.ndarray[Any, Any]:
    dtype = np.dtype(value["dtype"]).newbyteorder("<")
    flat = np.frombuffer(base64.b64decode(value["base64"]), dtype)
    return flat.reshape(value["shape"])


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_base64_keeps_every_bit(dtype: str, data: st.DataObject) -> None:
    array = data.draw(hnp.arrays(dtype, shapes))
    written = through_json(array, "base64")
    assert written.keys() == {"dtype", "shape", "base64"}
    assert written["dtype"] == dtype
    back = from_base64(written)
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", [name for name in DTYPES if not name.startswith("complex")])
@given(data=st.data())
def test_lists_read_back_as_the_same_numbers(dtype: str, data: st.DataObject) -> None:
    # ``from_dtype`` would draw NaN, which a list cannot tell from infinity.
    finite = hnp.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False)
    array = data.draw(hnp.arrays(dtype, shapes, elements=finite))
    back = np.array(through_json(array), dtype)
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@given(data=st.data())
def test_complex_numbers_are_pairs(dtype: str, data: st.DataObject) -> None:
    finite = hnp.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False)
    array = data.draw(hnp.arrays(dtype, shapes, elements=finite))
    pairs = np.array(through_json(array), np.float64)
    assert pairs.shape == (*array.shape, 2) or not array.size
    assert np.array_equal(pairs.reshape(*array.shape, 2), np.stack([array.real, array.imag], -1))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_json_has_no_nan_and_no_infinity(dtype: str) -> None:
    array = np.array([np.nan, 1, np.inf, -np.inf], dtype)
    assert through_json(array) == [None, 1, None, None]
    assert through_json({"score": float("nan"), "at": np.float32("inf")}) == {
        "score": None,
        "at": None,
    }
    assert np.isnan(from_base64(through_json(array, "base64"))[0])


def test_bytes_are_an_object_in_both_encodings() -> None:
    assert through_json(b"\x00\xff") == {"base64": "AP8="}
    assert through_json([b"", {"png": b"\x89"}], "base64") == [
        {"base64": ""},
        {"png": {"base64": "iQ=="}},
    ]
    assert plain(memoryview(b"a")) == plain(bytearray(b"a")) == {"base64": "YQ=="}


def test_outputs_by_name_and_what_lies_in_them() -> None:
    value = {"scores": np.arange(4, dtype=np.int16).reshape(2, 2), "label": "cat", "more": [None]}
    assert through_json(value) == {"scores": [[0, 1], [2, 3]], "label": "cat", "more": [None]}
    assert through_json(value, "base64") == {
        "scores": {"dtype": "int16", "shape": [2, 2], "base64": "AAABAAIAAwA="},
        "label": "cat",
        "more": [None],
    }


@pytest.mark.parametrize("encoding", ["list", "base64"])
def test_numpy_scalars_are_numbers(encoding: OutputEncoding) -> None:
    written = plain([np.float32(0.5), np.int64(3), np.bool_(True), np.complex64(1 + 2j)], encoding)
    assert written == [0.5, 3, True, [1.0, 2.0]]
    assert [type(each) for each in written[:3]] == [float, int, bool]


def test_an_array_without_dimensions_is_a_number_or_an_object() -> None:
    assert through_json(np.float32(1.5)) == 1.5
    assert through_json(np.float32(1.5), "base64") == {
        "dtype": "float32",
        "shape": [],
        "base64": "AADAPw==",
    }


def test_strided_and_big_endian_arrays() -> None:
    array = np.arange(6, dtype=">u2").reshape(2, 3).T
    assert plain(array) == [[0, 3], [1, 4], [2, 5]]
    assert from_base64(plain(array, "base64")).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_keys_that_are_no_text_become_text() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    keys = {1: "a", 2.5: "b", False: "c", None: "d", b"x": "e", (1, "y"): "f", moment: "g"}
    written = json.loads(msgspec.json.encode(plain(keys)))
    assert written == {
        "1": "a", "2.5": "b", "false": "c", "null": "d", "eA==": "e", '[1,"y"]': "f",
        "2026-01-02T00:00:00Z": "g",
    }  # fmt: skip


def test_moments_are_iso_text() -> None:
    assert through_json(datetime(2026, 1, 2, tzinfo=UTC)) == "2026-01-02T00:00:00Z"
