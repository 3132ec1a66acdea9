"""Waiting at an empty lane: until a call, a shutdown or the end of the stay, never for ever."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import fakeredis
import pytest

from umbel_batching.keys import lane_keys
from umbel_worker.idle import Idle

SLOT, TOKEN = "abcdefgh", "drain"
RING = lane_keys("t", SLOT).ring + TOKEN


class Reads:
    """A client that notes how long each read may block, and brings nothing."""

    def __init__(self) -> None:
        self.timeouts: list[float] = []

    def blpop(self, keys: list[str], timeout: float) -> None:
        assert keys == [RING]
        self.timeouts.append(timeout)


def test_mark_of_its_own_ends_the_wait(store: fakeredis.FakeRedis) -> None:
    store.lpush(RING, "!")
    assert Idle(store, "t", 10_000).wait(SLOT, TOKEN, threading.Event())
    assert not store.exists(RING)


def test_mark_of_another_drain_stays_where_it_is(store: fakeredis.FakeRedis) -> None:
    other = lane_keys("t", SLOT).ring + "other"
    store.lpush(other, "!")
    assert not Idle(store, "t", 10).wait(SLOT, TOKEN, threading.Event())
    assert store.exists(other)


def test_shutdown_ends_the_wait_before_it_begins(store: fakeredis.FakeRedis) -> None:
    stopping = threading.Event()
    stopping.set()
    store.lpush(RING, "!")
    assert not Idle(store, "t", 10_000).wait(SLOT, TOKEN, stopping)


def test_shutdown_ends_the_wait_after_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: Any = Reads()
    stopping = iter([False, False, True])

    class Stops:
        def is_set(self) -> bool:
            return next(stopping)

    assert not Idle(reads, "t", 10_000).wait(SLOT, TOKEN, Stops())
    assert reads.timeouts == [0.2, 0.2]


def test_no_read_is_so_short_that_redis_takes_it_for_endless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Redis 6 cuts a timeout to milliseconds, and 0 blocks for ever."""
    times = itertools.chain([0.0, 0.0, 0.3, 0.4999], itertools.repeat(0.6))
    monkeypatch.setattr("umbel_worker.idle.time.monotonic", lambda: next(times))
    reads: Any = Reads()
    assert not Idle(reads, "t", 500).wait(SLOT, TOKEN, threading.Event())
    assert reads.timeouts == [0.2, 0.2, 0.005]
