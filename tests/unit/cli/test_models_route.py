"""``umbel models alias``, ``route``, ``rollback`` and ``history``: who answers, and since when."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from umbel_registry import TensorSpec, Traffic, TrafficControl


@pytest.fixture
def control(store_redis: redis.Redis, namespace: str, register: Any) -> TrafficControl:
    """Of a model ``reader`` with three versions, and one that takes other inputs."""
    for version in ("1", "2", "3"):
        register("reader", version)
    register("reader", "wide", x=TensorSpec(dtype="float32", shape=(9,)))
    return TrafficControl(store_redis, namespace, who="ann@test")


def traffic(control: TrafficControl) -> Traffic:
    return control.read("reader").traffic


def test_aliases_move_together_and_are_listed(run_here: Any, control: TrafficControl) -> None:
    assert "umbel models alias reader production=" in run_here("models", "alias", "reader").out
    answer = run_here("models", "alias", "reader", "production=1", "staging=2")
    assert answer.out.splitlines() == ["alias production: none -> 1", "alias staging: none -> 2"]
    answer = run_here("models", "alias", "reader", "production=staging", "--remove", "staging")
    assert "alias staging: 2 -> none" in answer.out
    assert run_here("models", "alias", "reader", "--json").json == {"production": "2"}
    listed = run_here("models", "alias", "reader").out.split()
    assert listed == ["production", "2"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("best=9",), "no version '9'. It has: "),
        (("3=1",), "an alias needs a name of its own"),
        (("9=1",), "aliases.9"),
        (("--remove", "prodution"), "Did you mean 'production'?"),
    ],
)
def test_aliases_that_cannot_be(
    run_here: Any, control: TrafficControl, words: tuple[str, ...], told: str
) -> None:
    control.alias("reader", {"production": "1"})
    answer = run_here("models", "alias", "reader", *words)
    assert answer.code == 1
    assert told in answer.err
    assert traffic(control).aliases == {"production": "1"}


def test_an_alias_is_not_both_set_and_removed(run_here: Any, control: TrafficControl) -> None:
    answer = run_here("models", "alias", "reader", "best=1", "--remove", "best")
    assert (answer.code, "both set and removed" in answer.err) == (2, True)


def test_a_route_tells_how_much_it_moves(run_here: Any, control: TrafficControl) -> None:
    assert "the highest version answers" in run_here("models", "route", "reader").out
    run_here("models", "route", "reader", "1=1")
    answer = run_here("models", "route", "reader", "1=90", "2=10", "--shadow", "3=5%")
    assert answer.out.splitlines() == [
        "route: 1=1 -> 1=90 2=10",
        "shadow 3: none -> 0.05",
        "10 % of the routing keys go to another version than before.",
    ]
    told = run_here("models", "route", "reader", "1=9", "2=1", "--json").json
    assert (told["moved"], told["changes"]) == (0, {})
    assert "is so already" in run_here("models", "route", "reader", "1=9", "2=1").out


def test_shadows_change_alone(run_here: Any, control: TrafficControl) -> None:
    control.route("reader", {"1": 3, "2": 1})
    answer = run_here("models", "route", "reader", "--shadow", "3=0.5")
    assert "No routing key goes to another version" in answer.out
    route = traffic(control).route
    assert route is not None
    assert (route.weights, route.shadows) == ({"1": 3, "2": 1}, {"3": 0.5})
    assert "shadow 3: 0.5 -> none" in run_here("models", "route", "reader", "--no-shadows").out


def test_the_route_in_force_is_shown(run_here: Any, control: TrafficControl) -> None:
    control.route("reader", {"1": 90, "2": 10}, {"3": 0.05})
    control.alias("reader", {"production": "1"})
    shown = run_here("models", "route", "reader").out.splitlines()
    assert shown[0].startswith("reader: route 1, since 2")
    assert shown[0].endswith("by ann@test (route)")
    assert [line.split() for line in shown[3:]] == [
        ["1", "90", "90", "%", "registered", "production"],
        ["2", "10", "10", "%", "registered"],
        ["3", "shadow", "5", "%", "copied", "registered"],
    ]
    told = run_here("models", "route", "reader", "--json").json
    assert told["route"]["shares"] == {"1": 0.9, "2": 0.1}
    assert (told["by"], told["earlier"], told["route"]["set"]) == ("ann@test", 1, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("1=90", "8=10"), "no version '8'"),
        (("1=-5",), "A weight is a number above 0"),
        (("1=0",), "needs a version with a weight above 0"),
        (("1=1", "--shadow", "1=5%"), "cannot be a shadow too"),
        (("1=1", "wide=1"), "take different inputs"),
        (("1=1", "3=1"), "3 is retired"),
    ],
)
def test_routes_that_cannot_be(
    run_here: Any, control: TrafficControl, words: tuple[str, ...], told: str
) -> None:
    control.route("reader", {"2": 1})
    control.retire("reader", "3")
    before = traffic(control)
    answer = run_here("models", "route", "reader", *words)
    assert answer.code == 1
    assert told in answer.err
    assert traffic(control) == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("1=many",), "'many' is no number"),
        (("1",), "not of the form VERSION=WEIGHT"),
        (("--shadow", "3=5"), "'5' is no share"),
        (("--shadow", "3=5%", "--no-shadows"), "contradict each other"),
    ],
)
def test_words_that_are_no_route(run_here: Any, words: tuple[str, ...], told: str) -> None:
    answer = run_here("models", "route", "reader", *words)
    assert (answer.code, told in answer.err) == (2, True)


def test_where_every_version_is_retired_none_answers(
    run_here: Any, control: TrafficControl
) -> None:
    for version in ("1", "2", "3", "wide"):
        control.retire("reader", version)
    assert "every version is retired" in run_here("models", "route", "reader").out
    assert run_here("models", "route", "reader", "--json").json["route"] is None
    answer = run_here("models", "route", "reader", "--no-shadows")
    assert (answer.code, "Say which one is to" in answer.err) == (1, True)


def test_back_to_the_route_before(run_here: Any, control: TrafficControl) -> None:
    control.route("reader", {"1": 1})
    control.route("reader", {"2": 1})
    answer = run_here("models", "rollback", "reader", "--why", "wrong [labels]")
    assert answer.out == "route: 2=1 -> 1=1\n"
    newest = control.history("reader")[0]
    assert (newest.what, newest.why) == ("roll back", "wrong [labels]")
    told = run_here("models", "history", "reader").out
    assert "because: wrong [labels]" in told
    assert "roll back" in told
    changes = run_here("models", "history", "reader", "--limit", "2", "--json").json
    assert [(each["what"], each["changes"]["route"]) for each in changes] == [
        ("roll back", ["2=1", "1=1"]),
        ("route", ["1=1", "2=1"]),
    ]


def test_nothing_to_roll_back(run_here: Any, control: TrafficControl) -> None:
    answer = run_here("models", "rollback", "reader")
    assert (answer.code, "no earlier route to return to" in answer.err) == (1, True)
    assert "Nothing about reader was changed yet." in run_here("models", "history", "reader").out
    answer = run_here("models", "history", "raeder")
    assert (answer.code, "Did you mean 'reader'?" in answer.err) == (1, True)


@pytest.mark.parametrize(
    "words",
    [
        ("alias", "reader", "production=2"),
        ("route", "reader", "2=1"),
        ("rollback", "reader"),
    ],
)
def test_a_dry_run_changes_nothing(
    run_here: Any, control: TrafficControl, words: tuple[str, ...]
) -> None:
    control.route("reader", {"3": 1})
    control.route("reader", {"1": 1})
    before = traffic(control)
    answer = run_here("models", *words, "--dry-run")
    assert answer.code == 0
    assert " -> " in answer.out
    assert "A dry run: nothing was changed." in answer.out
    assert run_here("models", *words, "--dry-run", "--json").json["dry_run"] is True
    assert traffic(control) == before
