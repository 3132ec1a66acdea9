"""The state of a version follows from what workers tell and what routes say."""

from __future__ import annotations

from typing import Any

import fakeredis
import pytest

from umbel_registry import Catalog, Manifest, ModelFile
from umbel_registry.edits import Standing
from umbel_registry.fleet import Fleet, Held, LoadFailure, Report
from umbel_registry.life import Life, VersionState, life_of, lives
from umbel_registry.manifest import build_manifest
from umbel_registry.paths import FileInfo
from umbel_registry.route import Route
from umbel_registry.traffic import Retirement, Traffic
from umbel_registry.traffic_control import TrafficControl

NOW = 1_800_000_000_000


def manifest(version: str) -> Manifest:
    model = ModelFile.model_validate(
        {
            "name": "digits",
            "format": "torch_export",
            "weights": "model.pt2",
            "inputs": {"x": {"dtype": "float32", "shape": [4]}},
            "outputs": {"y": {"dtype": "float32"}},
        }
    )
    files = {"model.pt2": FileInfo(bytes=1, sha256=version.zfill(64))}
    return build_manifest(model, files, version)


MANIFESTS = {version: manifest(version) for version in ("1", "2", "3")}
ROUTE = Route.of({"2": 90, "3": 10}, shadows={"1": 0.5})


def report(process: str, version: str, state: Any = "ready", **changes: Any) -> Report:
    digest = changes.pop("digest", MANIFESTS[version].digest)
    held = Held("digits", version, digest, state, NOW, **changes)
    return Report(process, process, 1, ("umbel",), held=(held,))


def life(
    version: str, reports: list[Report], traffic: Traffic | None = None, **failed: str
) -> Life:
    standing = Standing("digits", 1, traffic or Traffic(route=ROUTE), MANIFESTS, NOW)
    return life_of(standing, version, reports, {name[1:]: why for name, why in failed.items()})


def test_version_that_nobody_has_touched_is_registered() -> None:
    found = life("3", [report("a:1", "2")])
    assert (found.state, found.why, found.places) == (VersionState.REGISTERED, "", ())
    assert (found.share, found.shadow) == (0.1, 0.0)
    assert life("1", []).shadow == 0.5


def test_states_follow_the_reports() -> None:
    loading, ready = report("a:1", "3", "loading"), report("b:2", "3")
    broken = report("c:3", "3", "failed", error="no memory")
    assert life("3", [loading]).state is VersionState.LOADING
    assert life("3", [loading, broken]).state is VersionState.LOADING
    assert life("3", [ready]).state is VersionState.SERVING
    assert life("3", [ready, loading]).state is VersionState.SERVING
    both = life("3", [broken, ready])
    assert (both.state, both.why) == (VersionState.SERVING, "not on all workers: c:3: no memory")
    assert [place.process for place in both.places] == ["c:3", "b:2"]
    failed = life("3", [broken])
    assert (failed.state, failed.why) == (VersionState.FAILED, "c:3: no memory")


def test_loaded_version_without_a_part_of_the_route_is_ready() -> None:
    assert life("1", [report("a:1", "1")]).state is VersionState.READY
    everything = Traffic()  # the highest version answers
    assert life("3", [report("a:1", "3")], everything).state is VersionState.SERVING
    assert life("3", [], everything).share == 1.0
    assert life("2", [report("a:1", "2")], everything).state is VersionState.READY


def test_last_failure_is_told_until_somebody_tries_again() -> None:
    found = life("3", [], _3="the file is gone")
    assert (found.state, found.why) == (VersionState.FAILED, "the file is gone")
    assert life("3", [report("a:1", "3", "loading")], _3="gone").state is VersionState.LOADING
    assert life("3", [report("a:1", "3")], _3="gone").state is VersionState.SERVING


def test_retired_version_is_retired_whoever_has_it_loaded() -> None:
    retired = {"1": Retirement(queued="reroute", to="2", at=NOW, by="ann@desk")}
    traffic = Traffic(route=Route.of({"2": 1}), retired=retired)
    found = life("1", [report("a:1", "1")], traffic)
    assert found.state is VersionState.RETIRED
    assert found.why == "by ann@desk; what waits: reroute on 2"
    assert len(found.places) == 1


def test_older_content_of_that_name_is_no_place() -> None:
    found = life("3", [report("a:1", "3", digest="f" * 64)])
    assert (found.state, found.places) == (VersionState.REGISTERED, ())


def test_all_versions_of_a_model_in_order_with_their_names() -> None:
    redis = fakeredis.FakeRedis()
    for each in MANIFESTS.values():
        Catalog(redis, "t").register(each)
    control, fleet = TrafficControl(redis, "t"), Fleet(redis, "t")
    control.alias("digits", {"production": "2", "before": "1", "also": "2"})
    fleet.tell(report("a:1", "2"), NOW)
    fleet.note_failure("digits", "1", LoadFailure(NOW, "b:2", "no such file"))
    found = lives(redis, "t", control.read("digits"))
    assert [*found] == ["1", "2", "3"]
    assert [each.state.value for each in found.values()] == ["failed", "serving", "registered"]
    assert found["2"].aliases == ("also", "production")
    assert found["1"].why == "no such file"
    assert [each.share for each in found.values()] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("state", [*VersionState])
def test_states_are_words(state: VersionState) -> None:
    assert str(state) == state.name.lower()
