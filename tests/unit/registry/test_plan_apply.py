"""What a file says is done: pushes first, then one change a model, when workers are ready."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from umbel_batching.keys import workers_key
from umbel_config.errors import BatchUnsafe, CanaryUnderWay, ModelError, NotReady
from umbel_registry import ArtifactStore, Catalog, Manifest, TrafficControl
from umbel_registry.fleet import Fleet, Held, LoadState, Report
from umbel_registry.plan import Plan, plan
from umbel_registry.plan_apply import Hands, apply
from umbel_registry.plan_file import read_plan_file
from umbel_registry.traffic import Canary

Make = Callable[..., tuple[Path, Manifest]]
HANDLER = """
    class Double:
        def __init__(self, folder, device): pass
        def forward(self, batch): return [2 * row for row in batch]

    class Mean(Double):
        def forward(self, batch): return [sum(batch) / len(batch) for row in batch]
"""
ONE = {"x": {"dtype": "float64", "shape": []}}


@dataclass
class Lab:
    """A registry, a file that is said to it, and workers that say what they are told to."""

    catalog: Catalog
    store: ArtifactStore
    make_manifest: Make
    folder: Path
    waits: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.redis = self.catalog._redis
        self.control = TrafficControl(self.redis, "test", who="ann@site")
        self.fleet = Fleet(self.redis, "test")

    def know(self, *versions: str, name: str = "digits") -> None:
        for version in versions:
            self.catalog.register(self.make_manifest(version, version.encode(), name)[1])

    def plan(self, **models: Any) -> Plan:
        path = self.folder / "models.yaml"
        path.write_text(str({"models": models}))
        return plan(read_plan_file(path), self.store, self.control)

    def apply(self, planned: Plan, **more: Any) -> dict[str, ModelError]:
        hands = Hands(
            catalog=self.catalog,
            store=self.store,
            control=self.control,
            fleet=self.fleet,
            **{"why": "models.yaml", "sleep": self.sleep, "clock": lambda: 0.0, **more},
        )
        return apply(planned, hands)

    def sleep(self, _: float) -> None:
        self.waits.append("slept")
        assert len(self.waits) < 9, "this wait would go on for ever"

    def work(self, version: str = "", state: LoadState = "ready", error: str = "") -> None:
        """A worker of two slots lives, and tells that a version is at that state."""
        seconds, _ = self.redis.time()
        self.redis.zadd(workers_key("test", "umbel"), {"host:1|2": (seconds + 60) * 1000})
        if version:
            digest = self.control.read("digits").manifests[version].digest
            held = Held("digits", version, digest, state, since_ms=0, error=error)
            report = Report("host:1", "host:1", slots=2, queues=("umbel",), held=(held,))
            self.fleet.tell(report, seconds * 1000)

    @property
    def weights(self) -> dict[str, float] | None:
        route = self.control.read("digits").traffic.route
        return route.weights if route else None


@pytest.fixture
def lab(catalog: Catalog, store: ArtifactStore, make_manifest: Make, tmp_path: Path) -> Lab:
    return Lab(catalog, store, make_manifest, tmp_path)


@pytest.fixture
def handler(plugin: Callable[[str], str]) -> str:
    return plugin(HANDLER)


@pytest.fixture
def model(write_model: Callable[..., Path], handler: str) -> Callable[..., str]:
    """A folder with a model that can be pushed; a size of batches makes each another one."""

    def write(size: int, of: str = "Double") -> str:
        return str(
            write_model(
                format="handler",
                handler=f"{handler}:{of}",
                weights=None,
                inputs=ONE,
                outputs={"y": ONE["x"]},
                batching={"max_batch_size": size},
            )
        )

    return write


def test_all_of_it_is_done_at_once_and_only_once(lab: Lab, model: Any, handler: str) -> None:
    digits = {
        "versions": {"3": model(3), "4": model(4), "5": model(5)},
        "aliases": {"production": "3"},
        "route": {"3": 90, "4": 10},
        "batching": {"3": {"max_wait_ms": 2}},
        "retired": {"5": {"queued": "reroute", "to": "4"}},
    }
    pushed: list[str] = []
    done: list[str] = []
    problems = lab.apply(
        lab.plan(digits=digits),
        allowed_modules=(handler,),
        on_push=lambda manifest: pushed.append(manifest.version),
        on_done=done.append,
    )
    assert (problems, pushed, done) == ({}, ["3", "4", "5"], ["digits"])
    standing = lab.control.read("digits")
    assert [*standing.manifests] == ["3", "4", "5"]
    assert standing.traffic.aliases == {"production": "3"}
    assert standing.traffic.policies == {"3": {"max_wait_ms": 2}}
    assert standing.traffic.retired["5"].to == "4"
    (change,) = lab.control.history("digits")
    assert (change.what, change.who, change.why) == ("apply", "ann@site", "models.yaml")
    assert {*change.changes} == {"alias production", "route", "batching 3", "retired 5"}
    again = lab.plan(digits=digits)
    assert (again.steps, again.problems) == ((), {})
    assert lab.apply(again, on_done=done.append) == {}
    assert (lab.control.read("digits").number, done) == (standing.number, ["digits"])


def test_no_job_goes_to_a_new_version_before_the_route_says_so(
    lab: Lab, model: Any, handler: str
) -> None:
    lab.know("3")
    seen: list[Any] = []
    planned = lab.plan(digits={"versions": {"4": model(4)}, "aliases": {}, "route": {"3": 1}})
    assert (
        lab.apply(planned, allowed_modules=(handler,), on_push=lambda _: seen.append(lab.weights))
        == {}
    )
    assert seen == [{"3": 1}]


def test_a_folder_says_whether_its_outputs_may_depend_on_the_batch(
    lab: Lab, model: Any, handler: str
) -> None:
    folder = model(4, of="Mean")
    problems = lab.apply(lab.plan(digits={"versions": {"1": folder}}), allowed_modules=(handler,))
    assert isinstance(problems["digits"], BatchUnsafe)
    accepted = {"1": {"folder": folder, "accept_batch_variance": True}}
    assert lab.apply(lab.plan(digits={"versions": accepted}), allowed_modules=(handler,)) == {}
    assert lab.catalog.versions("digits") == ["1"]


def test_what_moved_since_the_plan_ends_as_the_file_says(lab: Lab) -> None:
    lab.know("1", "2")
    planned = lab.plan(digits={"aliases": {"production": "2"}})
    lab.control.alias("digits", {"canary": "1", "production": "1"})
    lab.control.set_policy("digits", "1", {"max_wait_ms": 9})
    assert lab.apply(planned) == {}
    traffic = lab.control.read("digits").traffic
    assert traffic.aliases == {"production": "2"}
    assert traffic.policies == {"1": {"max_wait_ms": 9}}, "the file says nothing of it"


def test_one_model_that_cannot_be_changed_does_not_hold_up_the_others(lab: Lab) -> None:
    lab.know("1", "2")
    lab.know("1", name="reader")
    planned = lab.plan(digits={"route": {"1": 1}}, reader={"aliases": {"production": "1"}})
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
    lab.control.change(
        "digits", "canary", lambda now: now.traffic.model_copy(update={"canary": canary})
    )
    problems = lab.apply(planned)
    assert [*problems] == ["digits"]
    assert isinstance(problems["digits"], CanaryUnderWay)
    assert lab.control.read("reader").traffic.aliases == {"production": "1"}
    known = lab.plan(digits={"route": {"1": 1}})
    assert lab.apply(known) == known.problems
    assert isinstance(known.problems["digits"], CanaryUnderWay)


def test_a_route_waits_for_workers_to_load_what_gains_by_it(lab: Lab) -> None:
    lab.know("1", "2")
    lab.control.route("digits", {"1": 1})
    lab.work("2", "loading")
    looks: list[tuple[str, int]] = []

    def sleep(_: float) -> None:
        assert lab.weights == {"1": 1}
        assert lab.control.read("digits").traffic.wanted.keys() == {"2"}
        lab.work("2")

    problems = lab.apply(
        lab.plan(digits={"route": {"1": 1, "2": 1}}),
        sleep=sleep,
        on_wait=lambda manifest, told: looks.append((manifest.version, told.ready)),
    )
    assert (problems, looks) == ({}, [("2", 0)])
    assert lab.weights == {"1": 1, "2": 1}


def test_nobody_waits_for_a_version_that_loses_by_it(lab: Lab) -> None:
    lab.know("1", "2")
    lab.control.route("digits", {"1": 1, "2": 1})
    lab.work("1")
    assert lab.apply(lab.plan(digits={"route": {"1": 9, "2": 1}})) == {}
    assert (lab.weights, lab.waits) == ({"1": 9, "2": 1}, [])


@pytest.mark.parametrize(
    ("state", "error", "what"),
    [
        ("loading", "", r"after 0 s workers can run 0 of 2 .*Not ready: host:1\. Wait longer"),
        ("failed", "no memory", "version 2 could not be loaded on host:1: no memory"),
        (None, "", "no worker serves queue umbel"),
    ],
)
def test_a_route_stays_where_workers_do_not_load_it(
    lab: Lab, state: Any, error: str, what: str
) -> None:
    lab.know("1", "2")
    lab.control.route("digits", {"1": 1})
    if state:
        lab.work("2", state, error)
    planned = lab.plan(digits={"route": {"2": 1}, "aliases": {"production": "2"}})
    problems = lab.apply(planned, timeout_s=0)
    with pytest.raises(NotReady, match=what):
        raise problems["digits"]
    assert lab.weights == {"1": 1}
    assert lab.control.read("digits").traffic.aliases == {}
    assert lab.apply(planned, now=True) == {}
    assert lab.weights == {"2": 1}


def test_an_alias_that_moves_waits_as_well_and_a_new_one_does_not(lab: Lab) -> None:
    lab.know("1", "2")
    lab.control.alias("digits", {"production": "1"})
    lab.work("2", "loading")
    assert lab.apply(lab.plan(digits={"aliases": {"production": "1", "next": "2"}})) == {}
    moved = lab.plan(digits={"aliases": {"production": "2"}})
    assert isinstance(lab.apply(moved, timeout_s=0)["digits"], NotReady)
    assert lab.control.read("digits").traffic.aliases["production"] == "1"
    lab.work("2")
    assert lab.apply(moved) == {}
    assert lab.control.read("digits").traffic.aliases == {"production": "2"}


def test_a_first_route_is_set_where_no_worker_lives_yet(lab: Lab) -> None:
    lab.know("1", "2")
    assert lab.apply(lab.plan(digits={"route": {"1": 1}})) == {}
    assert lab.weights == {"1": 1}


def test_a_first_route_waits_for_workers_that_live(lab: Lab) -> None:
    lab.know("1", "2")
    lab.work("1", "loading")
    problems = lab.apply(lab.plan(digits={"route": {"1": 1}}), timeout_s=0)
    assert isinstance(problems["digits"], NotReady)


def test_a_retired_version_is_brought_back_to_be_loaded(lab: Lab) -> None:
    lab.know("1", "2")
    lab.control.retire("digits", "2")
    lab.work("2", "loading")

    def sleep(_: float) -> None:
        standing = lab.control.read("digits")
        assert (standing.traffic.retired, lab.weights) == ({}, {"1": 1})
        assert standing.traffic.to_load(standing.now_ms)[0] == "2"
        lab.work("2")

    assert lab.apply(lab.plan(digits={"route": {"2": 1}, "retired": {}}), sleep=sleep) == {}
    assert lab.weights == {"2": 1}
    whats = [(change.what, change.why) for change in lab.control.history("digits")]
    assert whats == [
        ("apply", "models.yaml"),
        ("apply", "so that workers can load it"),
        ("apply", "it answers on while other versions come in"),
        ("retire", ""),
    ]
