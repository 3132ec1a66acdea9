"""Many rows into one batch and back to made-up rows: stacking, padding, masks, examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from umbel_registry.signature import Signature, TensorSpec

Array = np.ndarray[Any, Any]

#: Rows with two lengths each, where the caller names none.
DEFAULT_LENGTH = 8
_EXAMPLE_TEXT = "The quick brown fox jumps over the lazy dog."


def collate(signature: Signature, rows: Sequence[Any]) -> dict[str, Array]:
    """Stacks rows of arrays into a batch; shorter rows are padded, masks tell where.

    Args:
        signature: of the model; all inputs are arrays.
        rows: as ``validate_input`` returns them, at least one.

    Returns:
        Arrays ``[n, *shape]`` by name, in the order of ``signature.arguments``.
    """
    batch: dict[str, Array] = {}
    masks: dict[str, Array] = {}
    single = len(signature.inputs) == 1
    for name, spec in signature.inputs.items():
        values = list(rows) if single else [row[name] for row in rows]
        if not spec.variable_axes:
            batch[name] = np.stack(values)
            continue
        batch[name] = _pad(spec, values)
        if spec.mask is not None:
            masks[spec.mask] = _mask(spec, values, batch[name].shape)
    return batch | masks


def _pad(spec: TensorSpec, values: list[Array]) -> Array:
    shape = tuple(max(extents) for extents in zip(*(value.shape for value in values), strict=True))
    if all(value.shape == shape for value in values):
        return np.stack(values)
    padded = np.full((len(values), *shape), spec.pad_value, dtype=values[0].dtype)
    for place, value in enumerate(values):
        region: tuple[int | slice, ...] = (place, *(slice(extent) for extent in value.shape))
        padded[region] = value
    return padded


def _mask(spec: TensorSpec, values: list[Array], shape: tuple[int, ...]) -> Array:
    axes = spec.variable_axes
    mask = np.zeros((len(values), *(shape[axis + 1] for axis in axes)), dtype=np.bool_)
    for place, value in enumerate(values):
        region: tuple[int | slice, ...] = (place, *(slice(value.shape[axis]) for axis in axes))
        mask[region] = True
    return mask


def cut_back(signature: Signature, row: Any, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """One row's outputs of a padded batch, those of variable length as long as the row's input.

    Args:
        signature: of the model.
        row: the input, as ``validate_input`` returns it.
        outputs: of this row, by name.
    """
    name = signature.variable_input
    if name is None:
        return dict(outputs)
    own = row if len(signature.inputs) == 1 else row[name]
    extents = [own.shape[axis] for axis in signature.inputs[name].variable_axes]
    return {
        output: value[_region(value.ndim, signature.outputs[output].variable_axes, extents)]
        for output, value in outputs.items()
    }


def _region(rank: int, axes: Sequence[int], extents: Sequence[int]) -> tuple[slice, ...]:
    region = [slice(None)] * rank
    for axis, extent in zip(axes, extents, strict=False):  # as many as both have
        region[axis] = slice(extent)
    return tuple(region)


def example_inputs(
    signature: Signature, n: int, lengths: int | Mapping[str, int] = DEFAULT_LENGTH
) -> list[Any]:
    """Rows with valid dtypes and shapes, always the same ones, to try or warm up a model.

    Integers are 0 and 1, which every vocabulary has; floats are normally distributed.

    Args:
        signature: what the rows must fit.
        n: how many rows.
        lengths: extent of variable axes, one for all inputs or by name.
    """
    rng = np.random.default_rng(n)

    def row() -> dict[str, Any]:
        return {
            name: _value(spec, rng, lengths if isinstance(lengths, int) else lengths[name])
            for name, spec in signature.inputs.items()
        }

    rows = [row() for _ in range(n)]
    single = len(signature.inputs) == 1
    return [next(iter(row.values())) if single else row for row in rows]


def _value(spec: TensorSpec, rng: np.random.Generator, length: int) -> Any:
    plain = {"string": _EXAMPLE_TEXT, "bytes": _EXAMPLE_TEXT.encode(), "json": _EXAMPLE_TEXT}
    if spec.dtype in plain:
        return plain[spec.dtype]
    shape = tuple(length if extent == -1 else extent for extent in spec.shape)
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "biu":
        return np.asarray(rng.integers(0, 2, size=shape)).astype(dtype)
    return np.asarray(rng.standard_normal(size=shape)).astype(dtype)
