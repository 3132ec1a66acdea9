"""The tuners of a process: which lanes have one, what it begins with, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fakeredis
import pytest

from umbel_batching.calls import Calls
from umbel_batching.census import LaneStatus, lane_status
from umbel_batching.keys import lane_keys
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.lines import Point
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import NO_REPLY, tail
from umbel_batching.scripts import Runner
from umbel_batching.values import NewJob, Settlement
from umbel_registry import Catalog, TrafficControl
from umbel_registry.loading import ArrayModel
from umbel_registry.manifest import ModelFile, build_manifest
from umbel_worker.board import Board
from umbel_worker.tuners import Tuners

ADAPTIVE = BatchPolicy(max_batch_size=64, mode="adaptive", latency_objective_ms=50)
LANE = Lane(model="digits", version="1", policy=ADAPTIVE)
TIMINGS = (Point(1, 5.1, 1.0), Point(64, 11.4, 1.0))


class Site:
    """The tuners of one process, on a clock that a test moves."""

    def __init__(self, store: fakeredis.FakeRedis, model: ArrayModel, policy: BatchPolicy) -> None:
        self.store, self.now, self.model = store, 100.0, model
        file = ModelFile(
            name="digits",
            format="torch_export",
            weights="model.pt2",
            inputs=model.signature.inputs,
            outputs=model.signature.outputs,
            batching=policy,
        )
        self.manifest = build_manifest(file, {}, "1")
        model.manifest = self.manifest
        self.runner, self.calls = Runner(store), Calls("t")
        self.board = Board(store, "t")
        self.tuners = self.process()

    def process(self, kind: str = "cpu/1") -> Tuners:
        return Tuners(self.runner, self.calls, self.board, kind, lambda: self.now)

    def submit(self) -> None:
        job = NewJob(new_uid(), tail(NO_REPLY, b"") + b"payload")
        self.runner.run(self.calls.submit(LANE, [job]))

    def limit(self, tuners: Tuners | None = None) -> int:
        return (tuners or self.tuners).limit(LANE.name, self.model, TIMINGS)

    def run(self, size: int, ms: float, succeeded: int | None = None, ceiling: int = 0) -> None:
        """Has the tuners note a batch."""
        good = size if succeeded is None else succeeded
        outcome = Settlement(["u"] * size, [], good, {}, 1, ceiling=ceiling)
        self.now += 0.2
        self.tuners.note(LANE.name, outcome, ms / 1000)

    def status(self) -> LaneStatus:
        status = lane_status(self.store, "t", LANE.name)
        assert status is not None
        return status


@pytest.fixture
def site(store: fakeredis.FakeRedis, array_model: Callable[..., ArrayModel]) -> Site:
    return Site(store, array_model(lambda x: x), ADAPTIVE)


def test_a_static_lane_has_no_tuner(site: Site) -> None:
    site.model.manifest = site.manifest.model_copy(update={"policy": BatchPolicy()})
    assert site.limit() == 0
    site.run(4, 1.0)
    site.submit()
    site.tuners.tell()
    assert site.status().tuned == []


def test_it_begins_with_what_warming_up_took(site: Site) -> None:
    assert site.limit() == 64
    site.model.manifest = site.manifest.model_copy(
        update={"policy": ADAPTIVE.model_copy(update={"latency_objective_ms": 14})}
    )
    assert 10 < site.limit() < 20


def test_it_learns_from_batches_and_tells(site: Site) -> None:
    site.submit()
    site.limit()
    for _ in range(10):
        site.run(64, 20.0)
        site.run(32, 13.0)
    site.tuners.tell()
    (told,) = site.status().tuned
    assert (told.kind, told.objective_ms, told.size) == ("cpu/1", 50, 64)
    assert told.cost_ms == pytest.approx(20.0, rel=0.05)
    assert (site.status().size_now, site.status().mode) == (64, "adaptive")


def test_batches_that_failed_or_ran_out_of_memory_say_nothing(site: Site) -> None:
    before = site.limit()
    for _ in range(20):
        site.run(64, 900.0, succeeded=63)
        site.run(64, 900.0, ceiling=32)
    assert site.limit() == before


def test_a_new_process_begins_with_what_others_know(site: Site) -> None:
    site.submit()
    site.limit()
    for _ in range(20):
        site.run(64, 60.0)
        site.run(16, 18.0)
    site.tuners.tell()
    learned = site.limit()
    assert learned < 40, "64 take too long"
    assert abs(site.limit(site.process()) - learned) <= 6
    assert site.limit(site.process("cuda:x/1")) == 64, "other devices have other costs"


@pytest.mark.parametrize("broken", [b"", b"1 2 3 {", b"1 2 3 []", b"\xff\xff"])
def test_what_others_wrote_may_be_broken(site: Site, broken: bytes) -> None:
    site.store.hset(lane_keys("t", LANE.slot).costs, "cpu/1", broken)
    assert site.limit() == 64


def test_it_is_told_again_before_it_lapses_and_not_once_the_lane_is_quiet(site: Site) -> None:
    site.submit()
    site.limit()
    costs = lane_keys("t", LANE.slot).costs

    def told() -> bool:
        site.store.delete(costs)
        site.tuners.tell()
        return bool(site.store.exists(costs))

    assert told()
    site.now += 1
    assert not told(), "nothing new"
    site.now += 3
    assert told()
    site.now += 60
    assert not told(), "no batch lately"


def test_a_live_policy_is_followed(site: Site, store: fakeredis.FakeRedis) -> None:
    Catalog(store, "t").register(site.manifest)
    control = TrafficControl(store, "t")
    assert site.limit() == 64
    for values, limit in (
        ({"max_batch_size": 8}, 8),
        ({"mode": "static"}, 0),
        ({"mode": "adaptive", "max_batch_size": 16}, 16),
    ):
        control.set_policy("digits", "1", values)
        site.board.refresh()
        assert site.limit() == limit


def test_a_policy_of_another_release_leaves_the_lane_static(
    site: Site, store: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    Catalog(store, "t").register(site.manifest)
    TrafficControl(store, "t").set_policy("digits", "1", {"max_batch_size": 8})
    site.board.refresh()
    standing: Any = site.board.of("digits")
    assert standing is not None
    standing.traffic.policies["1"] = {"max_batch_size": 0}
    assert site.limit() == 0
