"""All jobs of a run: when each was due, what became of it and which version answered."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

OUTPUTS = 10


class Fate(IntEnum):
    """What became of a job."""

    ANSWERED = 0
    FAILED = 1
    REFUSED = 2
    LOST = 3


@dataclass(frozen=True, slots=True)
class Jobs:
    """Columns of a table with one row for each job.

    Attributes:
        due: when it was to be submitted, in seconds of the monotonic clock.
        accepted: when it was in its lane.
        done: when its result was in hand; NaN without one.
        fates: a ``Fate`` each.
        ids: its id; empty if it was refused.
        versions: the version that ran it, by its record.
        compute_ms: milliseconds of its forward.
        batch_sizes: jobs of that forward.
        outputs: its result, a row of ``OUTPUTS`` numbers.
    """

    due: NDArray[np.float64]
    accepted: NDArray[np.float64]
    done: NDArray[np.float64]
    fates: NDArray[np.int8]
    ids: NDArray[np.bytes_]
    versions: NDArray[np.int16]
    compute_ms: NDArray[np.float64]
    batch_sizes: NDArray[np.int32]
    outputs: NDArray[np.float32]

    @classmethod
    def empty(cls, count: int) -> Self:
        """Columns for so many jobs, of which nothing is known."""
        unknown = {name: np.full(count, np.nan) for name in ("due", "accepted", "done")}
        return cls(
            **unknown,
            fates=np.full(count, Fate.LOST, np.int8),
            ids=np.zeros(count, "S41"),
            versions=np.zeros(count, np.int16),
            compute_ms=np.full(count, np.nan),
            batch_sizes=np.zeros(count, np.int32),
            outputs=np.full((count, OUTPUTS), np.nan, np.float32),
        )

    def __len__(self) -> int:
        return len(self.due)

    @property
    def latency_ms(self) -> NDArray[np.float64]:
        """From when each was due until its result was in hand; NaN without one."""
        latency: NDArray[np.float64] = (self.done - self.due) * 1000
        return latency

    def first(self, count: int) -> Self:
        """The first ``count`` of them."""
        return self._with({name: column[:count] for name, column in self._columns().items()})

    def save(self, file: Path) -> None:
        """Writes them to a file."""
        np.savez(file, **self._columns())

    @classmethod
    def load(cls, file: Path) -> Self:
        """Reads them from a file."""
        with np.load(file) as found:
            return cls(**{each.name: found[each.name] for each in fields(cls)})

    def _columns(self) -> dict[str, NDArray[Any]]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def _with(cls, columns: dict[str, NDArray[Any]]) -> Self:
        return cls(**columns)
