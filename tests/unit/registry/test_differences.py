"""Outputs that differ by rounding are the same; all others are told apart, with numbers."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from umbel_registry.differences import Comparer, Difference

NAN, INF = math.nan, math.inf


def worst(left: Any, right: Any, *, coarse: bool = False) -> Difference | None:
    return Comparer(("y",), [left, right], coarse=coarse).worst(left, right)


def floats(*values: float, dtype: str = "float32") -> Any:
    return np.array(values, dtype=dtype)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (floats(100, 1), floats(100.005, 0.995)),  # of the output's scale, not of each value
        (floats(0, 0), floats(5e-7, 0)),
        (floats(NAN, INF, -INF), floats(NAN, INF, -INF)),
        (floats(0.0), floats(-0.0)),
        (floats(100, dtype="float16"), floats(100.5, dtype="float16")),
        (floats(1, dtype="float64"), floats(1.00005, dtype="float64")),
        (floats(1, dtype="complex64"), floats(1.00005, dtype="complex64")),
        (np.array([True, False]), np.array([True, False])),
        (np.array(7), np.array(7)),
        (
            {"label": "cat", "scores": [0.5, 0.25, None], "n": 3, "more": {}},
            {"label": "cat", "scores": [0.500001, 0.25, None], "n": 3, "more": {}},
        ),
        ({"score": 1}, {"score": 1.000001}),
        (b"abc", b"abc"),
        (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)),
    ],
)
def test_rounding_is_no_difference(left: Any, right: Any) -> None:
    assert worst(left, right) is None


@pytest.mark.parametrize(
    ("left", "right", "where", "problem"),
    [
        (floats(100, 1), floats(100.05, 1), "output 'y'", r"differs by 0\.05"),
        (floats(1), floats(NAN), "output 'y'", "is NaN or infinite in one of the two"),
        (floats(INF), floats(-INF), "output 'y'", "is NaN or infinite"),
        (floats(1), floats(1, 1), "output 'y'", r"has shape \[1\] and \[2\]"),
        (np.array([3, 9]), np.array([3, 8]), "output 'y'", "differs by 1$"),
        (np.array(2**60), np.array(2**60 + 1), "output 'y'", "differs by 1$"),
        (np.array([True]), np.array([False]), "output 'y'", "differs by 1$"),
        ("cat", "dog", "output 'y'", "is not the same"),
        (b"cat", "cat", "output 'y'", "is not the same"),
        (
            {"a": [{"b": 1.5}, {"b": 2.5}]},
            {"a": [{"b": 1.5}, {"b": 2.6}]},
            "output 'y'.a[1].b",
            r"differs by 0\.1$",
        ),
        ({"a": 1, "n": 3}, {"a": 1, "n": 4}, "output 'y'.n", "differs by 1$"),
        ({"a": True}, {"a": 1}, "output 'y'.a", "is not the same"),
        ({"a": None}, {"a": 0.0}, "output 'y'.a", "is not the same"),
        ({"a": 1}, {"a": 1, "b": 2}, "output 'y'.b", "is missing in one of the two"),
        ([1.0, 2.0], [1.0], "output 'y'[1]", "is missing"),
        ([], {}, "output 'y'", "is not the same"),
    ],
)
def test_all_else_is(left: Any, right: Any, where: str, problem: str) -> None:
    found = worst(left, right)
    assert found is not None
    assert found.where == where
    assert re.search(problem, found.problem), found.problem


def test_the_largest_difference_of_several_outputs_is_told_with_what_is_allowed() -> None:
    left = {"small": floats(0.5), "large": floats(1000), "count": np.array(5)}
    right = {"small": floats(0.25), "large": floats(1010), "count": np.array(5)}
    found = Comparer(tuple(left), [left, right]).worst(left, right)
    assert found == Difference(
        "output 'small'",
        "differs by 0.25",
        0.5,
        "rounding explains 5e-05 (0.0001 of its largest value)",
    )


def test_the_scale_is_that_of_all_rows() -> None:
    rows = [floats(1), floats(1.01), floats(500)]
    assert Comparer(("y",), rows).worst(rows[0], rows[1]) is None
    assert Comparer(("y",), rows[:2]).worst(rows[0], rows[1]) is not None


def test_half_precision_may_differ_by_more_even_where_its_end_is_stored_as_float32() -> None:
    left, right = floats(1), floats(1.005)
    assert worst(left, right) is not None
    assert worst(left, right, coarse=True) is None
    assert worst(left, floats(1.02), coarse=True) is not None
    assert worst(np.array(1), np.array(2), coarse=True) is not None
