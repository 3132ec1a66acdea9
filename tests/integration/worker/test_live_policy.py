"""A batching policy changes while jobs wait, and the next claim goes by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis

from umbel import Client, LaneFull
from umbel_batching.census import lane_status
from umbel_batching.lanes import Lane, new_uid
from umbel_config.settings import Settings
from umbel_registry import TrafficControl
from umbel_registry.policy_keeper import PolicyKeeper

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register

LANE = Lane(model="affine", version="1")


@pytest.fixture
def site(settings: MakeSettings, register: Register) -> Settings:
    made = settings(allowed_modules=("umbel_test_handlers",), device="cpu")
    register(made, max_wait_ms=3_600_000)
    return made


@pytest.fixture
def control(site: Settings, store_redis: redis.Redis) -> TrafficControl:
    return TrafficControl(store_redis, site.namespace)


@pytest.fixture
def keeper(site: Settings, store_redis: redis.Redis) -> PolicyKeeper:
    return PolicyKeeper(store_redis, site.namespace)


def test_the_next_claim_takes_as_many_as_the_new_policy_says(
    client: Client, control: TrafficControl, keeper: PolicyKeeper, lab: Any, rows: Any
) -> None:
    client.submit_many("affine", rows(20))
    assert len(lab.claim(new_uid()).uids) == 16
    control.set_policy("affine", "1", {"max_batch_size": 3})
    assert keeper.apply("affine") == [LANE.name]
    assert keeper.apply("affine") == []
    assert len(lab.claim(new_uid()).uids) == 3


def test_jobs_that_wait_are_flushed_when_the_wait_is_made_short(
    client: Client,
    control: TrafficControl,
    keeper: PolicyKeeper,
    site: Settings,
    serve: Any,
    rows: Any,
) -> None:
    serve(site)
    job = client.submit("affine", rows(1)[0])
    assert job.state() == "queued"
    control.set_policy("affine", "1", {"max_wait_ms": 0})
    keeper.apply("affine")
    assert job.result(timeout=20)[0] == 201


def test_a_lane_that_begins_later_begins_with_the_policy_in_force(
    site: Settings, control: TrafficControl, rows: Any
) -> None:
    control.set_policy("affine", "1", {"max_queue": 2})
    with Client(settings=site) as client, pytest.raises(LaneFull) as caught:
        client.submit_many("affine", rows(3))
    assert caught.value.accepted in {1, 2}


def test_returning_to_the_pushed_policy_brings_lanes_back_too(
    client: Client,
    control: TrafficControl,
    keeper: PolicyKeeper,
    store_redis: redis.Redis,
    lab: Any,
    rows: Any,
) -> None:
    client.submit_many("affine", rows(1))
    control.set_policy("affine", "1", {"max_queue": 2})
    keeper.apply("affine")
    assert store_redis.hget(lab.keys.lane, "max_queue") == b"2"
    control.set_policy("affine", "1", None)
    keeper.apply("affine")
    assert store_redis.hget(lab.keys.lane, "max_queue") == b"100000"


def test_a_lane_becomes_adaptive_while_a_worker_serves_it(
    client: Client,
    control: TrafficControl,
    keeper: PolicyKeeper,
    site: Settings,
    store_redis: redis.Redis,
    serve: Any,
    rows: Any,
    wait_until: Any,
) -> None:
    serving = serve(site)
    control.set_policy("affine", "1", {"max_wait_ms": 0})
    client.submit("affine", rows(1)[0]).result(timeout=20)
    control.set_policy("affine", "1", {"mode": "adaptive", "latency_objective_ms": 50})
    keeper.apply("affine")

    def told() -> bool:
        client.submit("affine", rows(1)[0]).result(timeout=20)
        serving.process.steward.beat()
        status = lane_status(store_redis, site.namespace, LANE.name)
        return status is not None and bool(status.tuned)

    wait_until(told, "the worker tells what it chose")
    control.set_policy("affine", "1", {"mode": "static"})
    keeper.apply("affine")
    status: Any = lane_status(store_redis, site.namespace, LANE.name)
    assert (status.mode, status.size_now, status.tuned) == ("static", 16, [])
    assert client.submit("affine", rows(1)[0]).result(timeout=20)[0] == 201
