"""What the input of a dead letter consists of, told without its content."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from umbel_batching import wire
from umbel_config.errors import MalformedPayload


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of an input.

    Attributes:
        name: of the model's argument; empty for an input that is one value.
        type: dtype of an array, else the kind of value.
        shape: of an array, or how many entries a list, dict or text has.
        bytes: its encoded size.
    """

    name: str
    type: str
    shape: list[int] | None
    bytes: int


def parts_of(payload: bytes) -> list[Part]:
    """The parts of an encoded input: one, or one for each argument that it names.

    Args:
        payload: as it was submitted; one that cannot be read is told as such.
    """
    try:
        value = wire.decode(payload)
    except MalformedPayload:
        return [Part(name="", type="unreadable", shape=None, bytes=len(payload))]
    # The keys of other dicts are what somebody sent, not names out of a signature.
    if isinstance(value, dict) and any(isinstance(each, np.ndarray) for each in value.values()):
        return [_part(str(name), each, len(wire.encode(each))) for name, each in value.items()]
    return [_part("", value, len(payload))]


def _part(name: str, value: Any, size: int) -> Part:
    if isinstance(value, np.ndarray):
        return Part(name=name, type=str(value.dtype), shape=list(value.shape), bytes=size)
    shape = [len(value)] if isinstance(value, str | bytes | list | dict) else None
    return Part(name=name, type=type(value).__name__, shape=shape, bytes=size)
