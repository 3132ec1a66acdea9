"""Shadows: copies cost nobody anything, call nobody back, give way first and are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis

from umbel import Client
from umbel_batching import wire
from umbel_batching.calls import Calls
from umbel_batching.census import lane_statuses
from umbel_batching.lanes import Lane, is_shadow, new_uid, split_name
from umbel_batching.record import NO_REPLY, Priority, encode_meta, tail
from umbel_batching.scripts import Runner
from umbel_batching.values import NewJob
from umbel_config.settings import Settings
from umbel_registry import TrafficControl
from umbel_registry.figures import Figures, FiguresStore
from umbel_registry.fleet import Fleet, Report
from umbel_worker.mirror import COPY_OF, point, shadow_lane

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register, WaitUntil

SHADOW = "affine@2~shadow"


@pytest.fixture
def site(settings: MakeSettings, register: Register) -> Settings:
    """Version 1 answers; versions 2, which differs, and 3, which does not, are there too."""
    made = settings(allowed_modules=("umbel_test_handlers",), device="cpu")
    register(made)
    register(made, handler="Steep")
    register(made, max_wait_ms=3)
    return made


@pytest.fixture
def control(site: Settings, store_redis: redis.Redis) -> TrafficControl:
    return TrafficControl(store_redis, site.namespace)


@pytest.fixture
def figures(site: Settings, store_redis: redis.Redis, serve: Any) -> Callable[[str], Figures]:
    """What was measured of a version under the route in force, all of it written."""
    serving = serve(site)

    def read(version: str) -> Figures:
        serving.process.steward.beat()
        number = TrafficControl(store_redis, site.namespace).read("affine").traffic.number_in_force
        return FiguresStore(store_redis, site.namespace).read("affine", number, [version])[version]

    return read


def test_a_shadow_lane_is_apart_and_named_after_its_version() -> None:
    lane = Lane(model="affine", version="2", shadow=True)
    assert (lane.name, is_shadow(lane.name), split_name(lane.name)) == (
        SHADOW,
        True,
        ("affine", "2"),
    )
    assert lane.slot != Lane(model="affine", version="2").slot


def test_copies_are_compared_and_the_caller_sees_none_of_it(
    client: Client,
    control: TrafficControl,
    figures: Callable[[str], Figures],
    rows: Any,
    wait_until: WaitUntil,
) -> None:
    control.route("affine", {"1": 1}, {"2": 1.0, "3": 1.0})
    sent = rows(24)
    for row in sent:  # one at a time, so that no jobs queue up
        np.testing.assert_array_equal(client.submit("affine", row).result(timeout=20), row * 2 + 1)
    wait_until(lambda: figures("2").pairs + figures("3").pairs == 48, "all copies are compared")
    assert (figures("2").equal, figures("3").equal) == (0, 24)
    assert figures("2").largest == pytest.approx(1 / 3, rel=0.01)
    assert (figures("1").jobs, figures("1").pairs, figures("2").jobs) == (24, 0, 24)


def test_a_shadow_that_fails_is_counted_and_leaves_no_dead_letter(
    client: Client,
    control: TrafficControl,
    figures: Callable[[str], Figures],
    site: Settings,
    store_redis: redis.Redis,
    register: Register,
    wait_until: WaitUntil,
) -> None:
    register(site, handler="Fussy")
    control.route("affine", {"1": 1}, {"4": 1.0})
    assert client.submit("affine", np.full(4, 200.0, np.float32)).result(timeout=20)[0] == 401
    wait_until(lambda: figures("4").failed_pairs == 1, "the failure is counted")
    lanes = {lane.lane: lane for lane in lane_statuses(store_redis, site.namespace)}
    assert lanes["affine@4~shadow"].failed == 1
    assert lanes["affine@4~shadow"].dead == 0


def test_nothing_is_copied_where_jobs_queue_up_or_have_failed(
    client: Client, control: TrafficControl, site: Settings, serve: Any, rows: Any
) -> None:
    control.route("affine", {"1": 1}, {"2": 1.0})
    jobs = client.submit_many("affine", rows(200))
    taken: list[int] = []
    process = serve(site).process
    offer = process.mirror.offer

    def noted(lane: str, claimed: Any, outcome: Any) -> int:
        taken.append(offer(lane, claimed, outcome) if claimed.left >= 16 else 0)
        return taken[-1]

    process.mirror.offer = noted
    assert len([job.result(timeout=20) for job in jobs]) == 200
    assert len(taken) >= 12
    assert sum(taken) == 0


def test_a_fraction_of_the_jobs_is_taken_always_the_same_ones(rows: Any) -> None:
    uids = [f"{number:024x}{number * 2654435761 % 2**32:08x}" for number in range(2000)]
    chosen = [uid for uid in uids if point(uid) < 0.05]
    assert 60 < len(chosen) < 140
    assert all(0 <= point(uid) < 1 for uid in uids)
    assert set(chosen) <= {uid for uid in uids if point(uid) < 0.1}


def test_copies_that_wait_for_what_is_no_shadow_any_more_are_not_run(
    control: TrafficControl,
    figures: Callable[[str], Figures],
    site: Settings,
    store_redis: redis.Redis,
    wait_until: WaitUntil,
) -> None:
    control.route("affine", {"1": 1})
    standing = control.read("affine")
    text = tail(NO_REPLY, encode_meta({COPY_OF: "x"}), Priority.LOW) + wire.encode(np.zeros(4))
    copies = [NewJob(new_uid(), text) for _ in range(20)]
    lane = shadow_lane(standing, standing.manifests["2"])
    Runner(store_redis).run(Calls.of(site).submit(lane, copies))

    def ended() -> bool:
        lanes = {lane.lane: lane for lane in lane_statuses(store_redis, site.namespace)}
        return lanes[SHADOW].failed == 20

    wait_until(ended, "all are given up")
    assert (figures("2").jobs, figures("2").failed_pairs) == (0, 0)
    assert all(report.of("affine", "2") is None for report in told(store_redis, site))


def told(client: redis.Redis, site: Settings) -> list[Report]:
    """What processes tell of themselves; there are some."""
    reports = Fleet(client, site.namespace).reports()
    assert reports
    return reports
