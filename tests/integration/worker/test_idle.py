"""Drains that stay: they take the next job without a hint, and end when they should."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis

from umbel import Client
from umbel_batching.calls import Calls
from umbel_batching.keys import lane_keys, shared_keys
from umbel_batching.lanes import new_uid, slot_of
from umbel_batching.scripts import Runner
from umbel_config.settings import Settings
from umbel_worker.rounds import Tally
from umbel_worker.runtime import make_drainer

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register, Serving, WaitUntil

ROW = np.arange(4, dtype=np.float32)
LANE, OTHER, QUEUE = "affine@1", "other@1", "umbel"


class Crew:
    """Two models, and drains of their lanes in threads; no flusher, so that no hint is sent."""

    def __init__(self, settings: Settings, store: redis.Redis, threads: int) -> None:
        self.settings, self.namespace = settings, settings.namespace
        self.store: Any = store
        self.runner, self.calls = Runner(store), Calls(self.namespace)
        self.stop, self.pool = threading.Event(), ThreadPoolExecutor(threads)
        self.drainer = make_drainer(settings, self.stop)
        self.runner.run(self.calls.announce(QUEUE, "w", slots=threads, stale_ms=60_000))

    def drain(self, lane: str = LANE) -> Future[Tally]:
        return self.pool.submit(self.drainer.drain, lane, new_uid())

    def idle(self, lane: str = LANE) -> int:
        return int(self.store.zcard(lane_keys(self.namespace, slot_of(lane)).idle))

    def count(self, what: str, lane: str = LANE) -> int:
        return int(self.store.zcard(getattr(lane_keys(self.namespace, slot_of(lane)), what)))

    def busy(self) -> int:
        return int(self.store.zcard(shared_keys(self.namespace).busy + QUEUE))

    def close(self) -> None:
        self.stop.set()
        self.pool.shutdown()
        self.drainer.leases.stop()
        self.drainer.runner.client.close()


@pytest.fixture
def site(settings: MakeSettings, register: Register) -> Settings:
    made = settings(allowed_modules=("umbel_test_handlers",), device="cpu", drain_budget_ms=60_000)
    for name in ("affine", "other"):
        register(made, name, max_wait_ms=60_000)
    return made


@pytest.fixture
def crew(site: Settings, store_redis: redis.Redis) -> Iterator[Callable[..., Crew]]:
    """For workers whose drains stay for ten seconds, unless a test says otherwise."""
    made: list[Crew] = []

    def make(idle_ms: int = 10_000, threads: int = 1) -> Crew:
        made.append(Crew(site.model_copy(update={"idle_ms": idle_ms}), store_redis, threads))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_drain_that_stays_takes_the_next_jobs_without_a_hint(
    crew: Callable[..., Crew], client: Client, wait_until: WaitUntil
) -> None:
    here = crew()
    first = client.submit("affine", ROW)
    drain = here.drain()
    np.testing.assert_array_equal(first.result(timeout=5), ROW * 2 + 1)
    for add in (1, 2):
        wait_until(lambda: here.idle() == 1, "the drain stays")
        job = client.submit("affine", ROW + add)
        np.testing.assert_array_equal(job.result(timeout=5), (ROW + add) * 2 + 1)
        assert job.info().flush_reason == "idle"
    here.stop.set()
    assert drain.result(timeout=5).jobs == 3
    assert here.count("sent") == here.busy() == 0


def test_two_drains_stay_and_each_call_is_for_one(
    crew: Callable[..., Crew], client: Client, wait_until: WaitUntil
) -> None:
    here = crew(threads=2)
    jobs = client.submit_many("affine", [ROW] * 2)
    drains = [here.drain(), here.drain()]
    wait_until(lambda: here.idle() == 2, "both stay")
    jobs += client.submit_many("affine", [ROW] * 32)
    for job in jobs:
        np.testing.assert_array_equal(job.result(timeout=5), ROW * 2 + 1)
    wait_until(lambda: here.idle() == 2, "both stay again")
    here.stop.set()
    assert sum(drain.result(timeout=5).jobs for drain in drains) == 34


@pytest.mark.parametrize("idle_ms", [1, 60])
def test_stay_ends_when_nothing_comes(
    crew: Callable[..., Crew], client: Client, idle_ms: int
) -> None:
    here = crew(idle_ms=idle_ms)
    job = client.submit("affine", ROW)
    assert here.drain().result(timeout=5).jobs == 1
    job.result(timeout=5)
    names = ("idle", "drains", "sent", "leases")
    assert [here.count(what) for what in names] + [here.busy()] == [0] * 5
    assert not here.store.exists(shared_keys(here.namespace).stays + QUEUE)


def test_shutdown_ends_a_stay(
    crew: Callable[..., Crew], client: Client, wait_until: WaitUntil
) -> None:
    here = crew()
    client.submit("affine", ROW)
    drain = here.drain()
    wait_until(lambda: here.idle() == 1, "the drain stays")
    here.stop.set()
    assert drain.result(timeout=5).jobs == 1
    assert here.idle() == here.busy() == here.count("drains") == 0


def test_job_that_comes_as_a_stay_ends_is_not_lost(
    crew: Callable[..., Crew], client: Client
) -> None:
    """Either the drain finds it or the lane is due at once: nobody waits out max_wait_ms."""
    here = crew(idle_ms=1)
    for _ in range(8):
        drain = here.drain()
        job = client.submit("affine", ROW)
        drain.result(timeout=5)
        if not job.state().terminal:
            due = here.runner.run(here.calls.due(10))
            assert slot_of(LANE) in due.slots
            here.drain().result(timeout=5)
        np.testing.assert_array_equal(job.result(timeout=5), ROW * 2 + 1)


def test_running_worker_takes_a_job_without_a_new_hint(
    crew: Callable[..., Crew],
    client: Client,
    serve: Callable[..., Serving],
    wait_until: WaitUntil,
) -> None:
    here, hints = crew(), list[str]()

    def deliver() -> int:
        hints.append("hint")
        return 1

    serve(here.settings, deliver=deliver)
    client.submit("affine", ROW).result(timeout=10)
    wait_until(lambda: here.idle() == 1, "the drain stays")
    sent = len(hints)
    for add in range(3):
        client.submit("affine", ROW + add).result(timeout=10)
        wait_until(lambda: here.idle() == 1, "the drain stays again")
    assert len(hints) == sent == 1


def test_drain_that_stays_gives_way_to_another_lane(
    crew: Callable[..., Crew],
    client: Client,
    serve: Callable[..., Serving],
    wait_until: WaitUntil,
) -> None:
    """The only thread stays for ten seconds; what waits elsewhere has it end at once."""
    here = crew()
    serve(here.settings)
    client.submit("affine", ROW).result(timeout=10)
    wait_until(lambda: here.idle() == 1, "the drain stays")
    client.submit("other", ROW).result(timeout=5)
    wait_until(lambda: here.idle(OTHER) == 1 and here.idle() == 0, "it stays there now")
