"""A lane on a real Redis, a worker without a model, and flushers in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import redis

from umbel_batching.calls import Calls
from umbel_batching.flusher import Drain, Flusher
from umbel_batching.keys import lane_keys, shared_keys
from umbel_batching.lanes import Lane, keyed_uid, new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import (
    NO_REPLY,
    Failure,
    Priority,
    Record,
    State,
    parse,
    settled,
    tail,
)
from umbel_batching.scripts import Runner
from umbel_batching.values import Claimed, NewJob, Reaped, Settlement
from umbel_config.connect import connect

HOUR_MS = 3_600_000


class Station:
    """One lane, and the verbs of its producers and workers."""

    def __init__(self, url: str, namespace: str, policy: BatchPolicy, model: str) -> None:
        self.url, self.namespace = url, namespace
        # redis-py's types offer every reply as text, bytes or awaitable; these are bytes.
        self.client: Any = connect(url)
        self.calls, self.runner = Calls(namespace), Runner(self.client)
        self.lane = Lane(model=model, version="1", policy=policy)
        self.slot = self.lane.slot
        self.keys, self.shared = lane_keys(namespace, self.slot), shared_keys(namespace)

    def submit(
        self,
        count: int = 1,
        *,
        payload: bytes = b"payload",
        timeout_ms: int = 0,
        meta: bytes = b"",
        reply: str = NO_REPLY,
        priority: Priority = Priority.NORMAL,
    ) -> list[str]:
        text = tail(reply, meta, priority) + payload
        jobs = [NewJob(new_uid(), text, timeout_ms) for _ in range(count)]
        self.runner.run(self.calls.submit(self.lane, jobs))
        return [job.uid for job in jobs]

    def submit_keyed(self, key: str, *, payload: bytes = b"payload") -> str:
        """Submits a job with an idempotency key; returns its uid."""
        uid = keyed_uid("digits", key)
        job = NewJob(uid, tail(NO_REPLY, b"") + payload, 0, "f" * 32)
        self.runner.run(self.calls.submit(self.lane, [job]))
        return uid

    def claim(
        self, token: str = "drain", *, batch: str | None = None, lease_ms: int = 60_000
    ) -> Claimed:
        call = self.calls.claim(
            self.slot, batch=batch or new_uid(), token=token, worker="w", lease_ms=lease_ms
        )
        return self.runner.run(call)

    def settle(
        self, claimed: Claimed, *, body: bytes = b"done", failing: Collection[str] = ()
    ) -> bool:
        states = [State.FAILED if uid in failing else State.SUCCEEDED for uid in claimed.uids]
        failure = msgspec.msgpack.encode(Failure("ValueError", "bad row"))
        records = [
            settled(raw, state, failure if state is State.FAILED else body)
            for raw, state in zip(claimed.records, states, strict=True)
        ]
        succeeded = states.count(State.SUCCEEDED)
        outcome = Settlement(claimed.uids, records, succeeded, {}, 10)
        return self.runner.run(self.calls.settle(self.slot, claimed.batch, outcome))

    def lose(self, claimed: Claimed, *, max_attempts: int = 3) -> Reaped:
        """Lets the lease of a batch run out, and reaps it."""
        self.client.zadd(self.keys.leases, {claimed.batch: 1})
        call = self.calls.reap(self.slot, limit=10, max_attempts=max_attempts)
        return self.runner.run(call)

    def cancel(self, uid: str) -> tuple[bool, State | None]:
        return self.runner.run(self.calls.cancel(self.slot, uid))

    def hand_back(self, token: str = "drain") -> int:
        return self.runner.run(self.calls.hand_back(self.slot, token))

    def record(self, uid: str) -> Record:
        return parse(self.client.get(self.keys.job + uid))

    def waiting(self) -> list[str]:
        return [uid.decode() for uid in self.client.zrange(self.keys.waiting, 0, -1)]

    def drain(self, token: str = "drain") -> list[Claimed]:
        """Runs batches until the lane is empty."""
        batches = []
        while (claimed := self.claim(token)).uids or claimed.left:
            assert self.settle(claimed)
            batches.append(claimed)
        return batches

    def announce(self, slots: int) -> None:
        call = self.calls.announce("umbel", "w", slots=slots, stale_ms=60_000)
        self.runner.run(call)

    def states(self, uids: list[str]) -> list[State | None]:
        return self.runner.run(self.calls.states(self.slot, uids))

    def counter(self, name: str) -> int:
        return int(self.client.hget(self.keys.lane, name) or 0)


#: Makes a station: ``make_station(policy, model="digits")``.
MakeStation = Callable[..., Station]


@pytest.fixture
def make_station(redis_url: str, namespace: str) -> Iterator[MakeStation]:
    """Makes lanes in the namespace of this test."""
    made: list[Station] = []

    def make(policy: BatchPolicy, *, model: str = "digits", url: str = redis_url) -> Station:
        made.append(Station(url, namespace, policy, model))
        return made[-1]

    yield make
    for station in made:
        station.client.close()


class Hints:
    """A dispatch that writes down what it was asked to send."""

    def __init__(self) -> None:
        self.drains: list[Drain] = []

    def __call__(self, drain: Drain) -> None:
        self.drains.append(drain)

    def __len__(self) -> int:
        return len(self.drains)

    @property
    def lanes(self) -> list[str]:
        return [drain.lane for drain in self.drains]


@pytest.fixture
def hints() -> Hints:
    """A fresh list of hints."""
    return Hints()


class Flushers:
    """Starts flushers; all of them must have ended well when the test is over."""

    def __init__(self, url: str, namespace: str) -> None:
        self.url, self.namespace = url, namespace

    def make(self, dispatch: Callable[[Drain], None], *, url: str | None = None) -> Flusher:
        client = connect(url or self.url, purpose="blocking", client_name="flusher")
        return Flusher(client, self.namespace, dispatch)

    @contextmanager
    def running(
        self, *dispatches: Callable[[Drain], None], url: str | None = None
    ) -> Iterator[None]:
        """One running flusher for each of ``dispatches``."""
        flushers = [self.make(dispatch, url=url) for dispatch in dispatches]
        threads = [threading.Thread(target=flusher.run) for flusher in flushers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for flusher in flushers:
                flusher.stop()
            for thread in threads:
                thread.join(timeout=30)
        assert not any(thread.is_alive() for thread in threads)


@pytest.fixture
def flushers(redis_url: str, namespace: str) -> Flushers:
    """Flushers of the namespace of this test."""
    return Flushers(redis_url, namespace)


@pytest.fixture
def command_count(store_redis: redis.Redis) -> Callable[[], int]:
    """Counts the commands that the server ran so far, scripts' own and our asking left out."""

    def count() -> int:
        stats = store_redis.info("commandstats")
        assert isinstance(stats, dict)
        ours = ("cmdstat_info", "cmdstat_time", "cmdstat_client")
        return sum(row["calls"] for name, row in stats.items() if not name.startswith(ours))

    return count
