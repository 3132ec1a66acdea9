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
        done: when its result was in hand; NaN without one.
        fates: a ``Fate`` each.
        ids: its id; empty if it was refused.
        versions: the version that ran it, by its record.
        outputs: its result, a row of ``OUTPUTS`` numbers.
    """

    due: NDArray[np.float64]
    done: NDArray[np.float64]
    fates: NDArray[np.int8]
    ids: NDArray[np.bytes_]
    versions: NDArray[np.int16]
    outputs: NDArray[np.float32]

    @classmethod
    def empty(cls, count: int) -> Self:
        """Columns for so many jobs, of which nothing is known."""
        return cls(
            due=np.full(count, np.nan),
            done=np.full(count, np.nan),
            fates=np.full(count, Fate.LOST, np.int8),
            ids=np.zeros(count, "S41"),
            versions=np.zeros(count, np.int16),
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
        return type(self)(**{name: column[:count] for name, column in self._columns().items()})

    def save(self, file: Path) -> None:
        """Writes them to a file."""
        columns: dict[str, Any] = self._columns()
        np.savez(file, **columns)

    @classmethod
    def load(cls, file: Path) -> Self:
        """Reads them from a file."""
        with np.load(file) as found:
            return cls(**{each.name: found[each.name] for each in fields(cls)})

    def _columns(self) -> dict[str, NDArray[Any]]:
        return {each.name: getattr(self, each.name) for each in fields(self)}
