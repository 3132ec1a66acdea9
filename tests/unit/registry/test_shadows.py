"""Shadows that harm or fail are switched off for good, with the reason, and nothing else moves."""

from __future__ import annotations

from typing import Any

import fakeredis
import pytest

from umbel_batching.keys import lane_keys
from umbel_batching.lanes import slot_of
from umbel_registry import Catalog, TrafficControl, canary
from umbel_registry.figures import FiguresStore, Tallies
from umbel_registry.pairing import Pairing
from umbel_registry.route import Route, position_of
from umbel_registry.shadows import LONGEST_MS, ShadowWatch, without_shadow
from umbel_registry.traffic import Traffic

LANE = "digits@3~shadow"
PLAN: dict[str, Any] = {"steps": (10, 100), "every_s": 60, "max_error_rate": 0.01}
EQUAL = Pairing(equal=True, difference=0.0, same_top=None)


class Rig:
    """Two versions that answer, and two more as their shadows."""

    def __init__(self, make_manifest: Any) -> None:
        self.redis = fakeredis.FakeRedis()
        self.control = TrafficControl(self.redis, "t", who="ann@host")
        for version in "12345":
            Catalog(self.redis, "t").register(make_manifest(version, version.encode())[1])
        self.control.route("digits", {"1": 1})
        self.control.route("digits", {"1": 60, "2": 40}, {"3": 0.5, "4": 0.1})
        self.watch = ShadowWatch(self.redis, "t")

    @property
    def traffic(self) -> Traffic:
        return self.control.read("digits").traffic

    @property
    def route(self) -> Route:
        assert self.traffic.route is not None
        return self.traffic.route

    def compared(self, version: str, alike: int, failed: int) -> None:
        tallies = Tallies()
        tallies.add_pairs("digits", self.route.number, version, [EQUAL] * alike, failed)
        FiguresStore(self.redis, "t").add(tallies.take())


@pytest.fixture
def rig(make_manifest: Any) -> Rig:
    return Rig(make_manifest)


def test_one_that_took_a_worker_with_it_is_switched_off_and_nothing_else(rig: Rig) -> None:
    before = rig.route
    rig.watch.lost(LANE)
    after = rig.route
    assert (after.weights, after.table) == (before.weights, before.table)
    assert (after.shadows, after.number) == ({"4": 0.1}, before.number + 1)
    (change, *_) = rig.control.history("digits")
    assert (change.who, change.what) == ("shadow watch", "shadow off")
    assert change.changes == {"shadow 3": ("0.5", None)}
    assert "a worker was lost" in change.why
    rig.watch.lost(LANE)
    assert rig.route == after, "the second loss finds nothing to change"


def test_no_roll_back_brings_it_back(rig: Rig) -> None:
    rig.control.route("digits", {"1": 10, "2": 90})
    rig.watch.lost(LANE)
    rig.control.roll_back("digits")
    assert (rig.route.weights, rig.route.shadows) == ({"1": 60, "2": 40}, {"4": 0.1})
    rig.control.roll_back("digits")
    assert (rig.route.weights, rig.route.shadows) == ({"1": 1}, {})


def test_a_canary_goes_on_and_returns_to_the_route_without_it(rig: Rig) -> None:
    keys = [position_of("digits", f"user-{number}") for number in range(200)]
    before = [rig.route.at(key) for key in keys]
    canary.begin(rig.control, "digits", "5", **PLAN)
    rig.watch.lost(LANE)
    assert rig.traffic.canary is not None
    assert (rig.traffic.canary.under_way, rig.traffic.canary.shadows) == (True, {"4": 0.1})
    canary.stop(rig.control, "digits")
    assert rig.route.shadows == {"4": 0.1}
    assert [rig.route.at(key) for key in keys] == before


@pytest.mark.parametrize(
    ("alike", "failed", "stays"),
    [(0, 49, True), (0, 50, False), (40, 40, True), (40, 41, False), (1000, 50, True)],
)
def test_one_that_mostly_fails_is_switched_off(
    rig: Rig, alike: int, failed: int, stays: bool
) -> None:
    rig.compared("3", alike, failed)
    rig.compared("4", 1000, 0)
    rig.watch.look(rig.control.read("digits"))
    assert rig.route.shadows == ({"3": 0.5, "4": 0.1} if stays else {"4": 0.1})
    why = rig.control.history("digits")[0].why
    assert why == ("" if stays else f"{failed} of {alike + failed} copies failed on it alone")


@pytest.mark.parametrize(("runs_ms", "stays"), [(LONGEST_MS - 10_000, True), (180_000, False)])
def test_one_that_hangs_is_switched_off(rig: Rig, runs_ms: int, stays: bool) -> None:
    seconds, _ = rig.redis.time()
    keys = lane_keys("t", slot_of(LANE))
    rig.redis.zadd(keys.leases, {"b1": 2**52, "b2": 2**52})
    rig.redis.hset(f"{keys.batch}b1", "started", seconds * 1000)
    rig.redis.hset(f"{keys.batch}b2", "started", seconds * 1000 - runs_ms)
    rig.watch.look(rig.control.read("digits"))
    assert rig.route.shadows == ({"3": 0.5, "4": 0.1} if stays else {"4": 0.1})
    why = rig.control.history("digits")[0].why
    assert why == ("" if stays else "a batch of its copies has kept a worker's slot for 3 min")


def test_what_was_measured_under_another_route_does_not_count(rig: Rig) -> None:
    rig.compared("3", 0, 100)
    rig.control.route("digits", {"1": 50, "2": 50}, {"3": 0.5})
    rig.watch.look(rig.control.read("digits"))
    assert rig.route.shadows == {"3": 0.5}


def test_what_has_no_shadows_or_is_gone_is_left_alone(rig: Rig) -> None:
    assert without_shadow(Traffic(), "3") == Traffic()
    rig.control.route("digits", {"1": 1}, {})
    number = rig.control.read("digits").number
    rig.watch.look(rig.control.read("digits"))
    rig.watch.lost(LANE)
    rig.watch.lost("nowhere@1~shadow")
    assert rig.control.read("digits").number == number
