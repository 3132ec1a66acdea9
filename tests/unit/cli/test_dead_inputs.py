"""Inputs told without their content."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from umbel_batching import wire
from umbel_cli.dead.inputs import parts_of

FLOATS = np.zeros(4, np.float32)


@pytest.mark.parametrize(
    ("value", "kind", "shape"),
    [
        (np.zeros((2, 3), np.int8), "int8", [2, 3]),
        ("secret", "str", [6]),
        (b"secret", "bytes", [6]),
        ([1, 2], "list", [2]),
        ({"secret": 1}, "dict", [1]),
        (7, "int", None),
        (None, "NoneType", None),
    ],
)
def test_an_input_that_is_one_value(value: Any, kind: str, shape: list[int] | None) -> None:
    payload = wire.encode(value)
    (part,) = parts_of(payload)
    assert (part.name, part.type, part.shape, part.bytes) == ("", kind, shape, len(payload))
    assert "secret" not in repr(part)


def test_arguments_are_told_one_by_one() -> None:
    parts = parts_of(wire.encode({"a": FLOATS, "note": "secret"}))
    assert [(part.name, part.type, part.shape) for part in parts] == [
        ("a", "float32", [4]),
        ("note", "str", [6]),
    ]


def test_what_cannot_be_read_is_said() -> None:
    (part,) = parts_of(b"\xc9junk")
    assert (part.type, part.bytes) == ("unreadable", 5)
