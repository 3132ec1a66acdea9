"""Versions sort as versions."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel_registry.versions import VERSION_PATTERN, in_order, latest, next_version, version_key


@pytest.mark.parametrize(
    "ordered",
    [
        ["9", "10", "11"],
        ["1.9", "1.10", "2"],
        ["2", "2.1", "2.1.1", "3"],
        ["1.0a1", "1.0b1", "1.0rc1", "1.0rc2", "1.0", "1.0-gpu", "1.0.1"],
        ["2024-09-30", "2024-10-01"],
    ],
)
def test_order(ordered: list[str]) -> None:
    shuffled = random.Random(0).sample(ordered, len(ordered))
    assert in_order(shuffled) == ordered
    assert latest(shuffled) == ordered[-1]


def test_latest_of_nothing_is_none() -> None:
    assert latest([]) is None


@pytest.mark.parametrize(
    ("taken", "expected"),
    [([], "1"), (["1", "2"], "3"), (["9", "10"], "11"), (["1.7"], "2"), (["beta"], "1")],
)
def test_next_version_is_the_next_whole_number(taken: list[str], expected: str) -> None:
    assert next_version(taken) == expected


@given(st.lists(st.from_regex(VERSION_PATTERN.removesuffix("$") + r"\Z"), unique=True))
def test_any_names_have_one_order_and_the_next_is_new(versions: list[str]) -> None:
    assert in_order(versions) == in_order(reversed(versions))
    assert len({version_key(version) for version in versions}) == len(versions)
    assert next_version(versions) not in versions


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_whole_numbers_sort_by_value(left: int, right: int) -> None:
    assert (version_key(str(left)) < version_key(str(right))) == (left < right)
