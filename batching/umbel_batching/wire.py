"""The wire format of inputs and outputs: MessagePack, with arrays as dtype, shape and bytes.

A value is an array, a number, text, bytes, a list or a dict of values. An array is the MessagePack
extension type 1 holding ``[dtype name, shape, little-endian bytes in C order]``. Nothing that is
decoded is ever executed: there is no pickle, and arrays of Python objects are refused.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from umbel_config.errors import InvalidInput, MalformedPayload

Array = NDArray[Any]

#: MessagePack extension type of an array.
ARRAY_EXT = 1
_INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
_DTYPE_NAMES = ["bool", *_INTEGERS, "float16", "float32", "float64", "complex64", "complex128"]
_DTYPES = {name: np.dtype(name).newbyteorder("<") for name in _DTYPE_NAMES}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_RANK = 32
_EXT32 = struct.Struct(">BIb")
_BIN32 = struct.Struct(">BI")


def encode(value: Any) -> bytes:
    """Encodes a value.

    Args:
        value: an array, or numbers, text, bytes, lists and dicts that may contain arrays.

    Raises:
        InvalidInput: the value holds something else, such as an object or an object-dtype array.
    """
    if type(value) is np.ndarray:
        return _encode_array(value)
    try:
        return _ENCODER.encode(value)
    except InvalidInput:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"This value cannot be sent: {error}") from None


def decode(data: bytes | memoryview) -> Any:
    """Decodes a value; its arrays are writable copies that outlive ``data``.

    Raises:
        MalformedPayload: the bytes are no value in this format.
    """
    layout = _LAYOUTS.get(len(data))
    if layout is not None and data[: len(layout.prefix)] == layout.prefix:
        rows = np.frombuffer(data, dtype=layout.dtype, offset=len(layout.prefix))
        return rows.reshape(layout.shape).copy()
    value = _decode(_COPYING, data)
    if type(value) is np.ndarray and value.nbytes:
        _remember(data, value)
    return value


def decode_views(data: bytes | memoryview) -> Any:
    """Decodes a value; its arrays are read-only views into ``data``, for stacking into a batch.

    Raises:
        MalformedPayload: the bytes are no value in this format.
    """
    return _decode(_VIEWING, data)


def stack(payloads: Sequence[bytes | memoryview]) -> Array | None:
    """Joins payloads that are arrays of one dtype and shape into one batch array, in one memcpy.

    Args:
        payloads: encoded values, at least one.

    Returns:
        A writable array of shape ``[len(payloads), *shape]``, or ``None`` when the payloads are
        not all arrays of the same dtype and shape, or one is malformed; then they must be decoded
        one by one.
    """
    first = payloads[0]
    if first[:1] != _EXT32_HEAD:
        return None
    try:
        sample = decode_views(first)
    except MalformedPayload:
        return None
    if not isinstance(sample, np.ndarray):
        return None
    start, size = len(first) - sample.nbytes, len(first)
    prefix = bytes(first[:start])
    parts = []
    for payload in payloads:
        if len(payload) != size or payload[:start] != prefix:
            return None
        parts.append(memoryview(payload)[start:])
    joined = np.frombuffer(bytearray().join(parts), dtype=sample.dtype)
    return joined.reshape(len(payloads), *sample.shape)


def split(batch: Array) -> list[bytes]:
    """Encodes each row of a batch array by itself; the inverse of ``stack``.

    Args:
        batch: array of shape ``[n, *shape]``.

    Raises:
        InvalidInput: the dtype is not one that can be sent.
    """
    rows = np.ascontiguousarray(batch).astype(_wire_dtype(batch.dtype), copy=False)
    prefix = _prefix(rows.dtype, rows.shape[1:])
    width = rows[:1].nbytes
    data = rows.tobytes()
    return [prefix + data[at : at + width] for at in range(0, width * len(rows), width or 1)] or [
        prefix for _ in range(len(rows))
    ]


def _encode_array(array: Array) -> bytes:
    if array.dtype in _NAMES and array.flags.c_contiguous:
        return _prefix(array.dtype, array.shape) + array.tobytes()
    native = np.ascontiguousarray(array, dtype=_wire_dtype(array.dtype))
    if native.ndim != array.ndim:  # ascontiguousarray makes 0-d arrays 1-d
        native = native.reshape(array.shape)
    return _prefix(native.dtype, native.shape) + native.tobytes()


@lru_cache(maxsize=256)
def _wire_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    try:
        little = dtype.newbyteorder("<")
    except TypeError:  # NumPy's new-style dtypes, such as its strings of variable width
        little = dtype
    if little not in _NAMES:
        raise InvalidInput(
            f"Arrays of dtype {dtype} cannot be sent; use one of {', '.join(_DTYPES)}."
        )
    return little


@lru_cache(maxsize=4096)
def _prefix(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Everything of an encoded array before its bytes: extension head, dtype, shape, length."""
    if not _possible(shape):
        raise InvalidInput(f"Arrays have at most {_MAX_RANK} dimensions of less than 2^31 each.")
    size = dtype.itemsize * math.prod(shape)
    if size >= 2**32 - 2**16:
        raise InvalidInput("Arrays of 4 GiB and more cannot be sent.")
    head = b"\x93" + msgspec.msgpack.encode(_NAMES[dtype]) + msgspec.msgpack.encode(shape)
    inner = head + _BIN32.pack(0xC6, size)
    return _EXT32.pack(0xC9, len(inner) + size, ARRAY_EXT) + inner


