"""A lane on a real Redis, a worker without a model, and flushers in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from umbel_batching.calls import Calls
from umbel_batching.flusher import Drain, Flusher
from umbel_batching.keys import lane_keys, shared_keys
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import NO_REPLY, State, settled, tail
from umbel_batching.scripts import Runner
from umbel_batching.values import Claimed, NewJob, Settlement
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

    def submit(self, count: int = 1, *, payload: bytes = b"payload") -> list[str]:
        jobs = [NewJob(new_uid(), tail(NO_REPLY, b"") + payload) for _ in range(count)]
        self.runner.run(self.calls.submit(self.lane, jobs))
        return [job.uid for job in jobs]

    def claim(self, token: str = "drain", *, lease_ms: int = 60_000) -> Claimed:
        call = self.calls.claim(
            self.slot, batch=new_uid(), token=token, worker="w", lease_ms=lease_ms
        )
        return self.runner.run(call)

    def settle(self, claimed: Claimed, *, body: bytes = b"done") -> bool:
        records = [settled(raw, State.SUCCEEDED, body) for raw in claimed.records]
        outcome = Settlement(claimed.uids, records, len(records), {}, 10)
        return self.runner.run(self.calls.settle(self.slot, claimed.batch, outcome))

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
