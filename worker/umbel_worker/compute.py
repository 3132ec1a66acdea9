"""Running one batch: forward, rows back out, and the guilty jobs of a failing batch found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from umbel_batching import wire
from umbel_batching.record import Failure
from umbel_registry import LoadedModel, Signature
from umbel_registry.loading import ArrayModel
from umbel_worker.gather import Gathered, Payload, gather

log = logging.getLogger("umbel.worker")

#: What becomes of one job: its encoded output, or why it failed.
Result = bytes | Failure
_LONGEST_MESSAGE = 2_000


def compute(model: LoadedModel, payloads: Sequence[Payload]) -> list[Result]:
    """Runs a model on the payloads of a batch.

    A job that cannot be read fails alone. If the batch raises, it is run again in halves until
    the jobs at fault fail alone and all others have their outputs: O(k log n) forwards for k
    guilty jobs among n.

    Args:
        model: loaded and warm.
        payloads: encoded inputs, at least one.

    Returns:
        One result per payload, in order.
    """
    gathered = gather(model.signature, payloads)
    results: dict[int, Result] = dict(gathered.refused)
    if gathered.places:
        run = _runner(model, payloads, gathered)
        outputs = isolate(run, 0, len(gathered.places))
        results.update(zip(gathered.places, outputs, strict=True))
    return [results[place] for place in range(len(payloads))]


def isolate(run: Callable[[int, int], Sequence[Result]], start: int, end: int) -> list[Result]:
    """Runs the jobs ``start`` to ``end``, in halves where the whole raises.

    Args:
        run: computes a range of jobs; may raise whatever the model raises.
        start: first job.
        end: one past the last job.
    """
    try:
        return list(run(start, end))
    except (Exception, SystemExit) as error:
        if _ends_the_process(error):
            raise
        if end - start == 1:
            log.warning("a job failed in the model: %s", type(error).__name__)
            return [failure_of(error)]
        log.info("a batch of %d raised %s; running halves", end - start, type(error).__name__)
    middle = (start + end) // 2
    return isolate(run, start, middle) + isolate(run, middle, end)


def _ends_the_process(error: BaseException) -> bool:
    """Whether the pool is ending this process: billiard raises it anywhere, with a code below 0."""
    return isinstance(error, SystemExit) and isinstance(error.code, int) and error.code < 0


def failure_of(error: BaseException) -> Failure:
    """The outcome of a job whose computation raised ``error``."""
    try:
        message = str(error)[:_LONGEST_MESSAGE]
    except Exception:  # noqa: BLE001  (a model's error class may be broken too)
        message = "It cannot be shown what it says."
    return Failure(type(error).__name__, message.encode(errors="replace").decode())


def _runner(
    model: LoadedModel, payloads: Sequence[Payload], gathered: Gathered
) -> Callable[[int, int], Sequence[Result]]:
    """What runs a range of the gathered jobs.

    Halves of a batch that raised are read anew: the model may have written into its input.
    """
    readable = [payloads[place] for place in gathered.places]

    def run(start: int, end: int) -> Sequence[Result]:
        whole = end - start == len(readable)
        return _run(model, gathered if whole else gather(model.signature, readable[start:end]))

    return run


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
    for place in np.flatnonzero(found):
        results[place] = Failure(
            "NotANumber", f"The model returned NaN in output {name!r}, which allows none."
        )
