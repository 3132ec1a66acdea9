"""``umbel models list`` and ``show``: what versions are at, where they are, who answers."""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from rich.console import Console

from umbel_batching.policy import BatchPolicy
from umbel_cli.models.tables import models_table, places_table
from umbel_registry import Manifest, Signature, TrafficControl
from umbel_registry.fleet import Fleet, Held, LoadFailure
from umbel_registry.life import Life, Place, VersionState
from umbel_registry.traffic import Canary

_WIDE = Console(width=500)


@pytest.fixture
def control(store_redis: redis.Redis, namespace: str, register: Any) -> TrafficControl:
    """Of a model ``reader``: 1 and 2 answer, 3 gets copies, and 1 has a name."""
    for version in ("1", "2", "3"):
        register("reader", version)
    control = TrafficControl(store_redis, namespace, who="ann@test")
    control.route("reader", {"1": 90, "2": 10}, {"3": 0.05})
    control.alias("reader", {"production": "1"})
    return control


def rows(text: str) -> dict[str, str]:
    """The lines of a table of names and values."""
    parts = (line.split(None, 1) for line in text.splitlines())
    return {part[0]: part[1] for part in parts if len(part) == 2}


def test_the_list_tells_state_share_and_aliases(
    run_here: Any, control: TrafficControl, serve: Any
) -> None:
    first = control.read("reader").manifests["1"]
    serve("a:1", Held("reader", "1", first.digest, "ready", 0))
    lines = [line.split() for line in run_here("models", "list").out.splitlines()]
    assert lines[0][:5] == ["model", "version", "state", "share", "aliases"]
    assert lines[1][:6] == ["reader", "1", "serving", "90", "%", "production"]
    assert lines[2][:5] == ["reader", "2", "registered", "10", "%"]
    assert lines[3][:6] == ["reader", "3", "registered", "5", "%", "copied"]
    lives = [each["life"] for each in run_here("models", "list", "--json").json]
    assert [(life["share"], life["shadow"]) for life in lives] == [(0.9, 0), (0.1, 0), (0, 0.05)]
    assert lives[0]["places"][0]["worker"] == "a:1"
    assert lives[0]["aliases"] == ["production"]


def test_why_a_version_does_not_load_stands_beneath_the_tables(
    run_here: Any, control: TrafficControl, store_redis: redis.Redis, namespace: str
) -> None:
    failure = LoadFailure(1, "a:1", "ModelLoadFailed: shop_models is not allowed here")
    Fleet(store_redis, namespace).note_failure("reader", "2", failure)
    for words in (
        ("models", "list"),
        ("models", "route", "reader"),
        ("models", "show", "reader", "2"),
    ):
        assert "shop_models is not allowed here" in run_here(*words).out


def test_a_version_is_shown_by_its_alias_with_all_about_it(
    run_here: Any, control: TrafficControl, serve: Any
) -> None:
    control.set_policy("reader", "1", {"max_wait_ms": 2})
    control.want("reader", "1", 600)
    first = control.read("reader").manifests["1"]
    since = int(time.time() * 1000) - 3_700_000
    ready = Held("reader", "1", first.digest, "ready", since, mb=412.7, load_s=1.31, warm_s=0.25)
    serve("a:1", ready)
    serve("b:1", Held("reader", "1", first.digest, "failed", since, error="OSError: no disk"))
    shown = run_here("models", "show", "reader", "production").out
    told = rows(shown)
    assert "reader 1" in shown
    assert told["state"].strip() == "serving, not on all workers: b:1: OSError: no disk"
    assert told["share"].strip() == "90 %"
    assert "max_wait_ms 2 (pushed: 5)" in shown
    assert "workers keep it loaded for another" in told["wanted"]
    assert " ".join(told["a:1"].split()) == "ready 1 h ago 413 MB 1.31 s 0.25 s -"
    assert " ".join(told["b:1"].split()) == "failed 1 h ago - - - -"
    assert told["route"].endswith("by ann@test (route)")
    assert "1: 90 %, 2: 10 %" in shown
    assert "production = 1" in shown
    assert "1 route to return to" in shown


