"""A plan says what it takes to make models stand as a file says, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from umbel_config.errors import (
    CanaryUnderWay,
    ModelFolderInvalid,
    ModelNotFound,
    PlanInvalid,
    RouteInvalid,
    VersionExists,
    VersionInUse,
    VersionNotFound,
    VersionRetired,
)
from umbel_registry import ArtifactStore, Catalog, Manifest, TensorSpec, TrafficControl
from umbel_registry.plan import Plan, plan
from umbel_registry.plan_edit import wanted_traffic
from umbel_registry.plan_file import PlanFile, read_plan_file
from umbel_registry.traffic import Canary, Traffic

Make = Callable[..., tuple[Path, Manifest]]
Planned = Callable[[dict[str, Any]], Plan]


@pytest.fixture
def control(catalog: Catalog) -> TrafficControl:
    return TrafficControl(catalog._redis, "test", who="ann@site")


@pytest.fixture
def known(catalog: Catalog, make_manifest: Make) -> Callable[..., None]:
    """Makes versions of ``digits`` known that nobody can run."""

    def register(*versions: str, **changes: Any) -> None:
        for version in versions:
            catalog.register(make_manifest(version, content=version.encode(), **changes)[1])

    return register


@pytest.fixture
def said(tmp_path: Path) -> Callable[[dict[str, Any]], PlanFile]:
    """What a file says that names these models."""

    def write(models: dict[str, Any]) -> PlanFile:
        path = tmp_path / "models.yaml"
        path.write_text(str({"models": models}))  # a dict of Python is one of YAML
        return read_plan_file(path)

    return write


@pytest.fixture
def planned(said: Any, store: ArtifactStore, control: TrafficControl) -> Planned:
    return lambda models: plan(said(models), store, control)


def steps(found: Plan) -> list[tuple[str, str, str | None, str | None]]:
    return [(step.verb, step.thing, step.before, step.after) for step in found.steps]


def test_steps_stand_in_the_order_in_which_they_are_done(
    planned: Planned, known: Any, control: TrafficControl, write_model: Any, tmp_path: Path
) -> None:
    known("1", "2", "3")
    control.route("digits", {"2": 1, "3": 1}, {"1": 0.5})
    control.alias("digits", {"old": "3", "production": "2"})
    control.route("digits", {"3": 1}, {})
    control.alias("digits", {"production": "3"})
    control.retire("digits", "1")
    control.set_policy("digits", "3", {"max_wait_ms": 9, "max_queue": 7})
    folder = write_model(inputs={"x": {"dtype": "float32", "shape": [4]}})
    found = planned(
        {
            "digits": {
                "versions": {"4": str(folder)},
                "retired": {"2": "fail"},
                "batching": {"3": {"max_wait_ms": 2}},
                "shadows": {"1": 0.25},
                "route": {"3": 90, "4": 10},
                "aliases": {"production": "3", "next": "4"},
            }
        }
    )
    assert found.problems == {}
    assert steps(found) == [
        ("push", "version 4", None, str(folder)),
        ("bring back", "retired 1", "finish", None),
        ("alias", "alias old", "3", None),
        ("alias", "alias next", None, "4"),
        ("route", "route", "3=1", "3=90 4=10"),
        ("shadow", "shadow 1", None, "0.25"),
        ("batching", "batching 3", "max_wait_ms=9 max_queue=7", "max_wait_ms=2"),
        ("retire", "retired 2", None, "fail"),
    ]
    assert {step.model for step in found.steps} == {"digits"}
    assert control.read("digits").traffic.aliases == {"old": "3", "production": "3"}


def test_nothing_is_to_be_done_where_all_stands_as_it_is_said(
    planned: Planned, known: Any, control: TrafficControl, make_manifest: Make, catalog: Catalog
) -> None:
    known("1", "2")
    control.route("digits", {"1": 3, "2": 1})
    control.alias("digits", {"production": "1"})
    control.set_policy("digits", "1", {"max_wait_ms": 9})
    whole = {
        "aliases": {"production": "1"},
        "route": {"1": 75, "2": 25},
        "shadows": {},
        "batching": {"1": {"max_wait_ms": 9}, "2": {"max_wait_ms": 5}},
        "retired": {},
    }
    assert steps(planned({"digits": whole})) == []
    assert steps(planned({"digits": {}})) == []
    assert steps(planned({})) == []


def test_a_section_that_is_empty_removes_what_is_there(
    planned: Planned, known: Any, control: TrafficControl
) -> None:
    known("1", "2")
    control.alias("digits", {"production": "2"})
    control.set_policy("digits", "2", {"max_wait_ms": 9})
    control.retire("digits", "1")
    found = planned({"digits": {"aliases": {}, "batching": {}, "retired": {}}})
    assert steps(found) == [
        ("bring back", "retired 1", "finish", None),
        ("alias", "alias production", "2", None),
        ("batching", "batching 2", "max_wait_ms=9", None),
    ]


def test_the_version_that_answers_goes_on_while_a_higher_one_comes_in(
    planned: Planned, known: Any, write_model: Any, control: TrafficControl
) -> None:
    known("2", "3")
    (model,) = planned(
        {"digits": {"versions": {"4": str(write_model())}, "route": {"4": 1}}}
    ).models
    assert (model.hold, model.steps[0].verb, model.steps[0].after) == ("3", "hold", "3=1")
    lower = {"versions": {"1": str(write_model())}, "route": {"1": 1}}
    assert planned({"digits": lower}).models[0].hold is None
    unrouted = {"versions": {"4": str(write_model())}}
    assert planned({"digits": unrouted}).models[0].hold is None
    control.retire("digits", "3")
    back = planned({"digits": {"retired": {}, "route": {"3": 1}}})
    assert back.models[0].hold == "2"
    control.route("digits", {"2": 1})
    assert planned({"digits": {"retired": {}, "route": {"3": 1}}}).models[0].hold is None


def test_a_model_that_is_new(planned: Planned, write_model: Any) -> None:
    folder = write_model()
    found = planned({"digits": {"versions": {"1": str(folder)}, "route": {"1": 1}}})
    assert steps(found) == [
        ("push", "version 1", None, str(folder)),
        ("route", "route", None, "1=1"),
    ]
    assert found.models[0].new


def test_folders_are_named_from_where_one_stands(
    planned: Planned, write_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model()
    monkeypatch.chdir(tmp_path)
    assert planned({"digits": {"versions": {"1": folder.name}}}).steps[0].after == folder.name


def test_what_is_registered_is_not_pushed_again(
    planned: Planned, write_model: Any, catalog: Catalog, make_manifest: Make, tmp_path: Path
) -> None:
    from umbel_registry.folder import read_files, read_model_file
    from umbel_registry.manifest import build_manifest

    folder = write_model()
    model = read_model_file(folder)
    catalog.register(build_manifest(model, read_files(folder, model), "1"))
    assert steps(planned({"digits": {"versions": {"1": str(folder)}}})) == []
    gone = str(tmp_path / "not-here")
    assert steps(planned({"digits": {"versions": {"1": gone}}})) == []
    (folder / "model.pt2").write_bytes(b"other weights")
    problem = planned({"digits": {"versions": {"1": str(folder)}}}).problems["digits"]
    assert isinstance(problem, VersionExists)
    assert str(problem).startswith("models.digits.versions.1: ")


def test_what_lies_in_the_artifact_root_is_not_replaced(
    planned: Planned, write_model: Any, store: ArtifactStore, make_manifest: Make
) -> None:
    store.put(*make_manifest("1"))
    problem = planned({"digits": {"versions": {"1": str(write_model())}}}).problems["digits"]
    assert isinstance(problem, VersionExists)


@pytest.mark.parametrize(
    ("wanted", "kind", "what"),
    [
        ({"route": {"9": 1}}, VersionNotFound, "models.digits: version '9' is not registered"),
        ({"aliases": {"p": "9"}}, VersionNotFound, "version '9' is not registered"),
        ({"batching": {"9": {}}}, VersionNotFound, "version '9' is not registered"),
        ({"retired": {"9": "fail"}}, VersionNotFound, "There are: 1, 2, 3."),
        ({"route": {"1": 1}}, VersionRetired, "digits 1 is retired"),
        ({"retired": {"2": "fail"}}, VersionInUse, "the route points to it"),
        ({"aliases": {"v3": "3"}, "retired": {"2": "fail"}}, VersionInUse, "the route"),
        ({"route": {"2": 1, "3": 1}}, RouteInvalid, "take different inputs"),
        ({"versions": {"4": "nowhere"}}, ModelFolderInvalid, "models.digits.versions.4: .*exist"),
    ],
)
def test_what_cannot_be_done_is_told_by_model(
    planned: Planned, known: Any, control: TrafficControl, wanted: Any, kind: type, what: str
) -> None:
    known("1", "2")
    known("3", inputs={"z": TensorSpec(dtype="int64", shape=(1,))})
    control.route("digits", {"2": 1})
    control.retire("digits", "1")
    known("1", "2", name="reader")
    found = planned({"digits": wanted, "reader": {"aliases": {"production": "1"}}})
    assert list(found.problems) == ["digits"]
    with pytest.raises(kind, match=what):
        raise found.problems["digits"]
    assert steps(found) == [("alias", "alias production", None, "1")]


def test_a_folder_of_another_model(planned: Planned, write_model: Any) -> None:
    found = planned({"reader": {"versions": {"1": str(write_model())}}, "nobody": {}})
    assert isinstance(found.problems["reader"], PlanInvalid)
    assert "calls itself 'digits'" in str(found.problems["reader"])
    assert isinstance(found.problems["nobody"], ModelNotFound)


def test_a_canary_is_left_to_decide_about_its_route(
    planned: Planned, known: Any, control: TrafficControl
) -> None:
    known("1", "2")
    canary = Canary(
        version="2",
        steps=(10.0,),
        every_s=60,
        min_jobs=1,
        max_error_rate=0.1,
        since_ms=0,
        started_ms=0,
        by="bob@site",
        before={"1": 1.0},
    )
    control.change("digits", "canary", lambda now: Traffic(canary=canary))
    found = planned({"digits": {"route": {"1": 1}}})
    assert isinstance(found.problems["digits"], CanaryUnderWay)
    assert steps(planned({"digits": {"aliases": {"production": "1"}}})) != []


def retirements(traffic: Traffic) -> dict[str, tuple[str, str | None]]:
    return {version: (each.queued, each.to) for version, each in traffic.retired.items()}


def test_what_waits_goes_to_a_version_that_stays(
    said: Any, known: Any, control: TrafficControl
) -> None:
    known("1", "2", "3")
    wanted = said({"digits": {"retired": {"3": "reroute", "2": "reroute"}}}).models["digits"]
    traffic = wanted_traffic(control.read("digits"), wanted, "ann")
    assert retirements(traffic) == {"3": ("reroute", "1"), "2": ("reroute", "1")}


def test_a_retirement_that_is_as_it_is_said_keeps_its_date(
    said: Any, known: Any, control: TrafficControl
) -> None:
    known("1", "2", "3", "4")
    control.retire("digits", "1", queued="reroute", to="2")
    before = control.read("digits")

    def after(retired: dict[str, Any]) -> Traffic:
        return wanted_traffic(
            before, said({"digits": {"retired": retired}}).models["digits"], "ann"
        )

    assert after({"1": "reroute"}) == before.traffic
    assert after({"1": {"queued": "reroute", "to": "2"}}) == before.traffic
    assert retirements(after({"1": {"queued": "reroute", "to": "3"}})) == {"1": ("reroute", "3")}
    assert retirements(after({"1": "fail"})) == {"1": ("fail", None)}
    moved = after({"1": "reroute", "2": "finish"})
    assert retirements(moved) == {"1": ("reroute", "4"), "2": ("finish", None)}
