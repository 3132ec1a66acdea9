"""Many jobs at once: results as they come, or in order with bounded work in flight."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np

from umbel._job import PUSHED_POLL_S, Job
from umbel._patience import Patience
from umbel._session import Session
from umbel._submission import Submission
from umbel_config.errors import JobError, LaneFull, ResultTimeout, StoreUnavailable

W = TypeVar("W")
#: Rows submitted together, and rows whose results ``map`` waits for at any time.
MAP_CHUNK, MAP_WINDOW = 256, 8192
#: Jobs of another client that ``as_completed`` reads in one look.
LOOKED_AT = 1024


def completed(session: Session, jobs: list[Job], timeout: float | None) -> Iterator[Job]:
    """Yields jobs as they become terminal; see ``Client.as_completed``."""
    end = float("inf") if timeout is None else time.monotonic() + timeout
    inbox, arrived = session.inbox(), SimpleQueue[Job]()
    waiting = {job.id: job for job in jobs}
    ready = [job for job in waiting.values() if not inbox.when_done(job, arrived.put)]
    try:
        while waiting:
            job = ready.pop() if ready else _next(session, arrived, waiting, end)
            if waiting.pop(job.id, None) is not None:
                yield job
    finally:
        for job in waiting.values():
            inbox.no_longer(job, arrived.put)


def turn(waiting: dict[str, W]) -> list[W]:
    """The jobs to read from the store next; they move to the end, so that all have their turn."""
    jobs = list(islice(waiting.items(), LOOKED_AT))
    for job_id, job in jobs:
        del waiting[job_id]
        waiting[job_id] = job
    return [job for _, job in jobs]


def _next(session: Session, arrived: SimpleQueue[Job], waiting: dict[str, Job], end: float) -> Job:
    """The next job that becomes terminal, by push or, when nothing comes for a while, by poll."""
    pause = 0.01  # the jobs may be another client's, whose outcomes are not pushed here
    while True:
        try:
            return arrived.get(timeout=max(0.0, min(pause, end - time.monotonic())))
        except Empty:
            looked_at = turn(waiting)
            outage = session.look(looked_at)
            pause = min(pause * 2, PUSHED_POLL_S)
        if time.monotonic() >= end and arrived.empty():
            raise not_in_time(len(waiting), outage) from outage


def not_in_time(count: int, outage: StoreUnavailable | None = None) -> ResultTimeout:
    """The error for a caller that stops waiting for several jobs.

    Args:
        count: how many.
        outage: why the store could not be asked at the end, if so.
    """
    if outage is not None:
        return ResultTimeout(
            f"{count} jobs were not finished in time as far as is known, and Redis does not "
            f"answer: {outage} The jobs are untouched; ask again once Redis is back."
        )
    return ResultTimeout(
        f"{count} jobs were not finished in time. They go on; wait longer, or look at "
        "`umbel lanes` whether a worker serves them."
    )


def mapped(
    begin: Callable[[Any], Submission],
    rows: Iterable[Any],
    *,
    progress: str | None,
    return_errors: bool,
) -> Iterator[Any]:
    """Yields outputs in the order of the rows; see ``Client.map``.

    Args:
        begin: checks a chunk of rows, which is to be submitted then.
        rows: the inputs.
        progress: title of a progress bar, or ``None`` for none.
        return_errors: whether to yield the error of a job in its place.
    """
    flight, patience = deque[Job](), Patience()
    with bar(progress, rows) as advance:

        def take() -> Any:
            out = _output(flight.popleft(), advance, return_errors=return_errors)
            patience.progress()
            return out

        for chunk in chunks(rows):
            while len(flight) + len(chunk) > MAP_WINDOW:
                yield take()
            part = _Part(begin, chunk)
            while not part.done:
                obstacle = part.go(flight, patience)
                if isinstance(obstacle, StoreUnavailable) and obstacle.retryable and flight:
                    yield take()
                elif obstacle is not None:
                    time.sleep(patience.pause(obstacle))
                while flight and flight[0].outcome is not None:
                    yield take()
        while flight:
            yield take()


class _Part:
    """A chunk of rows on its way, in as many tries as it takes."""

    def __init__(self, begin: Callable[[Any], Submission], rows: Any) -> None:
        self._begin, self._rows = begin, rows
        self._submission: Submission | None = None

    @property
    def done(self) -> bool:
        return self._submission is not None and not self._submission.left

    def go(self, flight: deque[Job], patience: Patience) -> LaneFull | StoreUnavailable | None:
        """Puts into ``flight`` what gets in; returns what hindered the rest."""
        try:
            self._submission = self._submission or self._begin(self._rows)
            self._submission.go()
            obstacle = None
        except (LaneFull, StoreUnavailable) as error:
            obstacle = error
        jobs = self._submission.ready() if self._submission else []
        flight.extend(jobs)
        if jobs:
            patience.progress()
        return obstacle


def chunks(rows: Iterable[Any]) -> Iterator[Any]:
    """Cuts any iterable of rows into pieces of ``MAP_CHUNK``; an array is cut into arrays."""
    if isinstance(rows, np.ndarray) and rows.ndim > 0:
        yield from (rows[at : at + MAP_CHUNK] for at in range(0, len(rows), MAP_CHUNK))
        return
    iterator = iter(rows)
    while chunk := list(islice(iterator, MAP_CHUNK)):
        yield chunk


def _output(job: Job, advance: Callable[[], None], *, return_errors: bool) -> Any:
    try:
        return job.result()
    except JobError as error:
        if return_errors:
            return error
        raise
    finally:
        advance()


def bar(title: str | None, rows: Iterable[Any]) -> AbstractContextManager[Callable[[], None]]:
    """A progress bar over ``rows``, or nothing at all without a title."""
    if title is None:
        return nullcontext(lambda: None)
    from umbel._progress import progress_bar  # noqa: PLC0415  (rich is loaded only when it draws)

    return progress_bar(title, len(rows) if isinstance(rows, Sized) else None)
