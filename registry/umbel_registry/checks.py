"""Checks of single values against one spec, and of rows against several, built once per model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from umbel_config.errors import InvalidInput
from umbel_registry.convert import from_python, from_readable
from umbel_registry.plain import check_bytes, check_json, check_string

Array = np.ndarray[Any, Any]
Check = Callable[[Any], Any]

#: Kinds of values that are no arrays.
PLAIN_KINDS = frozenset({"string", "bytes", "json"})
_PYTHON = (list, tuple, int, float, complex)


class Spec(Protocol):
    """The part of a ``TensorSpec`` that checking needs."""

    @property
    def dtype(self) -> str:
        """A NumPy dtype name, or ``string``, ``bytes`` or ``json``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of one row; -1 is variable."""

    @property
    def allow_nan(self) -> bool:
        """Whether not-a-number may be sent."""


class PlainCheck:
    """Checks one value that is no array.

    Args:
        name: of the input or output.
        spec: its kind: ``string``, ``bytes`` or ``json``.
        what: ``input`` or ``output``.
    """

    __slots__ = ("allow_nan", "kind", "label", "name")

    def __init__(self, name: str, spec: Spec, what: str) -> None:
        self.name = name
        self.label = f"{what} {name!r}"
        self.kind = spec.dtype
        self.allow_nan = spec.allow_nan

    def convert(self, value: Any) -> Any:
        """The value, if it is of the declared kind."""
        if self.kind == "string":
            return check_string(self.label, value)
        if self.kind == "bytes":
            return check_bytes(self.label, value)
        return check_json(self.label, value, allow_nan=self.allow_nan)


class ArrayCheck:
    """Checks one array against dtype and shape of one row.

    Args:
        name: of the input or output.
        spec: dtype and shape.
        what: ``input`` or ``output``.
    """

    __slots__ = ("allow_nan", "dtype", "label", "name", "shape", "variable")

    def __init__(self, name: str, spec: Spec, what: str = "input") -> None:
        self.name = name
        self.label = f"{what} {name!r}"
        self.dtype = _little_endian(spec.dtype)
        self.shape = tuple(spec.shape)
        self.variable = -1 in self.shape
        self.allow_nan = spec.allow_nan

    def convert(self, value: Any) -> Array:
        """The value as a C-contiguous little-endian array; the same object if it is one."""
        if isinstance(value, _PYTHON) and not isinstance(value, np.generic):
            array = from_python(self.label, value, self.dtype)
        else:
            array = self.exact(from_readable(self.label, value, self.dtype))
        self.fit(array.shape)
        self.refuse_nan(array)
        return array if array.flags.c_contiguous else array.copy(order="C")

    def exact(self, array: Array) -> Array:
        """The array in little-endian byte order; its dtype must be the declared one."""
        if array.dtype == self.dtype:
            return array
        if array.dtype.newbyteorder("<") == self.dtype:
            return array.astype(self.dtype, order="C")
        raise InvalidInput(
            f"{self.label} must have dtype {self.dtype.name}, but has {array.dtype}. "
            f'Convert it first, for example with x.astype("{self.dtype.name}").'
        )

    def fit(self, shape: tuple[int, ...]) -> None:
        """Raises unless ``shape``, of one row, is the declared one."""
        if len(shape) == len(self.shape) and all(
            got == want or (want == -1 and got > 0)
            for got, want in zip(shape, self.shape, strict=True)
        ):
            return
        expected = str(list(self.shape)) + (" (-1: any length from 1)" if self.variable else "")
        raise InvalidInput(
            f"{self.label} must have shape {expected}, but has {list(shape)}. "
            "Send one row, without a batch dimension."
        )

    def refuse_nan(self, array: Array) -> None:
        """Raises if the array holds a NaN that the spec does not allow."""
        if not self.allow_nan and array.dtype.kind in "fc" and np.isnan(array).any():
            raise InvalidInput(f"{self.label} holds NaN, which this model does not accept.")


def _little_endian(dtype: str) -> np.dtype[Any]:
    # By its code, not by newbyteorder(): only so is it the very object that NumPy's arrays have,
    # which the fast path compares by identity.
    return np.dtype(np.dtype(dtype).newbyteorder("<").str)


class RowCheck:
    """Checks one row of a model with one or several named values.

    Args:
        checks: one per name, in declared order.
        what: ``input`` or ``output``.

    Attributes:
        check: takes a row and returns it in its one form; kept apart so that calling it is fast.
        only_array: the check of the one value, if there is one only and it is an array.
    """

    __slots__ = ("_values", "_what", "check", "only_array")

    def __init__(self, checks: list[ArrayCheck | PlainCheck], what: str) -> None:
        self._values = checks
        self._what = what
        first = checks[0]
        self.only_array = first if len(checks) == 1 and isinstance(first, ArrayCheck) else None
        self.check: Check = self._several
        if self.only_array is not None:
            self.check = _fast(self.only_array, self._single)
        elif len(checks) == 1:
            # For JSON a dict is the value itself, whatever its keys.
            plain = isinstance(first, PlainCheck) and first.kind == "json"
            self.check = first.convert if plain else self._single

    def _single(self, value: Any) -> Any:
        only = self._values[0]
        if isinstance(value, Mapping):
            self._names(value)
            value = value[only.name]
        return only.convert(value)

    def _several(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            names = ", ".join(check.name for check in self._values)
            raise InvalidInput(
                f"This model has {len(self._values)} {self._what}s ({names}): give a dict by name, "
                f"not {type(value).__name__}."
            )
        self._names(value)
        return {check.name: check.convert(value[check.name]) for check in self._values}

    def _names(self, value: Mapping[Any, Any]) -> None:
        expected = [check.name for check in self._values]
        missing = [name for name in expected if name not in value]
        extra = [str(name)[:64] for name in value if name not in expected]
        if missing or extra:
            parts = [f"missing: {', '.join(missing)}"] * bool(missing)
            parts += [f"unknown: {', '.join(extra)}"] * bool(extra)
            raise InvalidInput(
                f"The {self._what} names do not fit ({'; '.join(parts)}). "
                f"This model has: {', '.join(expected)}."
            )


def _fast(only: ArrayCheck, thorough: Check) -> Check:
    # On the path of every submit: for the usual array the four tests below are the whole check.
    if only.variable or not only.allow_nan:
        return thorough
    dtype, shape, array = only.dtype, only.shape, np.ndarray

    def check(value: Any) -> Any:
        if (
            type(value) is array
            and value.dtype is dtype
            and value.shape == shape
            and value.flags.c_contiguous
        ):
            return value
        return thorough(value)

    return check


def row_check(specs: Mapping[str, Spec], *, what: str = "input") -> RowCheck:
    """Builds the check of one row from named specs.

    Args:
        specs: by name, in declared order.
        what: ``input`` or ``output``, for the sentences of errors.
    """
    checks = [
        (PlainCheck if spec.dtype in PLAIN_KINDS else ArrayCheck)(name, spec, what)
        for name, spec in specs.items()
    ]
    return RowCheck(checks, what)


def check_rows(check: RowCheck, values: Iterable[Any]) -> list[Any]:
    """Checks many rows; one array is checked as a whole, and its rows come back as views.

    Args:
        check: of one row.
        values: the rows, or one array ``[n, *shape]``.

    Raises:
        InvalidInput: a row does not fit; the sentence names its place, counted from 0.
    """
    only = check.only_array
    if only is not None and isinstance(values, np.ndarray) and values.ndim > 0:
        return _rows_of(only, values)
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InvalidInput(f"Give a list of rows, not one {type(values).__name__}.")
    rows = []
    for place, value in enumerate(values):
        try:
            rows.append(check.check(value))
        except InvalidInput as error:
            raise InvalidInput(f"Row {place}: {error}") from None
    return rows


def _rows_of(only: ArrayCheck, values: Array) -> list[Any]:
    array = only.exact(from_readable(only.label, values, values.dtype))
    only.fit(array.shape[1:])
    only.refuse_nan(array)
    array = np.ascontiguousarray(array)
    if array.ndim == 1:
        return [array[place, ...] for place in range(len(array))]
    return list(array)
