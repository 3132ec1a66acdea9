"""Many jobs at once: results as they come, or in order with bounded work in flight."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np

from umbel._job import PUSHED_POLL_S, Job
from umbel._session import Session
from umbel_batching.values import NewJob
from umbel_config.errors import JobError, LaneFull, ResultTimeout

W = TypeVar("W")
#: Jobs, and bytes of them, that one script call puts into a lane.
BUNDLE, BUNDLE_BYTES = 256, 8 * 2**20
#: Rows submitted together, and rows whose results ``map`` waits for at any time.
MAP_CHUNK, MAP_WINDOW = 256, 8192
#: Jobs of another client that ``as_completed`` reads in one look.
LOOKED_AT = 1024


def bundled(jobs: Sequence[NewJob]) -> Iterator[Sequence[NewJob]]:
    """Cuts jobs into bundles that one script call takes, bounded in number and in bytes.

    Redis does nothing else while it runs a script, and closes connections that send it too much.
    """
    start = size = 0
    for place, job in enumerate(jobs):
        full = place - start == BUNDLE or size + len(job.tail) > BUNDLE_BYTES
        if full and place > start:
            yield jobs[start:place]
            start, size = place, 0
        size += len(job.tail)
    if jobs:
        yield jobs[start:]


def portions(count: int) -> Iterator[int]:
    """Sizes to try in turn where ``count`` jobs at once found no room: half, a quarter, ... one."""
    while count > 1:
        count //= 2
        yield count


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
            session.poll(looked_at)
            pause = min(pause * 2, PUSHED_POLL_S)
        if time.monotonic() >= end and arrived.empty():
            raise not_in_time(len(waiting))


def not_in_time(count: int) -> ResultTimeout:
    """The error for a caller that stops waiting for several jobs."""
    return ResultTimeout(
        f"{count} jobs were not finished in time. They go on; wait longer, or look at "
        "`umbel lanes` whether a worker serves them."
    )


def mapped(
    submit: Callable[[Any], list[Job]],
    rows: Iterable[Any],
    *,
    progress: str | None,
    return_errors: bool,
) -> Iterator[Any]:
    """Yields outputs in the order of the rows; see ``Client.map``.

    Args:
        submit: queues a chunk of rows.
        rows: the inputs.
        progress: title of a progress bar, or ``None`` for none.
        return_errors: whether to yield the error of a job in its place.
    """
    flight: deque[Job] = deque()
    with bar(progress, rows) as advance:
        for chunk in chunks(rows):
            while len(flight) + len(chunk) > MAP_WINDOW:
                yield _output(flight.popleft(), advance, return_errors=return_errors)
            for batch in _patiently(submit, chunk):
                flight.extend(batch)
            while flight and flight[0].outcome is not None:
                yield _output(flight.popleft(), advance, return_errors=return_errors)
        while flight:
            yield _output(flight.popleft(), advance, return_errors=return_errors)


def chunks(rows: Iterable[Any]) -> Iterator[Any]:
    """Cuts any iterable of rows into pieces of ``MAP_CHUNK``; an array is cut into arrays."""
    if isinstance(rows, np.ndarray) and rows.ndim > 0:
        yield from (rows[at : at + MAP_CHUNK] for at in range(0, len(rows), MAP_CHUNK))
        return
    iterator = iter(rows)
    while chunk := list(islice(iterator, MAP_CHUNK)):
        yield chunk


def _patiently(submit: Callable[[Any], list[Job]], chunk: Any) -> Iterator[list[Job]]:
    """Submits a chunk, waiting for room when the lane is full."""
    while True:
        try:
            yield submit(chunk)
        except LaneFull as error:
            yield list(error.jobs)
            chunk = chunk[error.accepted :]
            time.sleep(error.retry_after)
        else:
            return


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
