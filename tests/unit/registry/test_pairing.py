"""Two outputs for one input: what agrees, what does not, and that nothing ever raises."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some

from umbel_batching import wire
from umbel_config.errors import InvalidInput
from umbel_registry.pairing import Pairing, pair

NAN = math.nan
#: Stands in for a number inside a value that is compared.
about: Any = pytest.approx
ROW = np.array([0.1, 0.7, 0.2], np.float32)


def test_the_same_arrays_agree_with_a_top() -> None:
    assert pair(ROW, ROW.copy()) == Pairing(equal=True, same_top=True, difference=0.0)


def test_a_difference_is_relative_to_the_largest_number() -> None:
    found = pair(np.array([100.0, 1.0]), np.array([100.0, 1.05]))
    assert found == Pairing(equal=True, same_top=True, difference=about(5e-4))
    found = pair(np.array([100.0, 1.0]), np.array([100.0, 2.0]))
    assert found == Pairing(equal=False, same_top=True, difference=about(1e-2))
    assert not pair(ROW, ROW[::-1].copy() + ROW).equal


def test_another_top() -> None:
    found = pair(np.array([0.5, 0.4999]), np.array([0.4999, 0.5]))
    assert found.equal
    assert found.same_top is False


def test_what_is_left_of_a_zero_after_rounding_is_no_difference() -> None:
    assert pair(np.zeros(3), np.full(3, 1e-12)).equal
    assert not pair(np.zeros(3), np.full(3, 1e-5)).equal


@pytest.mark.parametrize(
    ("first", "second", "equal", "difference"),
    [
        (np.array([1, 2]), np.array([1, 2]), True, 0.0),
        (np.array([1, 1000]), np.array([1, 999]), False, 1e-3),  # whole numbers are exact
        (np.array([True, False]), np.array([True, True]), False, 1.0),
        (np.array([1 + 1j]), np.array([1 + 1.0001j]), True, 7.07e-5),
        (np.array(3.0), np.array(3.0), True, 0.0),
        (np.zeros((0, 3)), np.zeros((0, 3)), True, 0.0),
        (np.array([1, NAN]), np.array([1, NAN]), True, 0.0),
        (np.array([1, NAN]), np.array([NAN, 1]), False, math.inf),
        (np.array([math.inf, 1.0]), np.array([math.inf, 1.0]), True, 0.0),
        (np.array([math.inf, 1.0]), np.array([-math.inf, 1.0]), False, math.inf),
        (np.float16(60_000) * np.ones(2), -np.float16(60_000) * np.ones(2), False, 2.0),
        (np.array([2**63 - 1]), np.array([2**63 - 2]), False, 0.0),  # below what floats can tell
    ],
)
def test_arrays(first: Any, second: Any, equal: bool, difference: float) -> None:
    found = pair(first, second)
    assert found.equal is equal
    assert found.difference == pytest.approx(difference, rel=1e-2)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ROW, ROW[:2]),
        (ROW, ROW.reshape(1, 3)),
        (ROW, np.array([0, 1, 0])),
        (ROW, {"y": ROW}),
        ({"a": ROW}, {"b": ROW}),
        (ROW, None),
        (ROW, "0.1"),
        ([1, 2], [1, 2, 3]),
        ([1, 2], (ROW, ROW)),
        ("cat", "dog"),
        (b"cat", "cat"),
        (True, 1),
        (None, 0),
    ],
)
def test_what_cannot_be_measured_is_unlike(first: Any, second: Any) -> None:
    for found in (pair(first, second), pair(second, first)):
        assert not found.equal
        assert found.difference == math.inf


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        (None, None, True),
        ("cat", "cat", True),
        (1, 1, True),
        (1000, 1001, False),
        (1.0, 1.0005, True),
        (1, 1.0005, True),  # a number that happens to be whole
        (NAN, NAN, True),
        (True, False, False),
        ({"label": "cat", "score": 0.9}, {"label": "cat", "score": 0.9001}, True),
        ({"label": "cat", "score": 0.9}, {"label": "dog", "score": 0.9}, False),
        ([{"box": [1, 2.5]}, "x"], [{"box": [1.001, 2.5]}, "x"], True),
        ([], [], True),
        ({}, {}, True),
    ],
)
def test_values_of_handlers(first: Any, second: Any, equal: bool) -> None:
    found = pair(first, second)
    assert found.equal is equal
    assert found.same_top is None


def test_the_only_row_of_numbers_has_the_top() -> None:
    one, other = {"scores": ROW, "best": np.array(1)}, {"scores": ROW[::-1], "best": np.array(1)}
    assert pair(one, other).same_top is True
    assert pair(
        {"scores": [0.1, 0.9], "label": "a"}, {"scores": [1, 0.0], "label": "a"}
    ) == Pairing(equal=False, same_top=False, difference=about(0.9))
    two = {"left": ROW, "right": ROW}
    assert pair(two, two).same_top is None
    assert pair(np.array([0.5]), np.array([0.5])).same_top is None
    assert pair(np.array([1, 2]), np.array([1, 2])).same_top is None


def test_the_worst_part_of_an_output_is_told() -> None:
    found = pair({"a": ROW, "b": np.ones(2)}, {"a": ROW, "b": np.array([1.0, 0.5])})
    assert (found.equal, found.difference) == (False, 0.5)


class Odd:
    """Not even its comparison works."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    __hash__ = object.__hash__


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value", [Odd(), nested(100_000), 10**400, [1.0, 10**400], np.array(["a"]), np.array([None])]
)
def test_odd_values_do_not_raise(value: Any) -> None:
    for other in (value, 1.0, ROW, None):
        assert isinstance(pair(value, other), Pairing)
        assert isinstance(pair(other, value), Pairing)


arrays = some.arrays(
    st.sampled_from([*map(np.dtype, ("bool", "int64", "uint8", "f2", "f4", "f8", "c16"))]),
    some.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | arrays
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)


@given(values, values)
def test_pairing_never_raises_and_has_no_sides(first: Any, second: Any) -> None:
    found = pair(first, second)
    assert found == pair(second, first)
    assert found.difference >= 0
    assert found.equal <= (found.difference <= 1e-3)


@given(values)
def test_every_value_agrees_with_itself(value: Any) -> None:
    found = pair(value, value)
    assert (found.equal, found.difference) == (True, 0.0)


@given(values.filter(lambda value: not isinstance(value, int) or abs(value) < 2**63))
def test_what_was_sent_agrees_with_what_arrives(value: Any) -> None:
    try:
        sent = wire.encode(value)
    except InvalidInput:
        return  # a number too large inside a list
    assert pair(wire.decode(sent), wire.decode(sent)).equal
