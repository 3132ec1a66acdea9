"""Versions that kill or hang their process, and never those that serve beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import redis

from umbel_batching.census import lane_statuses
from umbel_batching.lanes import slot_of
from umbel_config.errors import NotReady
from umbel_config.settings import Settings
from umbel_registry import TrafficControl, promotion
from umbel_registry.audit import Change
from umbel_registry.fleet import Fleet
from umbel_registry.life import VersionState, lives

if TYPE_CHECKING:  # the fixtures of the tests' root
    from faults.feed import Feed
    from tests.conftest import MakeSettings, Register, WaitUntil, Worker

pytestmark = pytest.mark.chaos
ONE_THREAD: dict[str, Any] = {"torch_threads": 1, "allowed_modules": ("umbel_test_handlers",)}


class Supervisor:
    """Starts a worker anew whenever it has died, at once, as a supervisor of services does."""

    def __init__(self, start: Callable[[], Worker]) -> None:
        self._start, self.worker, self.deaths = start, start(), 0

    def tend(self) -> bool:
        """Looks once; returns whether the worker lives."""
        if self.worker.alive:
            return True
        self.deaths += 1
        self.worker = self._start()
        return False


@pytest.fixture
def control(store_redis: redis.Redis, namespace: str) -> TrafficControl:
    return TrafficControl(store_redis, namespace, who="test")


def test_a_version_that_kills_who_loads_it_is_refused_and_the_old_one_serves(
    settings: MakeSettings,
    register: Register,
    start_worker: Callable[..., Worker],
    umbel: Callable[..., Any],
    feed: Callable[..., Feed],
    control: TrafficControl,
    store_redis: redis.Redis,
    wait_until: WaitUntil,
) -> None:
    site = settings(lease_ms=1000, **ONE_THREAD)
    register(site)
    control.route("affine", {"1": 1})
    register(site, handler="Bomb")
    supervisor = Supervisor(lambda: start_worker(site, TEST_FUSE="yes"))
    jobs = feed(site)
    command = umbel(site, "models", "promote", "affine", "2")
    wait_until(lambda: not supervisor.tend() or command.code is not None, "the worker dies", 40)
    wait_until(lambda: supervisor.tend() and command.code is not None, "it is refused", 60)
    assert command.code == 1
    fleet = Fleet(store_redis, site.namespace)

    def refused() -> bool:
        held = [report.of("affine", "2") for report in fleet.reports()]
        failed = any(each is not None and each.state == "failed" for each in held)
        return supervisor.tend() and failed

    wait_until(refused, "the worker tells why it is not loaded", 60)
    with pytest.raises(NotReady, match=r"could not be loaded.*has ended"):
        promotion.promote(control, fleet, "affine", "2")

    def told() -> bool:
        life = lives(store_redis, site.namespace, control.read("affine"))["2"]
        return life.state is VersionState.FAILED and "has ended" in life.why

    wait_until(told, "nobody takes the dead for one that is loading it")
    assert 1 <= supervisor.deaths <= 4
    ended = {slot: set(counts) for slot, counts in jobs.stop().items()}
    assert ended == {slot_of("affine@1"): {"succeeded"}}
    assert supervisor.worker.alive


def test_shadows_that_kill_fail_or_hang_harm_nobody(
    settings: MakeSettings,
    register: Register,
    start_worker: Callable[..., Worker],
    feed: Callable[..., Feed],
    control: TrafficControl,
    store_redis: redis.Redis,
    wait_until: WaitUntil,
) -> None:
    site = settings(concurrency=2, lease_ms=2000, grace_s=0.5, **ONE_THREAD)
    for handler in ("Affine", "Mine", "Fussy", "Stuck"):
        register(site, handler=handler)
    control.route("affine", {"1": 1}, {"2": 1.0})
    supervisor = Supervisor(lambda: start_worker(site))
    jobs = feed(site)

    def off() -> Change | None:
        (last, *_) = control.history("affine")
        return last if supervisor.tend() and last.what == "shadow off" else None

    change = wait_until(off, "the shadow that kills is switched off", 60)
    assert (change.changes, "a worker was lost" in change.why) == ({"shadow 2": ("1", None)}, True)
    assert supervisor.deaths == 1
    copies = Copies(store_redis, site)
    wait_until(lambda: copies.count("2", "waiting") == 0, "its copies are given up")
    assert copies.count("2", "dead") == 0

    control.route("affine", {"1": 1}, {"3": 1.0})
    change = wait_until(off, "the shadow that fails is switched off", 60)
    assert (change.changes, "failed on it alone" in change.why) == ({"shadow 3": ("1", None)}, True)

    control.route("affine", {"1": 1}, {"4": 1.0})
    hangs_in_one_slot(copies, "4", jobs, wait_until)
    assert supervisor.tend()
    assert supervisor.deaths == 1
    assert {slot: set(counts) for slot, counts in jobs.stop().items()} == {
        slot_of("affine@1"): {"succeeded"}
    }


def hangs_in_one_slot(copies: Copies, version: str, jobs: Feed, wait_until: WaitUntil) -> None:
    """Waits until a shadow hangs, and sees that jobs go on and no other slot hangs."""
    wait_until(lambda: copies.count(version, "waiting") >= 50, "the shadow hangs")
    sent = len(jobs.jobs)
    wait_until(lambda: len(jobs.jobs) >= sent + 320 and jobs.jobs[-1][1].done(), "jobs go on")
    assert (copies.count(version, "running"), copies.count(version, "succeeded")) == (1, 0)


class Copies:
    """The lanes of copies, as counts that are 0 where nothing was copied yet."""

    def __init__(self, client: redis.Redis, site: Settings) -> None:
        self._client, self._namespace = client, site.namespace

    def count(self, version: str, what: str) -> int:
        lanes = {each.lane: each for each in lane_statuses(self._client, self._namespace)}
        return getattr(lanes.get(f"affine@{version}~shadow"), what, 0)
