"""Checks of the values that are no arrays: text, bytes and JSON, which handlers take."""

from __future__ import annotations

import math
from typing import Any

from umbel_config.errors import InvalidInput

#: Deeper nesting than this is a mistake or an attack, and costs a stack frame per level.
MAX_DEPTH = 64
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1


def check_string(label: str, value: Any) -> str:
    """The text itself, if it is text that UTF-8 can carry.

    Args:
        label: what errors call the value.
        value: what was handed in.

    Raises:
        InvalidInput: it is something else, or holds half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"{label} must be text (str), but is {type(value).__name__}.")
    _utf8(label, value)
    return str(value)


def check_bytes(label: str, value: Any) -> bytes:
    """The bytes, copied out of a buffer where needed.

    Args:
        label: what errors call the value.
        value: ``bytes``, ``bytearray`` or ``memoryview``.

    Raises:
        InvalidInput: it is something else.
    """
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise InvalidInput(f"{label} must be bytes, but is {type(value).__name__}.")
    return bytes(value)


def check_json(label: str, value: Any, *, allow_nan: bool) -> Any:
    """The value itself, if it is made of ``None``, bool, int, float, str, list and dict.

    Args:
        label: what errors call the value.
        value: what was handed in.
        allow_nan: whether floats may be NaN or infinite.

    Raises:
        InvalidInput: something else is in it, it nests too deep, or a number is too large.
    """
    stack = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise InvalidInput(f"{label} nests deeper than {MAX_DEPTH} levels.")
        if type(item) is list:
            stack.extend((part, depth + 1) for part in item)
        elif type(item) is dict:
            _keys(label, item)
            stack.extend((part, depth + 1) for part in item.values())
        else:
            _leaf(label, item, allow_nan=allow_nan)
    return value


def _keys(label: str, item: dict[Any, Any]) -> None:
    for key in item:
        if type(key) is not str:
            raise InvalidInput(f"{label}: the keys of a JSON object are text, not {_type(key)}.")
        _utf8(label, key)


def _leaf(label: str, item: Any, *, allow_nan: bool) -> None:
    if type(item) is str:
        _utf8(label, item)
    elif type(item) is float:
        if not allow_nan and not math.isfinite(item):
            raise InvalidInput(f"{label} holds NaN or infinity, which this model does not accept.")
    elif type(item) is int:
        if not _INT_MIN <= item <= _INT_MAX:
            raise InvalidInput(f"{label} holds an integer of more than 64 bits.")
    elif item is not None and type(item) is not bool:
        raise InvalidInput(
            f"{label} must be JSON (None, bool, int, float, str, list, dict), "
            f"but holds {_type(item)}."
        )


def _utf8(label: str, text: str) -> None:
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{label} holds text that UTF-8 cannot carry.") from None


def _type(value: Any) -> str:
    return type(value).__name__
