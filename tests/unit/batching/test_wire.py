"""What travels: values in, equal values out, and nothing else either way."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from umbel_batching import wire
from umbel_config.errors import InvalidInput, MalformedPayload

NUMBERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES = ["bool", *NUMBERS, "float16", "float32", "float64", "complex64", "complex128"]
ARRAYS = hnp.arrays(
    st.sampled_from(DTYPES).map(np.dtype), hnp.array_shapes(min_dims=0, min_side=0, max_side=4)
)
PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary()
VALUES = st.recursive(
    PLAIN | st.floats(allow_nan=False) | ARRAYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def same(left: Any, right: Any) -> bool:
    """Equality that looks into arrays; NaN equals NaN."""
    if isinstance(left, np.ndarray):
        return (
            isinstance(right, np.ndarray)
            and (left.dtype, left.shape) == (right.dtype, right.shape)
            and left.tobytes() == right.tobytes()
        )
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return type(left) is type(right) and bool(left == right)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_every_dtype_and_shape_comes_back(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    assert same(wire.decode(wire.encode(array)), array)
    assert same(wire.decode_views(wire.encode(array)), array)


@given(VALUES)
def test_values_come_back(value: Any) -> None:
    assert same(wire.decode(wire.encode(value)), value)


def test_layout_and_byte_order_are_normalised() -> None:
    array = np.arange(12, dtype="int32").reshape(3, 4)
    for variant in (array.astype(">i4"), np.asfortranarray(array)):
        assert wire.encode(variant) == wire.encode(array)
    assert same(wire.decode(wire.encode(array[:, ::2])), np.ascontiguousarray(array[:, ::2]))


def test_aliases_of_a_dtype_are_that_dtype() -> None:
    assert wire.decode(wire.encode(np.arange(2, dtype="longlong"))).dtype == np.dtype("int64")


def test_numpy_scalars_become_arrays_without_dimensions() -> None:
    scalar = wire.decode(wire.encode({"x": np.float32(2.5)}))["x"]
    assert same(scalar, np.array(2.5, "float32"))


def test_decoded_arrays_are_copies_and_views_are_not() -> None:
    data = bytearray(wire.encode(np.zeros(4, "float32")))
    copy, view = wire.decode(bytes(data)), wire.decode_views(memoryview(data).toreadonly())
    data[-4:] = np.float32(7).tobytes()
    copy[0] = 1
    assert copy[3] == 0
    assert view[3] == 7
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1


class _Custom:
    pass


@pytest.mark.parametrize(
    "value",
    [
        _Custom(),
        {"deep": [_Custom()]},
        np.array([_Custom()]),
        np.array(["text"]),
        np.array([b"text"]),
        np.array(["text"], dtype=np.dtypes.StringDType()),
        np.array(["2026-01-01"], dtype="datetime64[s]"),
        np.array([timedelta(1)], dtype="timedelta64[s]"),
        np.zeros(2, dtype=[("a", "int32")]),
        np.zeros(2, dtype="V4"),
        np.zeros(1, dtype="longdouble"),
        np.str_("text"),
        np.zeros((1,) * 33),
        np.zeros((0, 2**31), dtype="int8"),
        2**64,
        "\ud800",
        range(3),
        lambda: None,
    ],
    ids=repr,
)
def test_what_cannot_be_sent_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput):
        wire.encode(value)
    with pytest.raises(InvalidInput):
        wire.encode({"nested": value})


def test_a_value_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidInput):
        wire.encode(value)


def test_arrays_too_large_for_the_format_are_refused() -> None:
    huge = np.broadcast_to(np.zeros(1, "int8"), (2**16, 2**16))
    with pytest.raises(InvalidInput, match="4 GiB"):
        wire._prefix(huge.dtype, huge.shape)


@given(st.binary(max_size=200))
def test_random_bytes_are_a_value_or_malformed(data: bytes) -> None:
    for decode in (wire.decode, wire.decode_views):
        with contextlib.suppress(MalformedPayload):
            decode(data)


@given(VALUES, st.data())
def test_damaged_payloads_are_a_value_or_malformed(value: Any, data: st.DataObject) -> None:
    raw = bytearray(wire.encode(value))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedPayload):
        wire.decode(bytes(raw))


@given(ARRAYS, st.data())
def test_cut_and_prolonged_arrays_are_malformed(array: wire.Array, data: st.DataObject) -> None:
    raw = wire.encode(array)
    cut = data.draw(st.integers(0, len(raw) - 1))
    for damaged in (raw[:cut], raw + b"\x00"):
        with pytest.raises(MalformedPayload):
            wire.decode(damaged)


def _array_ext(*parts: Any) -> bytes:
    body = msgspec.msgpack.encode(parts)
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(wire.ARRAY_EXT, body))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x81\x81\x01\x01\x01",
        b"\x81" + wire.encode(np.zeros(1)) + b"\x01",
        b"\xa2\xff\xff",
        msgspec.msgpack.encode(msgspec.msgpack.Ext(2, b"")),
        msgspec.msgpack.encode(msgspec.msgpack.Ext(wire.ARRAY_EXT, b"\xc1")),
        _array_ext("object", [1], b"\x00" * 8),
        _array_ext("float32", [2], b"\x00" * 4),
        _array_ext("float32", [-1, -1], b"\x00" * 4),
        _array_ext("float32", [2**31, 0], b""),
        _array_ext("float32", [1] * 33, b"\x00" * 4),
        _array_ext("float32", [2**62, 2**62, 2**62], b""),
        _array_ext("float32", [1.5], b"\x00" * 4),
        _array_ext("float32", [1], b"\x00" * 4, "more"),
        _array_ext("float32", [1]),
        _array_ext("float32", "1", b"\x00" * 4),
    ],
)
def test_malformed_payloads_are_refused(raw: bytes) -> None:
    for decode in (wire.decode, wire.decode_views):
        with pytest.raises(MalformedPayload):
            decode(raw)


@given(st.data())
def test_stack_and_split_equal_item_by_item(data: st.DataObject) -> None:
    shape = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)
    batch = data.draw(hnp.arrays(st.sampled_from(DTYPES).map(np.dtype), shape))
    payloads = wire.split(batch)
    assert payloads == [wire.encode(row if batch.ndim > 1 else np.asarray(row)) for row in batch]
    if payloads:
        stacked = wire.stack(payloads)
        assert stacked is not None
        assert same(stacked, batch)


def test_split_takes_any_layout_and_refuses_other_dtypes() -> None:
    batch = np.arange(12, dtype=">f4").reshape(3, 4).T
    assert wire.split(batch) == [wire.encode(row) for row in batch]
    with pytest.raises(InvalidInput):
        wire.split(np.array(["a", "b"]))


def test_stack_gives_one_writable_array() -> None:
    rows = [np.full(3, at, "float32") for at in range(4)]
    stacked = wire.stack([memoryview(wire.encode(row)) for row in rows])
    assert stacked is not None
    stacked += 1
    assert same(stacked, np.stack(rows) + 1)


@pytest.mark.parametrize(
    "other",
    [
        np.zeros(3, "float64"),
        np.zeros(4, "float32"),
        np.zeros((3, 1), "float32"),
        np.zeros(3, "int32"),
        [0.0, 0.0],
        "text",
    ],
    ids=repr,
)
def test_stack_leaves_mixed_payloads_to_the_caller(other: Any) -> None:
    payloads = [wire.encode(np.zeros(3, "float32")), wire.encode(other)]
    assert wire.stack(payloads) is None
    assert wire.stack(payloads[::-1]) is None


@pytest.mark.parametrize("broken", [b"", b"\xc9", b"\xc9\x00\x00\x00\x01\x01\xc1", b"\xc9abcdefg"])
def test_stack_leaves_malformed_payloads_to_the_caller(broken: bytes) -> None:
    good = wire.encode(np.zeros(3, "float32"))
    assert wire.stack([broken, good]) is None
    assert wire.stack([good, broken]) is None
    assert wire.stack([wire.encode(np.zeros(3)) + b"!", good]) is None


def test_arrays_of_one_length_are_told_apart_whatever_was_decoded_before() -> None:
    arrays: list[Any] = [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(6, dtype=np.float32).reshape(3, 2),
        np.arange(12, dtype=np.float16).reshape(3, 4),
    ]
    sent = [wire.encode(array) for array in arrays]
    assert len({len(data) for data in sent}) < len(sent)
    for array, data in [*zip(arrays, sent, strict=True)] * 2:
        first, second = wire.decode(data), wire.decode(memoryview(data))
        first += 1  # each is a copy of its own
        np.testing.assert_array_equal(second, array)
        assert (second.dtype, second.flags.writeable) == (array.dtype, True)
    with pytest.raises(MalformedPayload):
        wire.decode(sent[0][:8].replace(b"float", b"floor") + b"\x00" * (len(sent[0]) - 8))
