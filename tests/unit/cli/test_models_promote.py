"""``umbel models promote`` and ``warm``: workers first, then the jobs."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from umbel_cli.models import promote as command
from umbel_registry import Manifest, Traffic, TrafficControl
from umbel_registry.fleet import Held, LoadState, Readiness


@pytest.fixture
def control(store_redis: redis.Redis, namespace: str, register: Any) -> TrafficControl:
    """Of a model ``reader`` with two versions, the first of which answers."""
    register("reader", "1")
    register("reader", "2")
    control = TrafficControl(store_redis, namespace)
    control.route("reader", {"1": 1})
    return control


def held(manifest: Manifest, state: LoadState, error: str = "") -> Held:
    return Held(manifest.name, manifest.version, manifest.digest, state, 0, error=error)


def traffic(control: TrafficControl) -> Traffic:
    return control.read("reader").traffic


def test_a_version_that_is_loaded_gets_all_jobs(
    run_here: Any, control: TrafficControl, serve: Any
) -> None:
    second = control.read("reader").manifests["2"]
    serve("a:1", held(second, "ready"), slots=2)
    answer = run_here("models", "promote", "reader", "2")
    assert (answer.code, answer.out) == (0, "route: 1=1 -> 2=1\n")
    assert "waiting: 2 of 2 worker slots have reader 2 loaded and warm" in answer.err
    assert traffic(control).wanted["2"] > 0
    again = run_here("models", "promote", "reader", "2", "--json")
    assert (again.json["changes"], again.err) == ({}, "")


def test_part_of_the_workers_can_be_enough_for_an_alias(
    run_here: Any, control: TrafficControl, serve: Any
) -> None:
    second = control.read("reader").manifests["2"]
    serve("a:1", held(second, "ready"))
    serve("b:1", held(second, "loading"))
    words = ("models", "promote", "reader", "2", "--alias", "production")
    told = run_here(*words, "--min-ready", "50%", "--json").json
    assert told["changes"] == {"alias production": [None, "2"]}
    route = traffic(control).route
    assert route is not None
    assert route.weights == {"1": 1}


def test_it_gives_up_at_once_where_waiting_is_in_vain(
    run_here: Any, control: TrafficControl, serve: Any
) -> None:
    answer = run_here("models", "promote", "reader", "2")
    assert answer.code == 1
    assert answer.err.count("no worker serves") == 1
    assert "umbel worker --queues umbel" in answer.err
    serve("a:1", held(control.read("reader").manifests["2"], "failed", "OSError: no disk"))
    answer = run_here("models", "promote", "reader", "2")
    assert (answer.code, "a:1: OSError: no disk." in answer.err) == (1, True)


def test_it_gives_up_when_the_time_is_over(
    run_here: Any, control: TrafficControl, serve: Any
) -> None:
    serve("a:1", held(control.read("reader").manifests["2"], "loading"))
    answer = run_here("models", "promote", "reader", "2", "--timeout", "0s")
    assert answer.code == 1
    assert "waiting: 0 of 1 worker slots have reader 2 loaded and warm; not yet: a:1" in answer.err
    assert "Not ready: a:1. All jobs go where they went before." in answer.err


def test_without_waiting_no_worker_is_needed(run_here: Any, control: TrafficControl) -> None:
    assert run_here("models", "promote", "reader", "2", "--now").out == "route: 1=1 -> 2=1\n"


def test_a_dry_run_tells_how_ready_workers_are(
    run_here: Any, control: TrafficControl, serve: Any
) -> None:
    second = control.read("reader").manifests["2"]
    serve("a:1", held(second, "ready"))
    serve("b:1", held(second, "failed", "no disk."))
    before = traffic(control)
    answer = run_here("models", "promote", "reader", "2", "--dry-run")
    assert answer.out.splitlines() == [
        "route: 1=1 -> 2=1",
        "Now 1 of 2 worker slots have reader 2 loaded and warm; b:1 could not load it: no disk.",
        "A dry run: nothing was changed.",
    ]
    told = run_here("models", "promote", "reader", "2", "--dry-run", "--json").json
    assert (told["workers"]["ready"], told["workers"]["missing"]) == (1, ["b:1"])
    assert traffic(control) == before


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("9",), 1, "no version '9'. It has: 1, 2."),
        (("2", "--min-ready", "200%"), 2, "'200%' is no share"),
        (("2", "--timeout", "soon"), 2, "'soon' is no length of time"),
        (("2", "--alias", "1"), 1, "an alias needs a name of its own"),
    ],
)
def test_promotions_that_cannot_be(
    run_here: Any, control: TrafficControl, words: tuple[str, ...], code: int, told: str
) -> None:
    answer = run_here("models", "promote", "reader", *words)
    assert (answer.code, told in answer.err) == (code, True)


def test_a_retired_version_is_not_promoted(run_here: Any, control: TrafficControl) -> None:
    control.retire("reader", "2")
    answer = run_here("models", "promote", "reader", "2", "--now")
    assert (answer.code, "umbel models retire reader 2 --undo" in answer.err) == (1, True)


def test_the_line_on_a_terminal_is_live(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with command._progress("reader 2", quiet=False) as tell:
        tell(Readiness(2, 1, ("a:1",), {}))
    told = capsys.readouterr()
    assert told.out == ""
    assert "\x1b[?25l" in told.err  # the cursor is hidden while the line moves


def test_warming_asks_and_tells(run_here: Any, control: TrafficControl, serve: Any) -> None:
    answer = run_here("models", "warm", "reader", "2")
    assert answer.out.splitlines() == [
        "Workers are asked to keep reader 2 loaded for 10 min.",
        "Now no worker serves its queue.",
        "Start one: umbel worker --queues umbel",
    ]
    serve("a:1", held(control.read("reader").manifests["2"], "loading"))
    answer = run_here("models", "warm", "reader", "2", "--for", "2h")
    assert "0 of 1 worker slots have reader 2 loaded and warm; not yet: a:1." in answer.out
    standing = control.read("reader")
    wish_s = (standing.traffic.wanted["2"] - standing.now_ms) / 1000
    assert 7000 < wish_s <= 7200
    told = run_here("models", "warm", "reader", "latest", "--json").json
    assert (told["version"], told["for_s"], told["workers"]["missing"]) == ("2", 600, ["a:1"])


def test_nobody_is_asked_to_load_what_is_retired(run_here: Any, control: TrafficControl) -> None:
    control.retire("reader", "2")
    answer = run_here("models", "warm", "reader", "2")
    assert (answer.code, "2 is retired" in answer.err) == (1, True)