def _possible(shape: Sequence[int]) -> bool:
    return len(shape) <= _MAX_RANK and all(0 <= dim < 2**31 for dim in shape)


@dataclass(frozen=True, slots=True)
class _Layout:
    """What stands before the bytes of an encoded array, and what it says of them."""

    prefix: bytes
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


#: Layouts of arrays that were decoded lately, by the length of the whole: the outputs of a model
#: are all alike, and to read their prefix takes four times as long as to find it unchanged.
_LAYOUTS: dict[int, _Layout] = {}
_REMEMBERED = 256


def _remember(data: bytes | memoryview, array: Array) -> None:
    if len(_LAYOUTS) >= _REMEMBERED:
        _LAYOUTS.clear()
    prefix = bytes(data[: len(data) - array.nbytes])
    _LAYOUTS[len(data)] = _Layout(prefix, array.dtype, array.shape)


_EXT32_HEAD = b"\xc9"


def _encode_other(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        encoded = _encode_array(np.asarray(value))
        return msgspec.msgpack.Ext(ARRAY_EXT, encoded[_EXT32.size :])
    raise InvalidInput(
        f"A {type(value).__name__} cannot be sent; send arrays, numbers, text, bytes, "
        "or lists and dicts of them."
    )


class _ArrayBody(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data: memoryview


_BODY = msgspec.msgpack.Decoder(_ArrayBody)


def _view(code: int, data: memoryview) -> Array:
    if code != ARRAY_EXT:
        _malformed(f"unknown extension type {code}")
    body = _BODY.decode(data)
    dtype = _DTYPES.get(body.dtype)
    if dtype is None:
        _malformed(f"unknown dtype {body.dtype[:32]!r}")
    if not _possible(body.shape):
        _malformed("impossible shape")
    if dtype.itemsize * math.prod(body.shape) != len(body.data):
        _malformed(f"{len(body.data)} bytes do not fill shape {body.shape[:8]} of {body.dtype}")
    return np.frombuffer(body.data, dtype=dtype).reshape(body.shape)


def _copy(code: int, data: memoryview) -> Array:
    return _view(code, data).copy()


def _malformed(why: str) -> NoReturn:
    raise MalformedPayload(f"This is no value in umbel's wire format: {why}.")


def _decode(decoder: msgspec.msgpack.Decoder[Any], data: bytes | memoryview) -> Any:
    try:
        return decoder.decode(data)
    except MalformedPayload:
        raise
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        _malformed(str(error))


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encode_other)
_COPYING = msgspec.msgpack.Decoder(ext_hook=_copy)
_VIEWING = msgspec.msgpack.Decoder(ext_hook=_view)
if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("umbel runs on little-endian machines only.")
