"""What a model takes and gives: dtypes and shapes of one row, checked before a job is queued."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from umbel_registry.checks import PLAIN_KINDS, ArrayCheck, RowCheck, check_rows, row_check

if TYPE_CHECKING:
    from collections.abc import Iterable

ArrayDtype = Literal[
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
]
PlainKind = Literal["string", "bytes", "json"]
Dtype = Literal[ArrayDtype, PlainKind]
#: Names of inputs, outputs and masks are Python identifiers: they become argument names.
FieldName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
Extent = Annotated[int, Field(strict=True, ge=-1)]


class TensorSpec(BaseModel):
    """One input or output of a model, described for one row: without the batch dimension.

    Attributes:
        dtype: a NumPy dtype name, or ``string``, ``bytes`` or ``json`` for values of handlers.
        shape: extents of one row; -1 is a variable length, padded within a batch.
        pad_value: what shorter rows are filled up with, where a length is variable.
        mask: name of an extra boolean argument ``[n, length...]`` that the model receives after
            its declared inputs, true where the row has real data; only with a variable length.
        allow_nan: whether not-a-number may be sent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Dtype
    shape: tuple[Extent, ...] = Field((), max_length=16)
    pad_value: int | float = 0
    mask: FieldName | None = None
    allow_nan: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if 0 in self.shape:
            raise ValueError("an extent is at least 1, or -1 for a variable length")
        if not self.is_array and (self.shape or self.mask or self.pad_value):
            raise ValueError(f"dtype {self.dtype} takes no shape, mask or pad_value")
        if self.mask is not None and not self.variable_axes:
            raise ValueError("mask needs a variable length: a -1 in shape")
        if self.is_array:
            scalar = self.model_copy(update={"shape": ()})
            ArrayCheck("pad_value", scalar, "number").convert(self._pad_number())
        return self

    def _pad_number(self) -> float | bool:
        return bool(self.pad_value) if self.dtype == "bool" else self.pad_value

    @property
    def is_array(self) -> bool:
        """Whether rows are NumPy arrays, not text, bytes or JSON values."""
        return self.dtype not in PLAIN_KINDS

    @property
    def variable_axes(self) -> tuple[int, ...]:
        """The axes of one row whose length varies; axis 0 is the first after the batch."""
        return tuple(axis for axis, extent in enumerate(self.shape) if extent == -1)


class Signature(BaseModel):
    """The named inputs and outputs of a model, in the order in which the model has them.

    A model with one input takes a bare value, one with several a dict by name; outputs likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: dict[FieldName, TensorSpec] = Field(min_length=1)
    outputs: dict[FieldName, TensorSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _masks(self) -> Self:
        masks = [spec.mask for spec in self.inputs.values() if spec.mask is not None]
        if len({*masks, *self.inputs}) != len(masks) + len(self.inputs):
            raise ValueError("each mask needs a name of its own that no input has")
        if any(spec.mask for spec in self.outputs.values()):
            raise ValueError("an output takes no mask")
        return self

    @property
    def arrays_only(self) -> bool:
        """Whether every input and output is an array, as all formats but handlers need."""
        return all(spec.is_array for spec in (*self.inputs.values(), *self.outputs.values()))

    @property
    def variable_inputs(self) -> tuple[str, ...]:
        """The inputs with a variable length: their rows are padded within a batch."""
        return tuple(name for name, spec in self.inputs.items() if spec.variable_axes)

    @property
    def variable_input(self) -> str | None:
        """The input whose length decides which jobs share a batch; ``None`` if all are fixed."""
        return next(iter(self.variable_inputs), None)

    @cached_property
    def _alike(self) -> bool:
        """Whether all inputs have one length: arrays of fixed shapes."""
        return all(spec.is_array and not spec.variable_axes for spec in self.inputs.values())

    def length_of(self, value: Any, encoded: int) -> int | None:
        """How long an input is, so that jobs of like length can share a batch.

        Args:
            value: as :meth:`validate_input` returns it.
            encoded: bytes that it takes in the wire format.

        Returns:
            The product of the variable extents of ``variable_input``; where no array has any, the
            UTF-8 bytes of a text, or the encoded bytes of whatever else a handler takes, all of its
            inputs together; ``None`` for arrays of fixed shapes, which are all alike.
        """
        if self._alike:
            return None
        name = self.variable_input
        if name is not None:
            own = value if len(self.inputs) == 1 else value[name]
            return math.prod([int(own.shape[axis]) for axis in self.inputs[name].variable_axes])
        if isinstance(value, str):
            return len(value) if value.isascii() else len(value.encode())
        return encoded

    @property
    def arguments(self) -> tuple[str, ...]:
        """What the model is called with, in order: the inputs, then their masks."""
        masks = (spec.mask for spec in self.inputs.values())
        return (*self.inputs, *(mask for mask in masks if mask is not None))

    @cached_property
    def _input_check(self) -> RowCheck:
        return row_check(self.inputs)

    @cached_property
    def _output_check(self) -> RowCheck:
        return row_check(self.outputs, what="output")

    def validate_input(self, value: Any) -> Any:
        """Checks one input, before anything is queued, and brings it into its one form.

        Args:
            value: an array, nested lists, text, bytes or a JSON value for a model with one input
                (or a dict of just that name, except for ``json``, where a dict is the value); a
                dict by name for a model with several.

        Returns:
            A C-contiguous little-endian array (the same object where it already is one), text,
            bytes or JSON value; for several inputs a dict of them in declared order.

        Raises:
            InvalidInput: the value does not fit; the sentence names input, expected and got.
        """
        return self._input_check.check(value)

    def validate_rows(self, values: Iterable[Any]) -> list[Any]:
        """Checks many inputs at once; one array ``[n, *shape]`` is checked as a whole.

        Args:
            values: inputs as :meth:`validate_input` takes them; rows of one array come back as
                views of it.

        Raises:
            InvalidInput: a value does not fit; the sentence names its place.
        """
        return check_rows(self._input_check, values)

    def validate_output(self, row: Any) -> Any:
        """Checks one output row, by the rules of :meth:`validate_input`.

        Raises:
            InvalidInput: the row is not what the model says it returns.
        """
        return self._output_check.check(row)
