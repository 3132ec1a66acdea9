"""Rows to try a model with: samples, and neighbours that share a batch with them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from umbel_registry.collate import DEFAULT_LENGTH, example_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from umbel_registry.signature import Signature, TensorSpec

#: Lengths of made-up rows: where they differ, the shorter ones are padded.
LENGTHS = (DEFAULT_LENGTH, DEFAULT_LENGTH + 5)
#: Rows of the largest batch. Samples are run alone too: more of them cost a large model seconds.
_MOST_ROWS = 8
#: The dry run has asked for batches of as many already, whatever ``max_batch_size`` says.
_FEWEST_ROWS = 3
_FEWEST_SAMPLES = 2
#: How much larger floats of neighbours are: what is computed over a batch then belongs to them,
#: and float16 still holds what is made of it.
MAGNITUDE = 16
_MUCH_LONGER = 8


@dataclass(frozen=True, slots=True)
class Trial:
    """What a batch-safety check runs.

    Attributes:
        samples: rows whose outputs are compared, at least two.
        neighbours: longer ones where lengths vary, with larger floats.
        likeness: what the neighbours are, in words.
    """

    samples: list[Any]
    neighbours: list[Any]
    likeness: str

    @property
    def copies(self) -> list[Any]:
        """Neighbours that the model surely takes: the samples again, last one first."""
        again = self.samples[::-1]
        return [again[place % len(again)] for place in range(len(self.neighbours))]


def make_trial(signature: Signature, examples: Sequence[Any], max_batch_size: int) -> Trial:
    """Samples and neighbours for a model.

    Args:
        signature: of the model.
        examples: inputs that suit it, as ``validate_input`` returns them; none: they are made up.
        max_batch_size: most rows that will ever share a batch.
    """
    rows = min(_MOST_ROWS, max(_FEWEST_ROWS, max_batch_size))
    count = max(_FEWEST_SAMPLES, rows // 2)
    samples = list(examples[:count]) or _made_up(signature, count)
    while len(samples) < _FEWEST_SAMPLES:
        samples.append(samples[0])
    neighbours = [
        _by_name(signature, samples[place % len(samples)], _larger) for place in range(rows - count)
    ]
    return Trial(samples, neighbours, _likeness(signature))


def padded_rows(signature: Signature, rows: Sequence[Any]) -> list[bool]:
    """Of each row of a batch, whether it is shorter than another one.

    Args:
        signature: of the model.
        rows: the batch.
    """
    extents = [_extents(signature, row) for row in rows]
    longest = tuple(map(max, zip(*extents, strict=True)))
    return [each != longest for each in extents]


def _extents(signature: Signature, row: Any) -> tuple[int, ...]:
    single = len(signature.inputs) == 1
    return tuple(
        (row if single else row[name]).shape[axis]
        for name, spec in signature.inputs.items()
        for axis in spec.variable_axes
    )


def _made_up(signature: Signature, count: int) -> list[Any]:
    samples = []
    for place in range(count):
        row = example_inputs(signature, count, LENGTHS[place % len(LENGTHS)])[place]
        samples.append(_by_name(signature, row, partial(_without_words, place)))
    return samples


def _by_name(signature: Signature, row: Any, change: Callable[[TensorSpec, Any], Any]) -> Any:
    if len(signature.inputs) == 1:
        (spec,) = signature.inputs.values()
        return change(spec, row)
    return {name: change(spec, row[name]) for name, spec in signature.inputs.items()}


def _without_words(count: int, spec: TensorSpec, value: Any) -> Any:
    """Text without its first words, so that no two made-up texts are the same."""
    if spec.is_array:
        return value
    words = value.split()[count:]
    return (b" " if isinstance(value, bytes) else " ").join(words)


def _larger(spec: TensorSpec, value: Any) -> Any:
    if not spec.is_array:
        return value
    for axis in spec.variable_axes:
        start = value.take(range(min(value.shape[axis], _MUCH_LONGER)), axis=axis)
        value = np.concatenate([value, start], axis=axis)
    if value.dtype.kind not in "fc":
        return value
    with np.errstate(over="ignore"):
        return np.asarray(value * value.dtype.type(MAGNITUDE))


def _likeness(signature: Signature) -> str:
    specs = signature.inputs.values()
    longer = "longer rows" if signature.variable_inputs else "other rows"
    larger = any(spec.is_array and np.dtype(spec.dtype).kind in "fc" for spec in specs)
    return f"{longer} with values {MAGNITUDE} times as large" if larger else longer
