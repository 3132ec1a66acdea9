"""What can move about a model is stored without loss, and read with care."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from umbel_batching.policy import BatchPolicy
from umbel_config.errors import ArtifactTampered
from umbel_registry.route import Route
from umbel_registry.traffic import Canary, Retirement, Traffic, traffic_of

names = st.from_regex(r"[0-9A-Za-z][0-9A-Za-z._-]{0,8}", fullmatch=True)
aliases = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,8}", fullmatch=True)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
shares = st.floats(1e-9, 1e9)
fractions = st.floats(0, 1, exclude_min=True)
finite = st.floats(allow_nan=False, allow_infinity=False)
moments = st.integers(0, 2**53)


@st.composite
def routes(draw: Any) -> Route:
    weights = st.dictionaries(names, shares, min_size=1, max_size=4)
    before = Route.of(draw(weights)) if draw(st.booleans()) else None
    number, shadows = draw(moments), draw(st.dictionaries(names, fractions, max_size=2))
    return Route.of(draw(weights), before=before, shadows=shadows, number=number)


canaries = st.builds(
    Canary,
    version=names,
    steps=st.lists(finite, max_size=4).map(tuple),
    every_s=finite,
    min_jobs=st.integers(),
    max_error_rate=finite,
    max_p95_ms=st.none() | finite,
    warm_s=st.just(300.0) | finite,
    step=st.just(-1) | st.integers(),
    since_ms=moments,
    started_ms=moments,
    by=text,
    before=st.dictionaries(names, finite, max_size=2),
    shadows=st.dictionaries(names, finite, max_size=2),
    state=st.sampled_from(["warming", "stepping", "promoted", "rolled_back", "stopped"]),
    reason=text,
)
traffics = st.builds(
    Traffic,
    aliases=st.dictionaries(aliases, names, max_size=3),
    route=st.none() | routes(),
    earlier=st.lists(routes(), max_size=2).map(tuple),
    routes=moments,
    retired=st.dictionaries(
        names,
        st.builds(
            Retirement,
            queued=st.sampled_from(["finish", "reroute", "fail"]),
            to=st.none() | names,
            at=moments,
            by=text,
        ),
        max_size=2,
    ),
    policies=st.dictionaries(names, st.dictionaries(text, st.integers(), max_size=2), max_size=2),
    wanted=st.dictionaries(names, moments, max_size=2),
    canary=st.none() | canaries,
)


def stored(traffic: Traffic, number: int = 3) -> dict[bytes, bytes]:
    return {b"number": str(number).encode(), b"state": traffic.to_json().encode()}


@given(traffics)
@settings(max_examples=60)
def test_nothing_is_lost_on_the_way_to_redis_and_back(traffic: Traffic) -> None:
    number, read = traffic_of(stored(traffic), "digits")
    assert (number, read) == (3, traffic)
    assert read.model_dump() == traffic.model_dump()
    assert read.to_json() == traffic.to_json()
    if traffic.route is not None and read.route is not None:
        assert [*read.route.weights] == [*traffic.route.weights], "their order is kept too"


def test_values_that_are_the_defaults_survive_too() -> None:
    route = Route.of({"3": 1.0}, number=0, shadows={})
    given = Canary(
        version="4",
        steps=(),
        every_s=1.0,
        min_jobs=0,
        max_error_rate=0.0,
        max_p95_ms=None,
        warm_s=300.0,
        step=-1,
        since_ms=0,
        started_ms=0,
        by="",
        before={},
        shadows={},
        state="warming",
        reason="",
    )
    traffic = Traffic(aliases={}, route=route, earlier=(route,), routes=0, canary=given)
    _, read = traffic_of(stored(traffic), "digits")
    assert read == traffic
    assert isinstance(read.earlier, tuple)
    assert read.canary is not None
    assert isinstance(read.canary.steps, tuple)
    assert Traffic().to_json() == "{}"


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("field", ["every_s", "max_p95_ms", "max_error_rate", "warm_s"])
def test_infinity_that_could_not_be_read_back_is_refused(field: str, number: float) -> None:
    usual: dict[str, Any] = {"version": "4", "steps": (1.0,), "every_s": 1.0, "min_jobs": 1}
    usual |= {"max_error_rate": 0.1, "since_ms": 0, "started_ms": 0, "by": "me", "before": {}}
    Canary(**usual)
    with pytest.raises(ValidationError):
        Canary(**(usual | {field: number}))


def test_nothing_stored_is_no_change_at_all() -> None:
    assert traffic_of({}, "digits") == (0, Traffic())
    assert traffic_of({"number": "4", "state": "{}", "ids": "x"}, "digits") == (4, Traffic())


@pytest.mark.parametrize(
    "fields",
    [
        {b"state": b""},
        {b"state": b"null"},
        {b"state": b"[]"},
        {b"state": b'{"of a later release": 1}'},
        {b"state": b'{"aliases": {"latest one": "3"}}'},
        {b"state": b'{"aliases": {"1": "3"}}'},
        {b"state": b'{"routes": -1}'},
        {b"state": b'{"route": {"weights": {"3": 1}}}'},
        {b"state": b'{"retired": {"3": {"queued": "burn", "at": 1, "by": ""}}}'},
        {b"state": b'{"canary": {}}'},
        {b"state": b"\xff\xfe"},
        {b"state": b"{}", b"number": b"many"},
        {b"state": b"{}", b"\xff": b"1"},
        {b"state": b"[" * 100_000},
    ],
    ids=lambda fields: repr(fields)[:60],
)
def test_what_cannot_be_read_is_told_as_such(fields: dict[bytes, bytes]) -> None:
    with pytest.raises(ArtifactTampered, match="of the routes of digits is not readable"):
        traffic_of(fields, "digits")


def test_policy_of_another_release_is_told_as_such() -> None:
    own = BatchPolicy(max_batch_size=8)
    traffic = Traffic(policies={"3": {"max_wait_ms": 9}, "4": {"of a later release": 1}})
    assert traffic.policy_of("3", own) == BatchPolicy(max_batch_size=8, max_wait_ms=9)
    assert traffic.policy_of("5", own) is own
    with pytest.raises(ArtifactTampered, match="batching policy of version 4"):
        traffic.policy_of("4", own)


def retired(*versions: str) -> dict[str, Retirement]:
    return {name: Retirement(queued="finish", at=0, by="me") for name in versions}


def test_latest_is_the_highest_version_that_takes_jobs() -> None:
    traffic = Traffic(aliases={"production": "9"}, retired=retired("10"))
    versions = ["9", "10", "2"]
    assert traffic.named("latest", versions) == "9"
    assert traffic.named("production", versions) == "9"
    assert traffic.named("2", versions) == "2"
    assert traffic.named("other", versions) == "other"
    assert Traffic(retired=retired("2", "9", "10")).named("latest", versions) == "10"
    assert traffic.named("latest", []) == "latest"


def test_without_a_route_the_highest_live_version_answers_everything() -> None:
    traffic = Traffic(routes=4, retired=retired("10"))
    route = traffic.route_among(["9", "10"])
    assert route is not None
    assert (route.weights, route.number) == ({"9": 1.0}, 4)
    assert Traffic(retired=retired("9")).route_among(["9"]) is None
    assert Traffic().route_among([]) is None
    own = Route.of({"3": 1.0}, number=2)
    assert Traffic(route=own, routes=5).route_among(["9"]) is own
    assert Traffic(route=own, routes=5).number_in_force == 2
    assert Traffic(routes=5).number_in_force == 5


def test_versions_to_load_begin_with_what_is_asked_for_and_leave_out_what_is_retired() -> None:
    traffic = Traffic(
        wanted={"7": 100, "8": 99},
        route=Route.of({"3": 10, "4": 90}, shadows={"5": 0.1}),
        earlier=(Route.of({"2": 1, "6": 2}), Route.of({"1": 1})),
        aliases={"a": "9", "b": "3"},
        retired=retired("6"),
    )
    assert traffic.to_load(99) == ["7", "4", "3", "5", "9", "2"]
    assert Traffic().to_load(0) == []


def test_every_use_of_a_version_is_named_the_weightiest_first() -> None:
    usual: dict[str, Any] = {"version": "7", "steps": (1.0,), "every_s": 1.0, "min_jobs": 1}
    usual |= {"max_error_rate": 0.1, "since_ms": 0, "started_ms": 0, "by": "me"}
    canary = Canary(**usual, before={"3": 1.0, "6": 1.0})
    traffic = Traffic(
        route=Route.of({"3": 1}, shadows={"5": 0.1}),
        aliases={"production": "3", "old": "1"},
        canary=canary,
    )
    assert traffic.in_use() == {
        "3": "the route",
        "5": "a shadow of the route",
        "1": "alias old",
        "6": "the canary",
        "7": "the canary",
    }
    over = traffic.model_copy(update={"canary": canary.model_copy(update={"state": "promoted"})})
    assert over.in_use().keys() == {"3", "5", "1"}


def test_canary_knows_its_percent() -> None:
    usual: dict[str, Any] = {"version": "7", "steps": (1.0, 50.0), "every_s": 1.0, "min_jobs": 1}
    usual |= {"max_error_rate": 0.1, "since_ms": 0, "started_ms": 0, "by": "me", "before": {}}
    assert [Canary(**usual, step=step).percent for step in (-1, 0, 1)] == [0.0, 1.0, 50.0]
    assert json.loads(Canary(**usual).model_dump_json())["state"] == "warming"
