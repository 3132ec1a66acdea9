"""The inbox of one client: which jobs it waits for, and where their outcomes are delivered."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from threading import Lock
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from umbel._outcome import outcome_in
from umbel_batching.lanes import split_id
from umbel_batching.record import REPLY_WIDTH
from umbel_batching.replies import Outcome, read

#: Records that are read from the store in one call.
READ_TOGETHER = 256


W = TypeVar("W", bound="Waiting")


class Waiting(Protocol):
    """A job as the inbox sees it."""

    id: str
    #: Identity of the store when the job was submitted or asked for; empty if unknown.
    store: str
    #: Where its outcome is pushed to; ``None`` for a job that another client may have submitted.
    inbox: Inbox | None
    outcome: Outcome | None
    #: Called once, with the job, when its outcome is there; ``None`` while nobody waits.
    on_done: list[Callable[[Any], None]] | None


class Inbox:
    """Jobs of one client that have no outcome yet, held weakly: a job nobody keeps is forgotten.

    Attributes:
        reply: id of the client; outcomes arrive on the channel that is named after it.
    """

    def __init__(self) -> None:
        self.reply = secrets.token_hex(REPLY_WIDTH // 2)
        self._lock = Lock()
        self._jobs: WeakValueDictionary[str, Waiting] = WeakValueDictionary()

    def expect(self, jobs: Iterable[W]) -> list[W]:
        """Starts waiting for jobs; to be called before they are submitted.

        Returns:
            The jobs to use: one that is expected already, as it has the same idempotency key,
            stands in for its like.
        """
        expected: WeakValueDictionary[str, Any] = self._jobs
        with self._lock:
            return [expected.setdefault(job.id, job) for job in jobs]

    def forget(self, jobs: Iterable[Waiting]) -> None:
        """Stops waiting for jobs that were not accepted."""
        with self._lock:
            for job in jobs:
                self._drop(job)

    def discard(self, job: Waiting) -> None:
        """Stops waiting for a job that was forgotten, and throws away the outcome it may have."""
        with self._lock:
            self._drop(job)
            job.inbox = job.outcome = None

    def receive(self, message: bytes) -> list[str]:
        """Delivers the outcomes in a message; returns the ids of jobs whose record must be read."""
        outcomes, named = read(message)
        waiting: list[_Waiters] = []
        with self._lock:
            for job_id, outcome in outcomes:
                job = self._jobs.pop(job_id, None)
                if job is not None:
                    job.outcome = outcome
                    waiting.append(_waiters(job))
            wanted = [job_id for job_id in named if job_id in self._jobs]
        _tell(waiting)
        return wanted

    def expected(self) -> list[str]:
        """The ids of all jobs that wait for an outcome."""
        with self._lock:
            return list(self._jobs)

    def deliver(self, job: Waiting, outcome: Outcome) -> None:
        """Delivers one outcome that was read from the store."""
        with self._lock:
            self._jobs.pop(job.id, None)
            job.outcome = job.outcome or outcome
            waiting = _waiters(job)
        _tell([waiting])

    def deliver_to(self, job_id: str, outcome: Outcome) -> None:
        """Delivers one outcome by id, if somebody still holds the job."""
        with self._lock:
            job = self._jobs.get(job_id)
        if job is not None:
            self.deliver(job, outcome)

    def deliver_records(self, slot: str, uids: Sequence[str], records: Sequence[bytes]) -> None:
        """Delivers what is terminal among the records of some jobs of one lane."""
        for uid, raw in zip(uids, records, strict=True):
            outcome = outcome_in(raw) if raw else None
            if outcome is not None:
                self.deliver_to(f"{slot}-{uid}", outcome)

    def _drop(self, job: Waiting) -> None:
        if self._jobs.get(job.id) is job:
            del self._jobs[job.id]

    def when_done(self, job: Waiting, call: Callable[[Any], None]) -> bool:
        """Has ``call`` called with the job once its outcome is there.

        Returns:
            False, without calling, when the outcome is there already.
        """
        with self._lock:
            if job.outcome is not None:
                return False
            if job.on_done is None:
                job.on_done = []
            job.on_done.append(call)
            return True

    def no_longer(self, job: Waiting, call: Callable[[Any], None]) -> None:
        """Takes back ``when_done``."""
        with self._lock:
            if job.on_done is not None and call in job.on_done:
                job.on_done.remove(call)


def by_slot(ids: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Groups jobs into slots and at most ``READ_TOGETHER`` uids, to be read in one call each."""
    for slot, parts in groupby(map(split_id, sorted(ids)), key=itemgetter(0)):
        uids = [uid for _, uid in parts]
        for at in range(0, len(uids), READ_TOGETHER):
            yield slot, uids[at : at + READ_TOGETHER]


_Waiters = tuple[Waiting, Sequence[Callable[[Any], None]]]


def _waiters(job: Waiting) -> _Waiters:
    """Takes the calls that a job's outcome sets off; to be done under the lock of ``no_longer``."""
    calls, job.on_done = job.on_done or (), None
    return job, calls


def _tell(waiting: Iterable[_Waiters]) -> None:
    for job, calls in waiting:
        for call in calls:
            call(job)
