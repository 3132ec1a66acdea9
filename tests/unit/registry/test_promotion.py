"""Promotion waits for workers, gives up when that is in vain, and flips in one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from umbel_batching.calls import Calls
from umbel_batching.scripts import Runner
from umbel_config.errors import (
    CanaryUnderWay,
    NotReady,
    RouteInvalid,
    VersionNotFound,
    VersionRetired,
)
from umbel_registry import Catalog, Manifest, TensorSpec, TrafficControl
from umbel_registry.fleet import RETRY_S, Fleet, Held, LoadState, Readiness, Report
from umbel_registry.manifest import ModelFile, build_manifest
from umbel_registry.paths import FileInfo
from umbel_registry.promotion import promote
from umbel_registry.traffic import Canary, Traffic


class Stage:
    """A model with versions, workers that tell what they have loaded, and time that stands."""

    def __init__(self, client: redis.Redis, namespace: str) -> None:
        self.client, self.namespace = client, namespace
        self.control = TrafficControl(client, namespace, who="ann@test")
        self.fleet = Fleet(client, namespace)
        self.seconds = 0.0
        self.meanwhile: list[Callable[[], object]] = []
        self.looks: list[Readiness] = []
        self.manifests = {version: self.push(version) for version in ("1", "2")}

    def push(self, version: str, width: int = 3, queue: str = "gpu") -> Manifest:
        model = ModelFile(
            name="digits",
            format="torch_export",
            weights="model.pt2",
            queue=queue,
            inputs={"x": TensorSpec(dtype="float32", shape=(width,))},
            outputs={"y": TensorSpec(dtype="float32", shape=(1,))},
        )
        manifest = build_manifest(
            model, {"model.pt2": FileInfo(sha256="0" * 64, bytes=int(version))}, version
        )
        Catalog(self.client, self.namespace).register(manifest)
        return manifest

    def worker(
        self, name: str, state: LoadState = "ready", *, version: str = "2", error: str = ""
    ) -> None:
        announced = Calls(self.namespace).announce("gpu", name, slots=2, stale_ms=10_000)
        Runner(self.client).run(announced)
        held = Held("digits", version, self.manifests[version].digest, state, 0, error=error)
        self.fleet.tell(
            Report(name, name, 2, ("gpu",), (held,)), self.control.read("digits").now_ms
        )

    def promote(self, version: str = "2", **options: Any) -> Any:
        return promote(
            self.control,
            self.fleet,
            "digits",
            version,
            on_wait=self.looks.append,
            clock=lambda: self.seconds,
            sleep=self.sleep,
            **options,
        )

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        if self.meanwhile:
            self.meanwhile.pop(0)()

    @property
    def traffic(self) -> Traffic:
        return self.control.read("digits").traffic

    @property
    def weights(self) -> dict[str, float]:
        route = self.traffic.route
        return route.weights if route else {}


@pytest.fixture
def stage(store_redis: redis.Redis, namespace: str) -> Stage:
    stage = Stage(store_redis, namespace)
    stage.control.route("digits", {"1": 1})
    return stage


def test_it_flips_once_all_workers_are_ready_and_not_before(stage: Stage) -> None:
    stage.worker("a:1")
    stage.worker("b:1", "loading")

    def unchanged() -> None:
        assert stage.weights == {"1": 1}
        wish = stage.traffic.wanted["2"] - stage.control.read("digits").now_ms
        assert 350_000 < wish <= 360_000

    stage.meanwhile = [unchanged, lambda: stage.worker("b:1")]
    change = stage.promote()
    assert stage.weights == {"2": 1}
    assert (change.what, change.who) == ("promote", "ann@test")
    assert change.changes == {"route": ("1=1", "2=1")}
    assert stage.control.history("digits")[0] == change
    assert [look.ready for look in stage.looks] == [2, 2, 4]


def test_it_cuts_no_longer_wish_short(stage: Stage) -> None:
    stage.control.want("digits", "2", 3600)
    stage.worker("a:1")
    stage.promote(timeout_s=10)
    assert stage.traffic.wanted["2"] - stage.control.read("digits").now_ms > 3_500_000


def test_less_than_all_may_be_enough(stage: Stage) -> None:
    stage.worker("a:1")
    stage.worker("b:1", "loading")
    stage.promote(min_ready=0.5)
    assert (stage.weights, stage.seconds) == ({"2": 1}, 0)


def test_a_worker_that_cannot_load_it_ends_the_wait_once_it_has_tried_again(stage: Stage) -> None:
    stage.worker("a:1", "loading")
    stage.worker("b:1", "failed", error="ModelLoadFailed: no shop_models here.")
    with pytest.raises(NotReady, match=r"b:1: ModelLoadFailed: no shop_models here\. All jobs"):
        stage.promote()
    assert stage.weights == {"1": 1}
    assert RETRY_S <= stage.seconds < RETRY_S + 1


def test_workers_that_fail_alike_share_a_sentence(stage: Stage) -> None:
    for number in range(10):
        stage.worker(f"w:{number}", "failed", error="gone")
    with pytest.raises(NotReady) as caught:
        stage.promote()
    assert str(caught.value).count("gone") == 1
    assert "w:7 and 2 more: gone" in str(caught.value)


def test_without_a_worker_it_says_how_to_start_one(stage: Stage) -> None:
    with pytest.raises(NotReady, match=r"no worker serves queue gpu.*umbel worker --queues gpu"):
        stage.promote()
    assert (stage.weights, stage.seconds) == ({"1": 1}, 0)


def test_when_the_time_has_passed_it_names_who_is_missing(stage: Stage) -> None:
    stage.worker("a:1")
    stage.worker("b:1", "loading")
    with pytest.raises(NotReady, match=r"after 10 s 2 of 4 .* 100 % .* Not ready: b:1\."):
        stage.promote(timeout_s=10, pause_s=4)
    assert (stage.weights, stage.seconds) == ({"1": 1}, 12)


def test_whoever_dies_while_waiting_has_changed_nothing_but_the_wish(stage: Stage) -> None:
    stage.worker("a:1", "loading")
    before = stage.traffic

    def die() -> None:
        raise KeyboardInterrupt

    stage.meanwhile = [die]
    with pytest.raises(KeyboardInterrupt):
        stage.promote()
    assert stage.traffic.model_copy(update={"wanted": {}}) == before
    assert [change.what for change in stage.control.history("digits")] == ["route"]


def test_it_need_not_wait(stage: Stage) -> None:
    change = stage.promote(now=True)
    assert stage.weights == {"2": 1}
    assert change.why == "without waiting for workers"
    assert stage.looks == []


def test_a_dry_run_looks_once_and_changes_nothing(stage: Stage) -> None:
    stage.worker("a:1")
    stage.worker("b:1", "loading")
    before = stage.traffic
    change = stage.promote(dry_run=True)
    assert change.changes == {"route": ("1=1", "2=1")}
    assert stage.traffic == before
    assert [(look.ready, look.slots) for look in stage.looks] == [(2, 4)]


def test_an_alias_moves_instead_of_the_route(stage: Stage) -> None:
    stage.worker("a:1")
    change = stage.promote(alias="production")
    assert change.changes == {"alias production": (None, "2")}
    assert stage.weights == {"1": 1}
    with pytest.raises(RouteInvalid, match="an alias needs a name of its own"):
        stage.promote(alias="1")


def test_shadows_stay_but_for_the_version_itself(stage: Stage) -> None:
    stage.push("3")
    stage.control.route("digits", {"1": 1}, {"2": 0.5, "3": 0.25})
    stage.worker("a:1")
    stage.promote()
    route = stage.traffic.route
    assert route is not None
    assert (route.weights, route.shadows) == ({"2": 1}, {"3": 0.25})


def test_what_answers_already_waits_for_nobody(stage: Stage) -> None:
    assert stage.promote("1").changes == {}
    assert (stage.looks, stage.traffic.wanted) == ([], {})


def test_a_canary_decides_about_the_route_but_not_about_aliases(stage: Stage) -> None:
    canary = Canary(
        version="2",
        steps=(1.0,),
        every_s=1,
        min_jobs=1,
        max_error_rate=0.1,
        since_ms=0,
        started_ms=0,
        by="bob@test",
        before={"1": 1},
    )
    stage.control.change(
        "digits", "canary", lambda now: now.traffic.model_copy(update={"canary": canary})
    )
    stage.worker("a:1")
    with pytest.raises(CanaryUnderWay, match="Stop it first"):
        stage.promote()
    assert stage.traffic.wanted == {}
    assert stage.promote(alias="next").changes == {"alias next": (None, "2")}


def test_a_version_retired_meanwhile_gets_no_jobs(stage: Stage) -> None:
    stage.worker("a:1", "loading")

    def retire() -> None:
        stage.control.retire("digits", "2")
        stage.worker("a:1")

    stage.meanwhile = [retire]
    with pytest.raises(VersionRetired):
        stage.promote()
    assert stage.weights == {"1": 1}


def test_a_version_pushed_meanwhile_is_not_the_one_that_was_meant(stage: Stage) -> None:
    stage.worker("a:1", "loading")
    stage.meanwhile = [lambda: stage.push("3"), lambda: stage.worker("a:1")]
    stage.promote("latest")
    assert stage.weights == {"2": 1}


def test_an_unknown_version_is_refused_with_what_there_is(stage: Stage) -> None:
    with pytest.raises(VersionNotFound, match=r"no version '9'\. It has: 1, 2"):
        stage.promote("9")
