"""From the payloads of a batch to what the model takes, leaving out jobs that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umbel_batching import wire
from umbel_batching.record import Failure
from umbel_config.errors import InvalidInput
from umbel_registry import Signature, collate
from umbel_registry.figures import NO_CELLS, Cells

Payload = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Gathered:
    """The readable jobs of a batch.

    Attributes:
        places: which of the payloads they are, in order.
        batch: arrays ``[n, *shape]`` by argument name for a model of arrays, else ``None``.
        rows: one value per job for a handler; for arrays only where their lengths differ.
        refused: why each of the other payloads was left out, by place.
        cells: what the arrays of variable length consist of.
    """

    places: list[int]
    batch: dict[str, NDArray[Any]] | None
    rows: list[Any] | None
    refused: dict[int, Failure]
    cells: Cells = NO_CELLS


def gather(signature: Signature, payloads: Sequence[Payload]) -> Gathered:
    """Reads the payloads of a batch.

    A batch of equal arrays for a model with one input, the common case, is joined in one memcpy
    without a look at each job. Everything else is read job by job.

    Args:
        signature: of the model.
        payloads: encoded inputs, at least one.
    """
    stacked = _stacked(signature, payloads)
    if stacked is not None:
        return Gathered(list(range(len(payloads))), stacked, None, {})
    rows, places, refused = [], [], {}
    for place, payload in enumerate(payloads):
        try:
            rows.append(signature.validate_input(wire.decode_views(payload)))
            places.append(place)
        except InvalidInput as error:
            refused[place] = Failure(type(error).__name__, str(error))
    arrays = all(spec.is_array for spec in signature.inputs.values())
    batch = collate(signature, rows) if arrays and rows else None
    cells = _cells(signature, rows, batch) if batch else NO_CELLS
    return Gathered(places, batch, rows, refused, cells)


def _cells(signature: Signature, rows: Sequence[Any], batch: Mapping[str, NDArray[Any]]) -> Cells:
    """What was filled up; nothing where all inputs have fixed shapes."""
    single, real, whole = len(signature.inputs) == 1, 0, 0
    for name in signature.variable_inputs:
        real += sum((row if single else row[name]).size for row in rows)
        whole += batch[name].size
    return Cells(real, whole - real)


def _stacked(signature: Signature, payloads: Sequence[Payload]) -> dict[str, NDArray[Any]] | None:
    if len(signature.inputs) != 1:
        return None
    ((name, spec),) = signature.inputs.items()
    if not spec.is_array or spec.variable_axes:
        return None
    joined = wire.stack(payloads)
    if joined is None or joined.shape[1:] != spec.shape or joined.dtype != np.dtype(spec.dtype):
        return None
    if not spec.allow_nan and joined.dtype.kind in "fc" and np.isnan(joined).any():
        return None  # the look at each job finds the one that is to blame
    return {name: joined}
