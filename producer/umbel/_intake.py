"""What of a call has got in: its jobs by lane, in the order of the caller's rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from umbel._way import Target
from umbel_batching.values import NewJob
from umbel_config.errors import IdempotencyConflict, LaneFull, StoreUnavailable

W = TypeVar("W")


@dataclass(slots=True)
class Group:
    """The jobs of one call that go to one lane.

    Attributes:
        target: where they go.
        new: the jobs.
        rows: the places of their rows in the call.
        place: how many of them got in.
    """

    target: Target
    new: Sequence[NewJob]
    rows: Sequence[int]
    place: int = 0

    @property
    def waiting(self) -> Sequence[NewJob]:
        """The jobs that did not get in yet."""
        return self.new[self.place :]


class Intake(Generic[W]):
    """Keeps account of the jobs of one call while they go into one lane or several.

    Args:
        groups: the jobs by lane; together they are all rows of the call.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        count = sum(len(group.new) for group in groups)
        self._jobs: list[W | None] = [None] * count
        self._told = 0
        self._before: set[int] = set()

    @property
    def left(self) -> int:
        """How many jobs did not get in yet."""
        return sum(len(group.new) - group.place for group in self._groups)

    def open(self) -> Iterator[Group]:
        """The groups that still have jobs to bring in."""
        self._before = {row for row, job in enumerate(self._jobs) if job is not None}
        return (group for group in self._groups if group.waiting)

    def note(self, group: Group, jobs: Sequence[W]) -> None:
        """Notes that the next jobs of a group got in."""
        end = group.place + len(jobs)
        for row, job in zip(group.rows[group.place : end], jobs, strict=True):
            self._jobs[row] = job
        group.place = end

    def accepted(self) -> list[W]:
        """The jobs that got in since ``open``, in the order of their rows."""
        return [self._job(row) for row in self._rows()]

    def ready(self) -> list[W]:
        """The jobs that no row before them waits for any more, each told once."""
        first = self._told
        while self._told < len(self._jobs) and self._jobs[self._told] is not None:
            self._told += 1
        return [self._job(row) for row in range(first, self._told)]

    def tell(self, error: IdempotencyConflict | LaneFull | StoreUnavailable) -> None:
        """Writes on an error which jobs got in before it."""
        rows = self._rows()
        error.accepted, error.rows = len(rows), tuple(rows)
        error.jobs = tuple(self._job(row) for row in rows)

    def _rows(self) -> list[int]:
        found = (row for row, job in enumerate(self._jobs) if job is not None)
        return [row for row in found if row not in self._before]

    def _job(self, row: int) -> W:
        job = self._jobs[row]
        if job is None:
            raise AssertionError("only jobs that got in are asked for")
        return job
