"""The plain model of the outbox that its scripts are compared with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import pytest

from umbel_batching.outbox import Entry, Post, Verdict
from umbel_batching.receivers import BREAKS
from umbel_batching.record import State

MAX_ATTEMPTS = 3
#: POSTs to one receiver at the same time, and callbacks in one of them.
MOST_POSTS, PARCEL = 9, 2


@dataclass
class CalledJob:
    """What the model knows of one job; ``fares`` is the state of its delivery."""

    uid: str
    url: str
    state: State = State.QUEUED
    replays: int = 0
    fares: str = ""
    attempts: int = 0
    kept: bool = True


@dataclass
class Receiver:
    """A breaker, and how many POSTs it lets through."""

    limit: int = 8
    failures: int = 0
    open: bool = False

    def judge(self, health: str) -> None:
        if health == "well":
            self.failures, self.limit = 0, min(MOST_POSTS, self.limit + 1)
        elif health == "there":
            self.failures = 0
        elif health == "failing":
            self.failures, self.limit = 0, max(min(MOST_POSTS, 4), self.limit // 2)
        elif health == "busy":
            self.open, self.failures, self.limit = True, 0, max(1, self.limit // 2)
        elif health == "sick":
            self.failures += not self.open
            self.open = self.open or self.failures >= BREAKS
            self.limit = max(1, self.limit // 2)

    @property
    def places(self) -> int:
        trusted = 1 if self.failures >= BREAKS else self.limit
        return 0 if self.open else trusted


@dataclass
class OutboxModel:
    """An outbox of one lane and three URLs, ``a`` and ``m`` of one receiver, ``m`` with parcels.

    Queues hold entries and parcels by name, each with whether it is due.
    """

    slot: str = ""
    marks: dict[str, str] = field(default_factory=dict)
    most: int = MOST_POSTS
    parcel: int = PARCEL
    jobs: dict[str, CalledJob] = field(default_factory=dict)
    queues: dict[str, dict[str, bool]] = field(default_factory=dict)
    parcels: dict[str, tuple[Entry, ...]] = field(default_factory=dict)
    held: dict[tuple[str, str], str] = field(default_factory=dict)
    receivers: dict[str, Receiver] = field(
        default_factory=lambda: {"a": Receiver(), "b": Receiver()}
    )
    undelivered: set[str] = field(default_factory=set)

    def submit(self, uid: str, url: str) -> None:
        self.jobs[uid] = CalledJob(uid, url)

    def entry(self, job: CalledJob) -> str:
        return Entry(self.slot, job.uid, job.replays, self.marks.get(job.url, "")).text

    def of(self, *states: State) -> list[str]:
        return [job.uid for job in self.jobs.values() if job.state in states]

    def end(self, uid: str, state: State) -> None:
        job = self.jobs[uid]
        job.state = state
        if job.url:
            job.fares = "p"
            self.queues.setdefault(job.url, {})[self.entry(job)] = True

    def withdraw(self, job: CalledJob) -> None:
        self.queues.get(job.url, {}).pop(self.entry(job), None)
        self.undelivered.discard(self.entry(job))
        job.fares, job.attempts, job.kept = "", 0, True

    def current(self, entries: Collection[Entry]) -> list[CalledJob]:
        """The jobs among ``entries`` that were not forgotten or replayed since."""
        jobs = [(self.jobs.get(entry.uid), entry.replays) for entry in entries]
        return [job for job, replays in jobs if job is not None and job.replays == replays]

    def receiver(self, url: str) -> Receiver:
        return self.receivers["b" if url == "b" else "a"]

    def report(self, url: str, post: Post, verdict: Verdict, health: str) -> bool:
        """Whether anything is written."""
        holds = self.held.get((url, post.name)) == post.lease_ends
        if holds:
            del self.held[url, post.name]
        waiting = self.queues.get(url, {})
        if post.name not in waiting or not (holds or verdict == "delivered"):
            return False
        for job in self.current(post.entries) if verdict != "gone" else ():
            job.attempts += 1
            job.fares = {"delivered": "d", "again": "p", "dead": "x"}[verdict]
            if verdict == "dead":
                self.undelivered.add(self.entry(job))
        waiting[post.name] = False
        if verdict != "again":
            del waiting[post.name]
            self.parcels.pop(post.name, None)
        self.receiver(url).judge(health)
        return True

    def redeliver(self, uid: str) -> str:
        job = self.jobs.get(uid)
        if job is None:
            return "unknown"
        if not job.state.terminal:
            return "not ended"
        if job.url and job.fares != "p":
            self.withdraw(job)
            job.fares = "p"
            self.queues[job.url][self.entry(job)] = True
        return "" if job.url else "none"

    def owed(self, which: str) -> list[str]:
        """The jobs whose callbacks a receiver is to get."""
        pending = [job for job in self.jobs.values() if job.fares == "p"]
        return [job.uid for job in pending if (job.url == "b") == (which == "b")]

    def posts(self, url: str) -> int:
        """POSTs of a queue that are due."""
        due = [name for name, is_due in self.queues.get(url, {}).items() if is_due]
        parcels = sum(name.startswith("=") for name in due)
        return parcels + -(-(len(due) - parcels) // PARCEL) if url == "m" else len(due)

    def free(self, which: str) -> int:
        under_way = sum((url == "b") == (which == "b") for url, _ in self.held)
        return max(0, self.receivers[which].places - under_way)


@pytest.fixture
def make_outbox_model() -> type[OutboxModel]:
    """Makes models of an outbox."""
    return OutboxModel
