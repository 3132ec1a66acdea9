"""How far two outputs of one row lie apart, and how much of that rounding explains."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Array = np.ndarray[Any, Any]

#: What may differ, relative to the largest value of an output. Libraries choose another kernel and
#: order of summation for another batch size: 5e-7 at most in float32 networks of 20 convolutions or
#: 12 transformer layers, more where values cancel. Rows that depend on others move by percents.
ROUNDING = 1e-4
#: Of float16 and bfloat16, whose mantissas hold 10 and 7 bits: one step of the last is up to 8e-3.
COARSE_ROUNDING = 1e-2
#: Outputs below are often what rounding leaves of larger numbers that cancel, as in ``x - x``.
_SMALLEST_SCALE = 1e-2
#: How large a difference counts that no number can tell: text, shapes, NaN on one side.
_NO_NUMBER = 1.0
#: JSON can nest deeply, and its keys can be long.
_LONGEST_PATH = 120


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest difference between two outputs of one row that rounding does not explain.

    Attributes:
        where: ``output 'scores'``, and the place within it for JSON.
        problem: what differs, and by how much.
        relative: how much, as a part of the output's largest value.
        bound: what would have been allowed, in words.
    """

    where: str
    problem: str
    relative: float = _NO_NUMBER
    bound: str = ""


class Comparer:
    """Compares outputs of one model.

    Args:
        names: of its outputs.
        rows: all outputs that will be compared, as ``validate_output`` returns them: what the
            largest value of each output is, they tell.
        coarse: whether the model computes in half precision, whatever its outputs are stored as.
    """

    def __init__(self, names: Sequence[str], rows: Iterable[Any], *, coarse: bool = False) -> None:
        self._names = tuple(names)
        self._coarse = coarse
        self._scales: dict[str, float] = {}
        for row in rows:
            for path, value in self._leaves(row).items():
                kind = _kind(path)
                self._scales[kind] = max(self._scales.get(kind, _SMALLEST_SCALE), _size(value))

    def worst(self, expected: Any, got: Any) -> Difference | None:
        """The largest difference beyond rounding, or ``None``.

        Args:
            expected: one row's outputs.
            got: the same row's outputs another time.
        """
        left, right = self._leaves(expected), self._leaves(got)
        if left.keys() != right.keys():
            path = min(left.keys() ^ right.keys())
            return Difference(path[:_LONGEST_PATH], "is missing in one of the two")
        found = [
            self._compare(path[:_LONGEST_PATH], self._scales[_kind(path)], left[path], right[path])
            for path in left
        ]
        return max(filter(None, found), key=lambda each: each.relative, default=None)

    def _leaves(self, row: Any) -> dict[str, Any]:
        named = {self._names[0]: row} if len(self._names) == 1 else row
        return {
            path: leaf
            for name, value in named.items()
            for path, leaf in _walk(value, f"output {name!r}")
        }

    def _compare(self, where: str, scale: float, left: Any, right: Any) -> Difference | None:
        if not (_is_number(left) and _is_number(right)):
            same = type(left) is type(right) and left == right
            return None if same else Difference(where, "is not the same")
        a, b = np.asarray(left), np.asarray(right)
        if a.shape != b.shape:
            return Difference(where, f"has shape {list(a.shape)} and {list(b.shape)}")
        gap, allowed = _gap(a, b), self._allowed(a, b)
        if gap <= allowed * scale:
            return None
        if math.isinf(gap):
            return Difference(where, "is NaN or infinite in one of the two")
        bound = f"rounding explains {allowed * scale:.2g} ({allowed:g} of its largest value)"
        if not allowed:
            bound = "whole numbers and truth values must be equal"
        return Difference(where, f"differs by {gap:.4g}", gap / scale, bound)

    def _allowed(self, a: Array, b: Array) -> float:
        dtypes = {a.dtype, b.dtype}
        if all(dtype.kind not in "fc" for dtype in dtypes):
            return 0.0
        coarse = self._coarse or np.dtype(np.float16) in dtypes
        return COARSE_ROUNDING if coarse else ROUNDING


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _walk(inner, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for place, inner in enumerate(value):
            yield from _walk(inner, f"{path}[{place}]")
    else:
        yield path, value


def _kind(path: str) -> str:
    """All entries of a list are of one scale."""
    return re.sub(r"\[\d+\]", "[]", path)


def _is_number(value: Any) -> bool:
    return isinstance(value, (np.ndarray, int, float)) and not isinstance(value, bool)


def _wide(array: Array) -> Array:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _size(value: Any) -> float:
    if not _is_number(value):
        return 0.0
    array = np.abs(_wide(np.asarray(value)))
    return float(array[np.isfinite(array)].max(initial=0.0))


def _gap(a: Array, b: Array) -> float:
    """The largest difference; infinite where it is none between two numbers."""
    unlike = ~((a == b) | ((a != a) & (b != b)))  # noqa: PLR0124  (NaN, of any dtype)
    if not unlike.any():
        return 0.0
    with np.errstate(invalid="ignore"):
        gap = float(np.abs(_wide(a) - _wide(b))[unlike].max())
    # Neighbouring integers beyond 2**53 are the same float.
    return math.inf if math.isnan(gap) else gap or 1.0