def test_without_a_version_the_highest_that_takes_jobs_is_shown(
    run_here: Any, control: TrafficControl
) -> None:
    assert run_here("models", "show", "reader", "--json").json["version"] == "3"
    control.route("reader", {"1": 1}, {})
    control.retire("reader", "3", queued="reroute")
    told = run_here("models", "show", "reader", "--json").json
    assert (told["version"], told["traffic"]["earlier"]) == ("2", 2)
    assert told["traffic"]["retired"]["3"]["to"] == "1"
    shown = run_here("models", "show", "reader", "3").out
    assert "retired, by ann@test; what waits: reroute on 1" in shown


def test_why_it_does_not_load_outlives_the_worker(
    run_here: Any, control: TrafficControl, store_redis: redis.Redis, namespace: str
) -> None:
    failure = LoadFailure(int(time.time() * 1000) - 65_000, "gone:1", "OSError: no [disk]")
    Fleet(store_redis, namespace).note_failure("reader", "2", failure)
    shown = run_here("models", "show", "reader", "2").out
    assert "failed, OSError: no [disk]" in shown
    assert "1 min ago on gone:1: OSError: no [disk]" in shown
    told = run_here("models", "show", "reader", "2", "--json").json
    assert told["traffic"]["last_failure"]["worker"] == "gone:1"


def test_a_canary_is_told_of(run_here: Any, control: TrafficControl) -> None:
    canary = Canary(
        version="3",
        steps=(5.0, 50.0),
        every_s=1,
        min_jobs=1,
        max_error_rate=0.1,
        step=0,
        since_ms=0,
        started_ms=0,
        by="bob@test",
        before={"1": 1},
        state="stepping",
        reason="waits for 10 more jobs",
    )
    control.change(
        "reader", "canary", lambda now: now.traffic.model_copy(update={"canary": canary})
    )
    shown = run_here("models", "show", "reader").out
    assert "3 stepping at 5 %: waits for 10 more jobs" in shown
    told = run_here("models", "show", "reader", "--json").json
    assert told["traffic"]["canary"]["steps"] == [5, 50]


def test_a_model_without_a_version_that_answers(run_here: Any, register: Any) -> None:
    register("sum")
    run_here("models", "retire", "sum", "1")
    assert "every version is retired, so none answers" in run_here("models", "show", "sum").out


def entry(signature: Signature, name: str = "reader") -> tuple[Manifest, Life]:
    manifest = Manifest(
        name=name,
        format="torch_export",
        weights="model.pt2",
        version="2025-06",
        signature=signature,
        policy=BatchPolicy(),
        files={},
        digest="0" * 64,
        created_at=datetime(2025, 6, 1, tzinfo=UTC),
    )
    life = Life(name, "2025-06", VersionState.SERVING, share=0.125, aliases=("production",))
    return manifest, life


@pytest.mark.parametrize(
    ("width", "missing"),
    [
        (160, set()),
        (100, {"created", "batch"}),
        (80, {"created", "batch", "format", "outputs"}),
        (20, {"created", "batch", "format", "outputs", "queue"}),
    ],
)
def test_a_narrow_list_leaves_out_whole_columns(
    signature: Signature, width: int, missing: set[str]
) -> None:
    console = Console(width=width)
    table = models_table([entry(signature)], console)
    names = {str(column.header) for column in table.columns}
    whole = {str(column.header) for column in models_table([entry(signature)], _WIDE).columns}
    assert len(whole) == 11
    assert names == whole - missing
    with console.capture() as printed:
        console.print(table)
    if width > 20:
        assert "…" not in printed.get()
        assert "12.5 %" in printed.get()


def test_a_place_names_its_process_where_that_is_another(signature: Signature) -> None:
    held = Held("reader", "2", "0", "ready", 0, device="cuda:1", pinned=True)
    place = Place("box:1", "box:1", held)
    assert "process" not in [column.header for column in places_table([place], 1000).columns]
    table = places_table([place, dataclasses.replace(place, process="box:2")], 1000)
    console = Console(width=100)
    with console.capture() as printed:
        console.print(table)
    assert "box:2" in printed.get()
    assert "cuda:1, pinned" in printed.get()
