"""Lanes that do not get on: no flusher, no worker, no movement, forgotten batches, dead letters."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
import redis

from umbel_batching.calls import Calls
from umbel_batching.census import LaneStatus
from umbel_batching.keys import lane_keys
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import NO_REPLY, tail
from umbel_batching.scripts import Runner
from umbel_batching.values import NewJob
from umbel_cli.doctor.findings import Finding, Level
from umbel_cli.doctor.lanes import Movement, judge_lanes, look, look_again

ZERO = {name: 0 for name, kind in LaneStatus.__annotations__.items() if kind in {"int", "float"}}
QUIET: Any = msgspec.convert(
    {**ZERO, "lane": "digits@1", "model": "digits", "version": "1", "queue": "gpu", "slots": 2},
    LaneStatus,
)
POLICY = BatchPolicy(max_batch_size=8, max_wait_ms=5)


def lane(**changes: Any) -> LaneStatus:
    changed: LaneStatus = msgspec.structs.replace(QUIET, **changes)
    return changed


def judged(
    check: str,
    *now: LaneStatus,
    before: tuple[LaneStatus, ...] | None = None,
    overdue: dict[str, int] | None = None,
    flushers: int | None = 1,
) -> Finding:
    seen = Movement(before or now, now, overdue or {}, flushers)
    (found,) = (each for each in judge_lanes(seen) if each.check == f"lanes.{check}")
    return found


def test_quiet_lanes_are_well() -> None:
    seen = Movement([QUIET], [QUIET], {}, 2)
    assert {each.level for each in judge_lanes(seen)} == {Level.OK}


def test_no_lane_at_all_is_well() -> None:
    assert "No lane yet" in judged("served").summary


@pytest.mark.parametrize(
    ("state", "flushers", "level"),
    [
        ({}, None, Level.SKIPPED),
        ({}, 0, Level.WARNING),
        ({"waiting": 1}, 0, Level.PROBLEM),
        ({"running": 1}, 0, Level.PROBLEM),
        ({"waiting": 1}, 1, Level.OK),
    ],
)
def test_flushers(state: dict[str, int], flushers: int | None, level: Level) -> None:
    assert judged("flusher", lane(**state), flushers=flushers).level is level


def test_lanes_without_a_worker_are_named_with_their_queue() -> None:
    lonely = lane(lane="words@3", queue="tpu", slots=0, waiting=1200)
    found = judged("served", QUIET, lonely, lane(slots=0))
    assert found.level is Level.PROBLEM
    assert "words@3 (1,200 jobs, queue tpu)" in found.summary
    assert "digits@1" not in found.summary
    assert found.advice.endswith("--queues tpu")


STUCK = lane(waiting=3, oldest_ms=95_000, batches=7, succeeded=50)


def test_a_lane_that_stands_still_is_a_problem() -> None:
    found = judged("progress", STUCK)
    assert found.level is Level.PROBLEM
    assert "digits@1 (oldest 95 s)" in found.summary


@pytest.mark.parametrize("moved", ["batches", "succeeded", "failed", "expired", "cancelled"])
def test_a_lane_that_settles_between_two_looks_moves(moved: str) -> None:
    before = lane(waiting=3, oldest_ms=95_000, **{moved: 1})
    now = lane(waiting=3, oldest_ms=96_000, **{moved: 2})
    found = judged("progress", now, before=(before,))
    assert (found.level, "jobs wait longer" in found.summary) == (Level.OK, True)


@pytest.mark.parametrize("which", ["before", "now"])
def test_a_lane_whose_batches_run_moves(which: str) -> None:
    running = msgspec.structs.replace(STUCK, running=1)
    before, now = (running, STUCK) if which == "before" else (STUCK, running)
    assert judged("progress", now, before=(before,)).level is Level.OK


@pytest.mark.parametrize(
    "changes",
    [
        {"oldest_ms": 29_000},
        {"oldest_ms": 95_000, "max_wait_ms": 10_000},
        {"slots": 0},  # said by another check
    ],
)
def test_a_job_that_need_not_run_yet_stops_nothing(changes: dict[str, int]) -> None:
    found = judged("progress", msgspec.structs.replace(STUCK, **changes))
    assert (found.level, found.summary) == (Level.OK, "No job waits for long")


def test_a_lane_that_is_new_at_the_second_look_is_not_judged() -> None:
    other = lane(lane="words@1")
    assert judged("progress", STUCK, before=(other,)).level is Level.OK


def test_forgotten_batches_are_a_problem() -> None:
    found = judged("leases", QUIET, overdue={"digits@1": 1, "words@1": 2})
    assert found.level is Level.PROBLEM
    assert "digits@1 (1 batch), words@1 (2 batches)" in found.summary


def test_dead_letters_are_a_warning() -> None:
    assert judged("dead", QUIET).level is Level.OK
    found = judged("dead", lane(dead=1200), QUIET)
    assert (found.level, found.summary) == (Level.WARNING, "Dead letters: 1,200 in digits@1")


def submit(client: redis.Redis, namespace: str) -> Lane:
    digits = Lane(model="digits", version="1", policy=POLICY)
    job = NewJob(new_uid(), tail(NO_REPLY, b"") + b"payload")
    Runner(client).run(Calls(namespace).submit(digits, [job]))
    return digits


def test_looking_at_a_lane_that_stands_still(store_redis: redis.Redis, namespace: str) -> None:
    digits = submit(store_redis, namespace)
    waiting = lane_keys(namespace, digits.slot).waiting
    ((uid, arrived),) = cast(
        "list[tuple[bytes, float]]", store_redis.zrange(waiting, 0, -1, withscores=True)
    )
    store_redis.zadd(waiting, {uid: arrived - 60_000})
    call = Calls(namespace).announce(digits.queue, "host:1", slots=1, stale_ms=60_000)
    Runner(store_redis).run(call)

    first = look(store_redis, namespace)
    found = {each.check: each for each in judge_lanes(look_again(store_redis, namespace, first))}
    assert found["lanes.progress"].level is Level.PROBLEM
    assert found["lanes.served"].level is Level.OK
    assert found["lanes.leases"].level is Level.OK


def test_looking_at_a_lane_with_nobody_around(store_redis: redis.Redis, namespace: str) -> None:
    digits = submit(store_redis, namespace)
    claim = Calls(namespace).claim(
        digits.slot, batch=new_uid(), token="t", worker="w", lease_ms=60_000
    )
    batch = Runner(store_redis).run(claim).batch
    store_redis.zadd(lane_keys(namespace, digits.slot).leases, {batch: 1})
    seen = look_again(store_redis, namespace, look(store_redis, namespace))
    found = {each.check: each.level for each in judge_lanes(seen)}
    assert found["lanes.leases"] is Level.PROBLEM
