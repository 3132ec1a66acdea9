"""Redis loses its data while workers live: they put the models back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from umbel_batching.calls import Calls
from umbel_batching.keys import shared_keys
from umbel_batching.scripts import Runner
from umbel_config.connect import connect
from umbel_config.errors import StoreUnsuitable
from umbel_config.settings import Settings
from umbel_registry import ArtifactStore, Catalog, TrafficControl
from umbel_registry.keepsake import Keepsake
from umbel_worker.companions import Presence
from umbel_worker.repair import Repair

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register


@pytest.fixture
def lose(store_redis: redis.Redis, namespace: str) -> Callable[[], None]:
    """What FLUSHALL does to this test's namespace."""

    def lose() -> None:
        for key in store_redis.scan_iter(match=f"{namespace}*", count=1000):
            store_redis.delete(key)

    return lose


@pytest.fixture
def site(settings: MakeSettings, register: Register) -> Settings:
    made = settings(allowed_modules=("umbel_test_handlers",))
    register(made)
    register(made, name="shout")
    return made


@pytest.fixture
def repair(site: Settings, store_redis: redis.Redis) -> Repair:
    return Repair(site, Runner(store_redis), Calls.of(site))


def known(client: redis.Redis, site: Settings) -> list[str]:
    return [f"{each.name}@{each.version}" for each in Catalog(client, site.namespace).list()]


def test_models_come_back_with_one_warning(
    repair: Repair,
    site: Settings,
    store_redis: redis.Redis,
    lose: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    repair.look()
    lose()
    repair.look()
    repair.look()
    assert known(store_redis, site) == ["affine@1", "shout@1"]
    assert caplog.messages == ["Redis lost its data: re-registered 2 models"]


@pytest.fixture
def control(site: Settings, store_redis: redis.Redis) -> TrafficControl:
    """Of ``affine`` and ``shout``, whose traffic is kept."""
    control = TrafficControl(store_redis, site.namespace, who="ann@test")
    keepsake = Keepsake(ArtifactStore(site.artifacts), control)
    for model in ("affine", "shout"):
        control.alias(model, {"production": "1"})
        keepsake.keep(model)
    return control


def test_routes_come_back_with_the_models(
    repair: Repair, control: TrafficControl, lose: Any, caplog: pytest.LogCaptureFixture
) -> None:
    repair.look()
    lose()
    repair.look()
    repair.look()
    assert control.read("affine").traffic.aliases == {"production": "1"}
    assert [change.who for change in control.history("affine")] == ["repair"]
    assert caplog.messages == [
        "Redis lost its data: re-registered 2 models; put back the routes of affine, shout"
    ]


def test_workers_that_repair_side_by_side_put_routes_back_once(
    site: Settings, store_redis: redis.Redis, control: TrafficControl, lose: Any
) -> None:
    workers = [Repair(site, Runner(store_redis), Calls.of(site)) for _ in range(3)]
    for worker in workers:
        worker.look()
    lose()
    workers[0].look()
    control.alias("affine", {"production": None})
    for worker in workers[1:]:
        worker.look()
    assert control.read("affine").traffic.aliases == {}, "it was changed since it came back"


def test_a_damaged_copy_of_routes_does_not_hold_up_the_others(
    repair: Repair,
    site: Settings,
    namespace: str,
    control: TrafficControl,
    lose: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    repair.look()
    lose()
    (Path(site.artifacts) / "affine" / f"traffic-{namespace}.json").write_text("{}")
    repair.look()
    assert control.read("affine").traffic.aliases == {}
    assert control.read("shout").traffic.aliases == {"production": "1"}
    assert "where the routes of affine are kept, is not readable" in caplog.text
    assert "put back the routes of shout" in caplog.text


def test_what_was_pushed_since_does_not_hide_the_loss(
    repair: Repair, site: Settings, store_redis: redis.Redis, lose: Any, register: Register
) -> None:
    repair.look()
    lose()
    register(site, name="late")
    repair.look()
    assert known(store_redis, site) == ["affine@1", "late@1", "shout@1"]


def test_a_worker_that_starts_after_the_loss_notices_too(
    repair: Repair, site: Settings, store_redis: redis.Redis, lose: Any
) -> None:
    lose()
    repair.look()
    assert known(store_redis, site) == ["affine@1", "shout@1"]


def test_a_lost_register_alone_is_noticed(
    repair: Repair, site: Settings, store_redis: redis.Redis, lose: Any
) -> None:
    repair.look()
    store: Any = store_redis.get(shared_keys(site.namespace).store)
    lose()
    store_redis.set(shared_keys(site.namespace).store, store)
    repair.look()
    assert known(store_redis, site) == ["affine@1", "shout@1"]


def test_an_empty_installation_is_no_loss(
    settings: MakeSettings, store_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    site = settings()
    fresh = Repair(site, Runner(store_redis), Calls.of(site))
    fresh.look()
    fresh.look()
    assert caplog.messages == []


def test_a_damaged_manifest_does_not_hold_up_the_others(
    repair: Repair,
    site: Settings,
    store_redis: redis.Redis,
    lose: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    repair.look()
    lose()
    (Path(site.artifacts) / "shout" / "1" / "manifest.json").write_text("{}")
    repair.look()
    assert known(store_redis, site) == ["affine@1"]
    assert "re-registered 1 model" in caplog.text
    assert "1 versions restored, 1 not" in caplog.text


def test_an_outage_is_looked_at_again(
    settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    away = settings(redis_url="redis://127.0.0.1:1/0", redis_retries=0)
    with connect(away) as client:
        Repair(away, Runner(client), Calls.of(away)).look()
    assert "data not looked at" in caplog.text


def test_data_of_another_layout_keeps_a_worker_from_starting(
    site: Settings, store_redis: redis.Redis
) -> None:
    store_redis.set(shared_keys(site.namespace).store, "999 abc")
    with pytest.raises(StoreUnsuitable, match="layout 999"):
        Presence(site).start()
