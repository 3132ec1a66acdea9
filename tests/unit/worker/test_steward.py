"""A worker's process tells what it has loaded, loads what is wanted and unloads what is retired."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest

from umbel_config.errors import ModelLoadFailed, ModelNotFound
from umbel_config.settings import Settings, load_settings
from umbel_registry import Catalog, Manifest, TrafficControl
from umbel_registry.figures import FiguresStore, Tallies
from umbel_registry.fleet import Fleet, readiness_of
from umbel_registry.life import VersionState, lives
from umbel_registry.loads import Loads
from umbel_registry.manifest import ModelFile, build_manifest
from umbel_worker import steward as module
from umbel_worker.board import Board
from umbel_worker.holdings import Holding
from umbel_worker.steward import Loader, Steward


class Models:
    """Stands where the cache of loaded models does."""

    def __init__(self) -> None:
        self.held: dict[str, Holding] = {}
        self.refuse: set[str] = set()
        self.asked: list[str] = []
        self.seen = threading.Event()
        self.sparing: dict[str, list[str]] = {}

    def holdings(self) -> list[Holding]:
        return list(self.held.values())

    def put(self, name: str, digest: str = "", **given: Any) -> None:
        known: dict[str, Any] = {"state": "ready", "since_ms": 1, "mb": 5.0, "load_s": 0.5}
        known |= {"warm_s": 0.25, "device": "cpu", "error": "", "used_ms": 1, "pinned": False}
        self.held[name] = Holding(name=name, digest=digest, **(known | given))

    def preload(self, name: str, sparing: Any = ()) -> bool:
        self.sparing[name] = list(sparing)
        self.asked.append(name)
        self.seen.set()
        if name in self.refuse:
            raise ModelLoadFailed("damaged")
        self.put(name)
        return True

    def unload(self, name: str) -> bool:
        return self.held.pop(name, None) is not None


class Site:
    """A steward on a fake Redis, and the registry that it follows."""

    def __init__(self, store: fakeredis.FakeRedis, **overrides: Any) -> None:
        self.store, self.models, self.tallies = store, Models(), Tallies()
        self.settings: Settings = load_settings(namespace="t", queues=("umbel",), **overrides)
        self.catalog, self.control = Catalog(store, "t"), TrafficControl(store, "t", who="test")
        self.board = Board(store, "t")
        self.steward = Steward(
            store,
            self.settings,
            worker="host:1",
            process="host:1",
            slots=2,
            models=self.models,  # type: ignore[arg-type]
            loads=Loads(store, "t", "host:1"),
            board=self.board,
            tallies=self.tallies,
            changed=threading.Event(),
        )

    def wanted(self) -> list[str]:
        self.board.refresh()
        return self.steward._wanted(self.board.all(), time.time_ns() // 1_000_000)


@pytest.fixture
def site(store: fakeredis.FakeRedis) -> Callable[..., Site]:
    return lambda **overrides: Site(store, **overrides)


@pytest.fixture
def registered(store: fakeredis.FakeRedis) -> Callable[..., Manifest]:
    def register(version: str, name: str = "digits", queue: str = "umbel") -> Manifest:
        floats = {"dtype": "float32", "shape": [4]}
        model = ModelFile.model_validate(
            {"name": name, "format": "handler", "handler": "a:B", "queue": queue}
            | {"inputs": {"x": floats}, "outputs": {"y": floats}}
        )
        manifest = build_manifest(model, {}, version)
        Catalog(store, "t").register(manifest)
        return manifest

    return register


def test_what_is_loaded_is_told_and_makes_workers_ready(site: Any, registered: Any) -> None:
    made, manifest = site(), registered("1")
    made.models.put("digits@1", manifest.digest)
    made.steward.beat()
    (report,) = Fleet(made.store, "t").reports()
    assert (report.worker, report.slots, report.loaded_mb) == ("host:1", 2, 5.0)
    found = readiness_of(manifest, {"host:1": 2, "host:2": 1}, [report])
    assert (found.ready, found.slots, found.missing) == (2, 3, ("host:2",))
    standing = made.control.read("digits")
    assert lives(made.store, "t", standing)["1"].state is VersionState.SERVING
    made.steward.stop()
    assert Fleet(made.store, "t").reports() == []


def test_a_failure_is_kept_until_it_loads(site: Any, registered: Any) -> None:
    made, manifest = site(), registered("1")
    made.models.put("digits@1", manifest.digest, state="failed", error="ModelLoadFailed: damaged")
    made.steward.beat()
    assert "damaged" in Fleet(made.store, "t").failures("digits")["1"].error
    made.steward.stop()
    life = lives(made.store, "t", made.control.read("digits"))["1"]
    assert (life.state, "damaged" in life.why) == (VersionState.FAILED, True)
    made.models.put("digits@1", manifest.digest)
    made.steward.beat()
    assert Fleet(made.store, "t").failures("digits") == {}


def test_what_routes_and_wishes_name_is_wanted_on_the_queues_it_serves(
    site: Any, registered: Any
) -> None:
    made = site(pinned_models=("faces@7", "digits"))
    for version in ("1", "2", "3"):
        registered(version)
    registered("4", queue="gpu")
    registered("1", name="other")
    made.control.route("digits", {"1": 90, "2": 10}, {"4": 0.1})
    made.control.want("digits", "3", 60)
    made.control.want("other", "1", 60)
    assert made.wanted() == [
        *("faces@7", "digits@1"),  # pinned, the whole name as its route has it
        *("digits@3", "digits@2"),
        "other@1",
    ]


def test_nothing_is_wanted_where_nobody_said_so(site: Any, registered: Any) -> None:
    made = site()
    registered("1")
    assert made.wanted() == []


def test_a_retired_version_is_unloaded_once_it_is_idle(
    site: Any, registered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = site()
    registered("1")
    registered("2")
    now = time.time_ns() // 1_000_000
    made.models.put("digits@1", used_ms=now, since_ms=1)
    made.models.put("digits@2", used_ms=1, since_ms=1)
    made.control.retire("digits", "1")
    made.steward.beat()
    assert set(made.models.held) == {"digits@1", "digits@2"}
    monkeypatch.setattr(module, "_IDLE_MS", -1000)
    made.steward.beat()
    assert set(made.models.held) == {"digits@2"}


def test_figures_are_written_and_begin_anew(site: Any) -> None:
    made = site()
    made.tallies.add("digits", 3, "1", [1.0, 2.0], 0.5, 1)
    made.steward.beat()
    made.steward.beat()
    figures = FiguresStore(made.store, "t").read("digits", 3, ["1"])["1"]
    assert (figures.jobs, figures.failed) == (2, 1)


def test_a_redis_that_is_away_ends_nothing() -> None:
    server = fakeredis.FakeServer()
    made = Site(fakeredis.FakeRedis(server=server))
    server.connected = False
    made.steward.beat()
    server.connected = True
    made.steward.beat()
    assert len(Fleet(made.store, "t").reports()) == 1


@pytest.fixture
def loader() -> Iterator[tuple[Models, Loader]]:
    models = Models()
    made = Loader(models)  # type: ignore[arg-type]
    made.start()
    yield models, made
    made.stop()
    made._thread.join()


def test_the_loader_loads_in_order_and_leaves_what_failed_for_later(
    loader: tuple[Models, Loader], wait_until: Any
) -> None:
    models, made = loader
    models.refuse.add("b@1")
    made.want(["a@1", "b@1", "c@1"])
    wait_until(lambda: len(models.asked) == 3, "all are tried")
    made.want(["a@1", "b@1", "c@1"])
    made.want(["a@1", "b@1", "d@1"])
    wait_until(lambda: len(models.asked) == 4, "the new one too")
    assert models.asked == ["a@1", "b@1", "c@1", "d@1"]
    assert models.sparing["c@1"] == ["a@1", "b@1"]


def test_a_new_wish_has_what_failed_tried_again_at_once(
    loader: tuple[Models, Loader], wait_until: Any
) -> None:
    models, made = loader
    models.refuse.add("b@1")
    made.want(["b@1"])
    wait_until(lambda: models.asked == ["b@1"], "it is tried")
    made.want([])
    made.want(["b@1"])
    wait_until(lambda: models.asked == ["b@1"] * 2, "it is tried again")


def test_an_unknown_model_that_is_pinned_is_no_reason_to_stop(site: Any) -> None:
    made = site(pinned_models=("nowhere",))
    with pytest.raises(ModelNotFound):
        made.control.read("nowhere")
    assert made.wanted() == []
