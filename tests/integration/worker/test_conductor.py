"""Beside each worker: what must happen though nobody asks for it happens, if need be later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from umbel_config.settings import Settings
from umbel_registry import ArtifactStore, TrafficControl
from umbel_registry.figures import FiguresStore, Tallies
from umbel_registry.keepsake import Keepsake
from umbel_worker import conductor as module
from umbel_worker.conductor import Conductor


@pytest.fixture
def control(site: Settings, store_redis: redis.Redis) -> TrafficControl:
    return TrafficControl(store_redis, site.namespace, who="test")


@pytest.fixture
def conductor(site: Settings) -> Iterator[Conductor]:
    made = Conductor(site)
    yield made
    made.stop()


def test_routes_are_kept_when_they_change_and_again_where_that_failed(
    conductor: Conductor,
    control: TrafficControl,
    site: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept, full = Keepsake(ArtifactStore(site.artifacts), control), [True]
    keep = Keepsake.keep

    def fails_once(self: Keepsake, model: str) -> Any:
        if full.pop() if full else False:
            raise OSError("the disk is full")
        return keep(self, model)

    monkeypatch.setattr(Keepsake, "keep", fails_once)
    monkeypatch.setattr(module, "_POLICIES_S", 0.0)
    control.route("affine", {"1": 1})
    conductor.turn()
    assert "the disk is full" in caplog.text
    assert kept.read("affine") is None
    conductor.turn()
    found = kept.read("affine")
    assert found is not None
    assert found.state == control.read("affine").traffic


def test_a_shadow_that_mostly_fails_is_switched_off(
    conductor: Conductor,
    control: TrafficControl,
    site: Settings,
    store_redis: redis.Redis,
    register: Any,
) -> None:
    register(site, handler="Fussy")
    control.route("affine", {"1": 1}, {"2": 1.0})
    conductor.turn()
    number, tallies = control.read("affine").traffic.number_in_force, Tallies()
    tallies.add_pairs("affine", number, "2", [], failed=60)
    FiguresStore(store_redis, site.namespace).add(tallies.take())
    conductor.turn()
    change = control.history("affine")[0]
    assert (change.what, change.why) == ("shadow off", "60 of 60 copies failed on it alone")
