"""A load that killed its process is not repeated at once by those that come after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fakeredis
import pytest

from umbel_config.errors import ModelUnavailable, StoreUnavailable
from umbel_registry.fleet import Fleet, Report
from umbel_registry.keys import loads_key
from umbel_registry.loads import LONGEST_PAUSE_MS, PAUSE_MS, SHORT_PAUSE_MS, Loads

KEY, DAY_MS = loads_key("t", "host"), 86_400_000


@pytest.fixture
def memory() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis()


@pytest.fixture
def died(memory: fakeredis.FakeRedis) -> Callable[..., None]:
    """Notes loads of processes that are gone, so many ms ago."""

    def note(*ago_ms: int, process: str = "host:1", name: str = "digits@3") -> None:
        seconds, micros = memory.time()
        now_ms = seconds * 1000 + micros // 1000
        for each in ago_ms:
            memory.hset(KEY, f"{name} {process} {now_ms - each}", "")

    return note


def loads(memory: Any, process: str = "host:2") -> Loads:
    return Loads(memory, "t", process)


def test_a_load_leaves_no_trace_however_it_ended(memory: fakeredis.FakeRedis) -> None:
    made = loads(memory)
    for loaded in (True, False):
        made.begin("digits@3", ahead=True)
        assert memory.hlen(KEY) == 1
        assert 0 < memory.ttl(KEY) <= DAY_MS / 1000
        made.end("digits@3", loaded=loaded)
        assert memory.hlen(KEY) == 0
    made.begin("digits@3", ahead=True)
    made.begin("digits@4", ahead=False)
    made.leave()
    assert memory.hlen(KEY) == 0


@pytest.mark.parametrize("process", ["host:1", "host:2"])  # a container's worker is always host:1
def test_a_version_that_has_killed_is_left_alone(
    memory: fakeredis.FakeRedis, died: Any, process: str
) -> None:
    died(1000)
    with pytest.raises(
        ModelUnavailable, match=r"digits@3 has ended a process of host .* again in 5 min"
    ):
        loads(memory, process).begin("digits@3", ahead=True)
    loads(memory, process).begin("digits@3", ahead=False)
    loads(memory, process).begin("digits@4", ahead=True)
    Loads(memory, "t", "other:1").begin("digits@3", ahead=True)


def test_one_that_is_loading_just_now_is_not_dead(memory: fakeredis.FakeRedis, died: Any) -> None:
    seconds, _ = memory.time()
    Fleet(memory, "t").tell(Report("host:1", "host:1", 1, ("umbel",)), seconds * 1000)
    died(1000)
    made = loads(memory)
    made.begin("digits@3", ahead=True)
    made.begin("digits@3", ahead=True)
    Fleet(memory, "t").leave("host:1")
    with pytest.raises(ModelUnavailable):
        loads(memory, "host:3").begin("digits@3", ahead=True)


@pytest.mark.parametrize(
    ("ago_ms", "allowed"),
    [
        ((PAUSE_MS - 1000,), False),
        ((PAUSE_MS + 1000,), True),
        ((PAUSE_MS + 1000, PAUSE_MS + 2000, PAUSE_MS + 11_000), True),  # one pool, at once
        ((PAUSE_MS + 1000, PAUSE_MS + 12_000), False),
        ((2 * PAUSE_MS + 1000, 2 * PAUSE_MS + 12_000), True),
        ((LONGEST_PAUSE_MS + 1000, *range(LONGEST_PAUSE_MS + 60_000, DAY_MS, 3_000_000)), True),
        ((LONGEST_PAUSE_MS - 1000, *range(LONGEST_PAUSE_MS + 60_000, DAY_MS, 3_000_000)), False),
    ],
)
def test_the_pause_grows_with_every_death(
    memory: fakeredis.FakeRedis, died: Any, ago_ms: tuple[int, ...], allowed: bool
) -> None:
    died(*ago_ms)
    if allowed:
        loads(memory).begin("digits@3", ahead=True)
        return
    with pytest.raises(ModelUnavailable):
        loads(memory).begin("digits@3", ahead=True)


@pytest.mark.parametrize(
    ("ago_ms", "allowed"),
    [
        ((0,), True),
        ((0, 9000), True),
        ((0, 6000, 12_000), False),  # not one: each died at once when it was back
        ((SHORT_PAUSE_MS - 1000, SHORT_PAUSE_MS + 12_000), False),
        ((SHORT_PAUSE_MS + 1000, SHORT_PAUSE_MS + 12_000), True),
        ((SHORT_PAUSE_MS + 1000, SHORT_PAUSE_MS + 12_000, SHORT_PAUSE_MS + 30_000), False),
    ],
)
def test_where_jobs_wait_the_first_death_is_forgiven_and_the_pause_is_shorter(
    memory: fakeredis.FakeRedis, died: Any, ago_ms: tuple[int, ...], allowed: bool
) -> None:
    died(*ago_ms)
    if allowed:
        loads(memory).begin("digits@3", ahead=False)
        return
    with pytest.raises(ModelUnavailable):
        loads(memory).begin("digits@3", ahead=False)


def test_once_it_loads_its_dead_are_forgotten_and_so_are_those_of_a_day_ago(
    memory: fakeredis.FakeRedis, died: Any
) -> None:
    died(PAUSE_MS + 1000)
    died(1000, name="digits@4")
    died(DAY_MS + 1000, name="digits@5")
    made = loads(memory)
    made.begin("digits@3", ahead=True)
    assert memory.hlen(KEY) == 3
    made.end("digits@3", loaded=True)
    assert [field.split()[0] for field in memory.hkeys(KEY)] == [b"digits@4"]


def test_what_redis_did_not_take_back_goes_when_the_process_leaves() -> None:
    server = fakeredis.FakeServer()
    made = loads(fakeredis.FakeRedis(server=server))
    made.begin("digits@3", ahead=True)
    server.connected = False
    with pytest.raises(StoreUnavailable):
        made.end("digits@3", loaded=True)
    with pytest.raises(StoreUnavailable):
        made.begin("digits@3", ahead=True)
    server.connected = True
    made.leave()
    assert fakeredis.FakeRedis(server=server).hlen(KEY) == 0
