"""Running one batch: forward, rows back out, and what was learned about its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from umbel_batching import wire
from umbel_batching.record import Failure
from umbel_registry import LoadedModel, Manifest, Signature
from umbel_registry.figures import NO_CELLS, Cells
from umbel_registry.loading import ArrayModel
from umbel_worker.gather import Gathered, Payload, gather
from umbel_worker.isolate import Isolation, Result, SpoiltBatch


@dataclass(frozen=True, slots=True)
class Computed:
    """What came of a batch.

    Attributes:
        results: one per job, in order.
        ceiling: largest batch found to fit into memory; 0: no news, -1: a full batch fits.
        cells: what its arrays of variable length consisted of, over all forwards.
    """

    results: list[Result]
    ceiling: int = 0
    cells: Cells = NO_CELLS


def compute(model: LoadedModel, payloads: Sequence[Payload], ceiling: int = 0) -> Computed:
    """Runs a model on the payloads of a batch.

    A job that cannot be read fails alone. If the batch raises, it is run again in halves until
    the jobs at fault fail alone and all others have their outputs: O(k log n) forwards for k
    guilty jobs among n. So is a batch that does not fit into memory.

    Args:
        model: loaded and warm.
        payloads: encoded inputs, at least one.
        ceiling: largest batch that is known to fit into memory; 0: none known.
    """
    counted: list[Cells] = []

    def run(start: int, end: int) -> list[Result]:
        # They are read each time: a model may write into its input.
        gathered = gather(model.signature, payloads[start:end])
        counted.append(gathered.cells)
        return _results(model, gathered, end - start)

    search = Isolation(run, f"{model.manifest.name} {model.manifest.version}")
    results = search.solve(0, len(payloads))
    news = _news(search, len(payloads), ceiling, _most(model))
    return Computed(results, news, sum(counted, NO_CELLS))


def _most(model: LoadedModel) -> int:
    """The size of a full batch."""
    known = model.manifest
    policy = known.policy if isinstance(known, Manifest) else known.batching
    return policy.max_batch_size


def _news(search: Isolation, size: int, known: int, most: int) -> int:
    """What a batch of ``size`` tells of the ceiling that was known, and of batches of ``most``."""
    if search.too_large and search.fits:
        return search.fits
    if known and search.fits == size > known:
        return -1 if size >= most else size
    return 0


def _results(model: LoadedModel, gathered: Gathered, count: int) -> list[Result]:
    """One result for each of ``count`` payloads."""
    if not gathered.refused:
        return list(_run(model, gathered))
    results: dict[int, Result] = dict(gathered.refused)
    if gathered.places:
        results.update(zip(gathered.places, _run(model, gathered), strict=True))
    return [results[place] for place in range(count)]


def _run(model: LoadedModel, gathered: Gathered) -> Sequence[Result]:
    if isinstance(model, ArrayModel):
        return _forward(model, gathered)
    rows = gathered.rows if gathered.rows is not None else _rows_of(gathered)
    return [wire.encode(model.signature.validate_output(row)) for row in model.run(rows)]


def _rows_of(gathered: Gathered) -> list[Any]:
    """The rows of a handler that takes arrays, cut from the batch they were joined into."""
    ((_, joined),) = (gathered.batch or {}).items()
    return [joined[place, ...] for place in range(len(joined))]


def _forward(model: ArrayModel, gathered: Gathered) -> list[Result]:
    batch = gathered.batch or {}
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    lengths = _lengths(model.signature, gathered)
    columns = {
        name: _column(model.signature, name, out.cpu().numpy(), lengths)
        for name, out in model.forward(tensors).items()
    }
    encoded = _encoded(columns)
    for name, column in columns.items():
        if not model.signature.outputs[name].allow_nan:
            _refuse_nan(encoded, name, column)
    return encoded


def _column(
    signature: Signature, name: str, array: NDArray[Any], lengths: Sequence[tuple[int, ...]] | None
) -> NDArray[Any] | list[NDArray[Any]]:
    """One output of a batch; rows of a variable output are cut to the length of their input."""
    axes = signature.outputs[name].variable_axes
    if lengths is None or not axes:
        return array
    return [row[_cut(row.ndim, axes, length)] for row, length in zip(array, lengths, strict=True)]


def _cut(rank: int, axes: tuple[int, ...], length: tuple[int, ...]) -> tuple[slice, ...]:
    cut = [slice(None)] * rank
    for axis, extent in zip(axes, length, strict=False):
        cut[axis] = slice(extent)
    return tuple(cut)


def _lengths(signature: Signature, gathered: Gathered) -> list[tuple[int, ...]] | None:
    """Each row's own extents along the axes of the variable input, or ``None`` if all are fixed."""
    name = signature.variable_input
    if name is None or gathered.rows is None:
        return None
    axes = signature.inputs[name].variable_axes
    single = len(signature.inputs) == 1
    arrays = gathered.rows if single else [row[name] for row in gathered.rows]
    return [tuple(array.shape[axis] for axis in axes) for array in arrays]


def _encoded(columns: dict[str, NDArray[Any] | list[NDArray[Any]]]) -> list[Result]:
    if len(columns) == 1:
        (column,) = columns.values()
        if isinstance(column, np.ndarray):
            return list(wire.split(column))
        return [wire.encode(row) for row in column]
    names = list(columns)
    return [
        wire.encode(dict(zip(names, row, strict=True)))
        for row in zip(*columns.values(), strict=True)
    ]


def _refuse_nan(
    results: list[Result], name: str, column: NDArray[Any] | list[NDArray[Any]]
) -> None:
    if isinstance(column, np.ndarray):
        found = np.isnan(column).any(axis=tuple(range(1, column.ndim)))
    else:
        found = np.array([np.isnan(row).any() for row in column])
    if len(found) > 1 and found.all():
        # One bad row spoils all others where a model computes statistics of its batch.
        raise SpoiltBatch(f"All rows of output {name!r} are NaN.")
    for place in np.flatnonzero(found):
        results[place] = Failure(
            "NotANumber", f"The model returned NaN in output {name!r}, which allows none."
        )
