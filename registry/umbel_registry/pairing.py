"""Two outputs for the same input, compared: whether they agree, and by how much they differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Floating point numbers agree within this part of the scale of their output.
TOLERANCE = 1e-3
#: Smaller scales count as this one: what is left of a zero after rounding is no difference.
SMALLEST_SCALE = 1e-6

_INEXACT, _NUMBERS = "fc", "fciub"


@dataclass(frozen=True, slots=True)
class Pairing:
    """How the outputs of two versions for one input compare.

    Attributes:
        equal: whether they agree, floating point numbers within ``TOLERANCE``, all else exactly.
        same_top: whether the largest entry has the same place, as for the scores of classes;
            ``None`` where the output is not just one row of floating point numbers.
        difference: the largest one between two numbers, relative to the largest number of their
            output; ``inf`` where there is none to measure: other types, names or shapes, NaN
            against a number, one text against another.
    """

    equal: bool
    same_top: bool | None
    difference: float


_SAME = Pairing(equal=True, same_top=None, difference=0.0)
_UNLIKE = Pairing(equal=False, same_top=None, difference=math.inf)


def pair(first: Any, second: Any) -> Pairing:
    """Compares two decoded outputs; never raises, whatever they are.

    Args:
        first: output of the one version, as ``umbel_batching.wire.decode`` gives it.
        second: output of the other.
    """
    try:
        with np.errstate(all="ignore"):
            return _pair(first, second)
    except Exception:  # noqa: BLE001  (too deep, too large, or an odd ``==``: they are not alike)
        return _UNLIKE


def _pair(first: Any, second: Any) -> Pairing:
    first, second = _as_array(first), _as_array(second)
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return _arrays(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        if first.keys() != second.keys():
            return _UNLIKE
        return _together([_pair(first[name], second[name]) for name in first])
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return _lists(first, second)
    return _SAME if type(first) is type(second) and bool(first == second) else _UNLIKE


def _as_array(value: Any) -> Any:
    """One rule for all numbers, whether in an array or alone."""
    return np.asarray(value) if isinstance(value, bool | int | float | np.generic) else value


def _lists(first: Sequence[Any], second: Sequence[Any]) -> Pairing:
    if len(first) != len(second):
        return _UNLIKE
    types = {type(each) for each in (*first, *second)}
    if float in types and types <= {float, int}:  # scores of a handler, some of them just 0 or 1
        return _arrays(np.asarray(first, np.float64), np.asarray(second, np.float64))
    whole = _together([_pair(*each) for each in zip(first, second, strict=True)])
    return Pairing(whole.equal, None, whole.difference)


def _together(parts: Iterable[Pairing]) -> Pairing:
    """The parts of one output; a top entry is that of the only part that has one."""
    parts = list(parts)
    tops = [part.same_top for part in parts if part.same_top is not None]
    return Pairing(
        equal=all(part.equal for part in parts),
        same_top=tops[0] if len(tops) == 1 else None,
        difference=max((part.difference for part in parts), default=0.0),
    )


def _arrays(first: NDArray[Any], second: NDArray[Any]) -> Pairing:
    kinds = first.dtype.kind, second.dtype.kind
    # Arrays have a declared type; a number of a handler may just happen to be whole.
    alike = kinds[0] == kinds[1] or (first.ndim == 0 and {*kinds} <= set("fiu"))
    if first.shape != second.shape or not alike:
        return _UNLIKE
    if not {*kinds} <= set(_NUMBERS):
        return _SAME if np.array_equal(first, second) else _UNLIKE
    inexact = any(kind in _INEXACT for kind in kinds)
    difference = _difference(first, second)
    equal = difference <= TOLERANCE if inexact else np.array_equal(first, second)
    return Pairing(bool(equal), _same_top(first, second), difference)


def _difference(first: NDArray[Any], second: NDArray[Any]) -> float:
    """The largest difference relative to the largest number; NaN and infinity equal themselves."""
    wide = np.complex128 if first.dtype.kind == "c" else np.float64
    one, other = first.astype(wide), second.astype(wide)
    differing = (one != other) & ~(np.isnan(one) & np.isnan(other))
    if not differing.any():
        return 0.0
    largest = float(np.abs(one - other)[differing].max())
    both = np.abs(np.concatenate([one.ravel(), other.ravel()]))
    scale = float(both[np.isfinite(both)].max(initial=SMALLEST_SCALE))
    return largest / scale if math.isfinite(largest) else math.inf


def _same_top(first: NDArray[Any], second: NDArray[Any]) -> bool | None:
    if first.dtype.kind != "f" or first.ndim != 1 or len(first) < 2:  # noqa: PLR2004
        return None
    return bool(first.argmax() == second.argmax())
