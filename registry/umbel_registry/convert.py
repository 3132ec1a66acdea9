"""Turns what users hand in (lists, numbers, foreign tensors) into NumPy arrays, or refuses it."""

from __future__ import annotations

from typing import Any

import numpy as np

from umbel_config.errors import InvalidInput

Array = np.ndarray[Any, Any]

#: Python types that each kind of dtype accepts; a bool is no number here.
_ACCEPTED: dict[str, set[type]] = {
    "b": {bool},
    "i": {int, float},
    "u": {int, float},
    "f": {int, float},
    "c": {int, float, complex},
}
#: Beyond this a float no longer tells neighbouring integers apart.
_EXACT_FLOAT = 2**53


def from_readable(label: str, value: Any, dtype: np.dtype[Any]) -> Array:
    """Reads anything with ``__array__`` as an array, without converting its dtype.

    Args:
        label: what errors call the value.
        value: a NumPy array or scalar, a CPU tensor, or any object with ``__array__``.
        dtype: what is expected, for the sentence of the error.

    Raises:
        InvalidInput: the value is no array, or cannot be read as one.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise InvalidInput(f"{label} is a masked array; fill its gaps first with x.filled().")
    if not hasattr(value, "__array__"):
        raise InvalidInput(
            f"{label} must be an array of {dtype.name}, but is {type(value).__name__}."
        )
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidInput(
            f"{label} is a {type(value).__name__} that cannot be read as an array; "
            "for a torch tensor use x.detach().cpu()."
        ) from None


def from_python(label: str, value: Any, dtype: np.dtype[Any]) -> Array:
    """Converts nested lists or a number to an array of ``dtype``.

    Args:
        label: what errors call the value.
        value: a number, or lists of lists of numbers, all rows of one length.
        dtype: what to convert to.

    Raises:
        InvalidInput: rows are ragged, a leaf is no number of the right kind, or is out of range.
    """
    types: set[type] = set()
    shape = _shape_of(label, value, types)
    if any(issubclass(leaf, (np.ndarray, np.generic)) for leaf in types):
        return _of_arrays(label, value, dtype)
    wrong = types - _ACCEPTED[dtype.kind]
    if wrong:
        names = ", ".join(sorted(leaf.__name__ for leaf in wrong))
        raise InvalidInput(f"{label} must hold {dtype.name} values, but holds {names}.")
    try:
        if dtype.kind in "iu":
            return _integers(label, value, dtype, exact=float not in types).reshape(shape)
        return _floats(label, value, dtype).reshape(shape)
    except OverflowError:
        raise _out_of_range(label, dtype) from None


def _shape_of(label: str, value: Any, types: set[type]) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)):
        types.add(type(value))
        return ()
    if not any(isinstance(item, (list, tuple)) for item in value):
        types.update(map(type, value))
        return (len(value),)
    shapes = {_shape_of(label, item, types) for item in value}
    if len(shapes) > 1:
        raise InvalidInput(f"{label} is ragged: its rows differ in length.")
    return (len(value), *shapes.pop())


def _of_arrays(label: str, value: Any, dtype: np.dtype[Any]) -> Array:
    try:
        array = np.array(value)
    except ValueError:
        raise InvalidInput(f"{label} is ragged: its rows differ in length.") from None
    if array.dtype != dtype:
        raise InvalidInput(
            f"{label} must have dtype {dtype.name}, but its parts make {array.dtype}. "
            f'Convert it first, for example with np.array(x, dtype="{dtype.name}").'
        )
    return array


def _integers(label: str, value: Any, dtype: np.dtype[Any], *, exact: bool) -> Array:
    # Through Python objects or float64: NumPy alone would wrap, round or promote some integers.
    wide = np.array(value, dtype=object if exact else np.float64)
    if not wide.size:
        return wide.astype(dtype)
    bounds = np.iinfo(dtype)
    if not exact and not (np.isfinite(wide).all() and (wide == np.trunc(wide)).all()):
        raise InvalidInput(f"{label} must hold whole numbers ({dtype.name}).")
    if not exact and np.abs(wide).max() > _EXACT_FLOAT:
        raise _out_of_range(label, dtype)
    if wide.min() < bounds.min or wide.max() > bounds.max:
        raise _out_of_range(label, dtype)
    return wide.astype(dtype)


def _floats(label: str, value: Any, dtype: np.dtype[Any]) -> Array:
    wide = np.array(value, dtype=np.complex128 if dtype.kind == "c" else np.float64)
    if dtype.kind == "b":
        return wide.astype(dtype)
    with np.errstate(over="ignore"):
        array = wide.astype(dtype)
    if (np.isfinite(wide) & ~np.isfinite(array)).any():
        raise _out_of_range(label, dtype)
    return array


def _out_of_range(label: str, dtype: np.dtype[Any]) -> InvalidInput:
    return InvalidInput(f"{label} holds a number outside the range of {dtype.name}.")
