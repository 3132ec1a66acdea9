"""Each verb gives the traffic that follows, key by key, or says why there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel_config.errors import (
    NothingToRollBack,
    PolicyInvalid,
    RouteInvalid,
    VersionInUse,
    VersionNotFound,
    VersionRetired,
)
from umbel_registry import edits
from umbel_registry.edits import Standing
from umbel_registry.manifest import Manifest, ModelFile, build_manifest
from umbel_registry.paths import FileInfo
from umbel_registry.route import SPACE, moved, position_of
from umbel_registry.traffic import MOST_EARLIER, Canary, Retirement, Traffic

NOW = 1_800_000_000_000


def manifest(version: str, width: int = 4, **batching: int) -> Manifest:
    model = ModelFile.model_validate(
        {
            "name": "digits",
            "format": "torch_export",
            "weights": "model.pt2",
            "inputs": {"x": {"dtype": "float32", "shape": [width]}},
            "outputs": {"y": {"dtype": "float32"}},
            "batching": batching,
        }
    )
    files = {"model.pt2": FileInfo(bytes=1, sha256=version.encode().hex().zfill(64))}
    return build_manifest(model, files, version)


MANIFESTS = {version: manifest(version) for version in ("1", "2", "3", "4", "5")}
WIDE = manifest("6", width=5)


def standing(traffic: Traffic | None = None, *more: Manifest) -> Standing:
    manifests = MANIFESTS | {each.version: each for each in more}
    return Standing("digits", 7, traffic or Traffic(), manifests, NOW)


def routed(*weights: dict[str, float], start: Standing | None = None) -> Standing:
    """A model after these routes, one after the other."""
    now = start or standing()
    for each in weights:
        now = replace(now, traffic=edits.with_route(now, each))
    return now


def retirement(queued: Any = "finish", to: str | None = None) -> Retirement:
    return Retirement(queued=queued, to=to, at=NOW, by="someone")


def canary(**changes: Any) -> Canary:
    usual: dict[str, Any] = {"version": "4", "steps": (10.0, 100.0), "every_s": 60.0}
    usual |= {"min_jobs": 1, "max_error_rate": 0.1, "since_ms": NOW, "started_ms": NOW}
    return Canary(**(usual | {"by": "someone", "before": {"3": 1.0}} | changes))


def test_first_route_begins_from_the_highest_version() -> None:
    traffic = edits.with_route(standing(), {"4": 10, "5": 90})
    assert traffic.route is not None
    assert (traffic.route.number, traffic.routes) == (1, 1)
    assert traffic.earlier[0].weights == {"5": 1.0}
    assert moved(traffic.earlier[0], traffic.route) == pytest.approx(0.1)


def test_numbers_only_grow_and_the_earlier_routes_are_bounded() -> None:
    now = routed(*({"3": 100.0 - part, "4": part} for part in range(1, 40)))
    assert now.traffic.route is not None
    assert (now.traffic.route.number, now.traffic.routes) == (39, 39)
    assert len(now.traffic.earlier) == MOST_EARLIER
    numbers = [each.number for each in now.traffic.earlier]
    assert numbers == list(range(38, 38 - MOST_EARLIER, -1))
    back = replace(now, traffic=edits.rolled_back(now))
    assert back.traffic.route is not None
    assert back.traffic.route.number == 40
    assert edits.with_route(back, {"3": 1}).routes == 41


def test_same_split_again_changes_nothing() -> None:
    now = routed({"3": 90, "4": 10})
    assert edits.with_route(now, {"3": 9, "4": 1}) is now.traffic
    assert edits.with_route(now, {"4": 10, "3": 90, "5": 0}) is now.traffic


def test_words_mean_versions_and_no_version_gets_two_parts() -> None:
    now = standing(Traffic(aliases={"production": "3", "next": "4"}))
    traffic = edits.with_route(now, {"production": 9, "latest": 1}, {"next": 0.5})
    assert traffic.route is not None
    assert traffic.route.weights == {"3": 9.0, "5": 1.0}
    assert traffic.route.shadows == {"4": 0.5}
    for weights, shadows in (
        ({"production": 90, "3": 5, "4": 5}, None),
        ({"1": 1}, {"next": 0.1, "4": 0.2}),
    ):
        with pytest.raises(RouteInvalid, match="part of the route already"):
            edits.with_route(now, weights, shadows)


@pytest.mark.parametrize(
    "weight", [-1, float("nan"), float("inf"), 1e10, "90", None, [1], 1j], ids=repr
)
def test_weight_that_is_none_is_refused(weight: Any) -> None:
    with pytest.raises(RouteInvalid, match="weight is a number above 0"):
        edits.with_route(standing(), {"3": 1, "4": weight})


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), "many"], ids=repr)
def test_shadow_fraction_that_is_none_is_refused(fraction: Any) -> None:
    with pytest.raises(RouteInvalid, match=r"shadows\.4"):
        edits.with_route(standing(), {"3": 1}, {"4": fraction})


def test_route_without_anybody_is_refused() -> None:
    for weights in ({}, {"3": 0}, {"9": 0}):
        with pytest.raises(RouteInvalid, match="needs a version"):
            edits.with_route(standing(), weights)
    with pytest.raises(VersionNotFound, match="'9'"):
        edits.with_route(standing(), {"9": 1})
    with pytest.raises(VersionRetired, match="umbel models retire digits 2 --undo"):
        edits.with_route(standing(Traffic(retired={"2": retirement()})), {"2": 1})


def test_shadows_stay_unless_they_answer_themselves() -> None:
    now = replace(standing(), traffic=edits.with_route(standing(), {"3": 1}, {"4": 0.1, "5": 0.2}))
    traffic = edits.with_route(now, {"3": 1, "4": 1})
    assert traffic.route is not None
    assert traffic.route.shadows == {"5": 0.2}
    cleared = edits.with_route(now, {"3": 1}, {})
    assert cleared.route is not None
    assert cleared.route.shadows == {}
    with pytest.raises(RouteInvalid, match="4 answers itself"):
        edits.with_route(now, {"3": 1, "4": 1}, {"4": 0.1})


def test_versions_with_other_inputs_share_nothing() -> None:
    now = standing(None, WIDE)
    for weights, shadows in (({"3": 1, "6": 1}, None), ({"3": 1}, {"6": 0.1})):
        with pytest.raises(RouteInvalid, match="3 and 6 take different inputs"):
            edits.with_route(now, weights, shadows)
    assert edits.with_route(now, {"6": 1}).route is not None


splits = st.dictionaries(
    st.sampled_from(list(MANIFESTS)), st.sampled_from([1, 2, 5, 10, 33.3, 90]), min_size=1
)


@given(st.lists(splits, max_size=4), splits, splits)
@settings(max_examples=150)
def test_one_step_back_returns_every_key(
    history: list[dict[str, float]], one: dict[str, float], other: dict[str, float]
) -> None:
    """By hand or by rolling back, also where a version had gone in between."""
    first = routed(*history, one)
    then = routed(other, start=first)
    again = routed(one, start=then)
    assert first.traffic.route is not None
    assert again.traffic.route is not None
    assert again.traffic.route.table == first.traffic.route.table
    if then.traffic != first.traffic:
        back = edits.rolled_back(then)
        assert back.route is not None
        assert back.route.table == first.traffic.route.table
        assert back.earlier == first.traffic.earlier
        assert back.routes == then.traffic.routes + 1


@given(st.lists(splits, min_size=2, max_size=6))
@settings(max_examples=60)
def test_rolling_back_goes_through_all_routes_in_reverse(history: list[dict[str, float]]) -> None:
    now, seen = standing(), []
    for each in history:
        then = routed(each, start=now)
        seen += [now.route] if then.traffic != now.traffic else []
        now = then
    kept = [*seen, now.route][-1 - len(now.traffic.earlier) :]
    for before in reversed(kept[:-1]):
        now = replace(now, traffic=edits.rolled_back(now))
        assert now.route is not None
        assert before is not None
        assert (now.route.table, now.route.weights) == (before.table, before.weights)
    with pytest.raises(NothingToRollBack, match="umbel models route digits"):
        edits.rolled_back(now)


def test_promotion_that_is_taken_back_returns_the_ten_percent_it_began_with() -> None:
    first = routed({"3": 90, "4": 10})
    whole = routed({"4": 1}, start=first)
    back = edits.rolled_back(whole)
    assert first.route is not None
    assert back.route is not None
    keys = [position_of("digits", str(number)) for number in range(2000)]
    assert [back.route.at(key) for key in keys] == [first.route.at(key) for key in keys]


def test_route_with_a_version_that_takes_no_jobs_is_not_returned_to() -> None:
    now = routed({"1": 1}, {"2": 1}, {"3": 1}, {"4": 1})
    for gone in (
        replace(now, traffic=now.traffic.model_copy(update={"retired": {"3": retirement()}})),
        replace(now, manifests={v: m for v, m in MANIFESTS.items() if v != "3"}),
    ):
        traffic = edits.rolled_back(gone)
        assert traffic.route is not None
        assert traffic.route.weights == {"2": 1.0}
        assert [each.weights for each in traffic.earlier] == [{"1": 1.0}, {"5": 1.0}]


def test_return_to_a_certain_route_forgets_what_came_after() -> None:
    """What ends a canary must not leave its steps to be rolled back to."""
    before = routed({"3": 90, "5": 10})
    now = routed({"3": 81, "5": 9, "4": 10}, {"3": 45, "5": 5, "4": 50}, start=before)
    back = edits.returned(now, {"3": 90.0, "5": 10.0}, {})
    assert before.traffic.route is not None
    assert back.route is not None
    assert back.route.table == before.traffic.route.table
    assert back.route.number == 4
    assert back.earlier == before.traffic.earlier
    assert edits.returned(before, {"3": 90.0, "5": 10.0}, {}) is before.traffic
    unknown = edits.returned(now, {"1": 1.0}, {})
    assert unknown.earlier[0] == now.traffic.route


@pytest.mark.parametrize("name", ["latest", "Latest", "1", "", "a b", "ä", "a" * 65, "1st", "a\n"])
def test_alias_with_a_name_that_none_may_have_is_refused(name: str) -> None:
    with pytest.raises(RouteInvalid):
        edits.with_aliases(standing(), {name: "3"})


def test_aliases_move_and_go_at_once() -> None:
    now = standing(Traffic(aliases={"production": "3", "old": "1"}))
    traffic = edits.with_aliases(now, {"production": "4", "previous": "production", "old": None})
    assert traffic.aliases == {"production": "4", "previous": "3"}
    assert edits.with_aliases(now, {"none": None}) == now.traffic
    for word, error in (("9", VersionNotFound), ("2", VersionRetired)):
        gone = replace(now, traffic=Traffic(retired={"2": retirement()}))
        with pytest.raises(error):
            edits.with_aliases(gone, {"production": word})


@pytest.mark.parametrize(
    ("traffic", "why"),
    [
        (Traffic(aliases={"production": "3"}), "alias production"),
        (Traffic(canary=canary(before={"3": 1.0})), "the canary"),
        (Traffic(canary=canary(version="3", before={"4": 1.0})), "the canary"),
        (edits.with_route(standing(), {"3": 1, "4": 1}), "the route"),
        (edits.with_route(standing(), {"4": 1}, {"3": 0.1}), "a shadow"),
    ],
    ids=["alias", "before the canary", "of the canary", "route", "shadow"],
)
def test_version_that_is_pointed_to_is_not_retired(traffic: Traffic, why: str) -> None:
    with pytest.raises(VersionInUse, match=f"3 cannot be retired: {why}"):
        edits.with_retired(standing(traffic), "3", queued="finish", by="me")


def test_retired_version_is_noted_and_comes_back() -> None:
    now = standing(Traffic(wanted={"2": NOW + 1000, "3": NOW + 1000}))
    traffic = edits.with_retired(now, "2", queued="reroute", by="me")
    assert traffic.retired == {"2": Retirement(queued="reroute", to="5", at=NOW, by="me")}
    assert traffic.wanted == {"3": NOW + 1000}
    assert edits.without_retired(standing(traffic), "2").retired == {}
    done = standing(Traffic(canary=canary(version="2", state="stopped")))
    assert edits.with_retired(done, "2", queued="fail", by="me").retired["2"].to is None


def test_what_waits_goes_to_another_version_with_the_same_inputs() -> None:
    now = standing(Traffic(retired={"1": retirement()}), WIDE)
    chosen = edits.with_retired(now, "2", queued="reroute", by="me", to="3")
    assert chosen.retired["2"].to == "3"
    for word, error in (
        ("2", RouteInvalid),
        ("6", RouteInvalid),
        (None, RouteInvalid),  # the highest one is 6, which takes other inputs
        ("1", VersionRetired),
        ("9", VersionNotFound),
    ):
        with pytest.raises(error):
            edits.with_retired(now, "2", queued="reroute", by="me", to=word)
    alone = replace(now, manifests={"3": MANIFESTS["3"]}, traffic=Traffic())
    with pytest.raises(RouteInvalid, match="needs another version"):
        edits.with_retired(alone, "3", queued="reroute", by="me")


def test_policy_keeps_only_what_differs_from_the_versions_own() -> None:
    now = standing()
    own = MANIFESTS["3"].policy
    traffic = edits.with_policy(now, "3", {"max_batch_size": 8, "max_wait_ms": own.max_wait_ms})
    assert traffic.policies == {"3": {"max_batch_size": 8}}
    more = edits.with_policy(standing(traffic), "3", {"single_flight": True})
    assert more.policies == {"3": {"max_batch_size": 8, "single_flight": 1}}
    assert more.policy_of("3", own) == own.model_copy(
        update={"max_batch_size": 8, "single_flight": True}
    )
    one_back = edits.with_policy(standing(more), "3", {"max_batch_size": None})
    assert one_back.policies == {"3": {"single_flight": 1}}
    assert edits.with_policy(standing(more), "3", None).policies == {}
    assert more.policy_of("4", own) is own


def test_a_version_becomes_adaptive_while_it_runs() -> None:
    wanted = {"mode": "adaptive", "latency_objective_ms": "50"}
    traffic = edits.with_policy(standing(), "3", wanted)
    assert traffic.policies == {"3": {"mode": "adaptive", "latency_objective_ms": 50}}
    again = Traffic.model_validate_json(traffic.to_json())
    assert again.policy_of("3", MANIFESTS["3"].policy).objective_ms == 50
    back = edits.with_policy(standing(again), "3", {"mode": "static"})
    assert back.policy_of("3", MANIFESTS["3"].policy).objective_ms == 0


@pytest.mark.parametrize(
    "changes",
    [{"max_batch_size": 0}, {"max_wait": 1}, {"max_queue": "x"}, {"mode": "adaptive"}, {"mode": 1}],
)
def test_policy_that_cannot_be_is_refused_with_what_there_is(changes: dict[str, Any]) -> None:
    with pytest.raises(PolicyInvalid, match=r"cannot be that: .*It has max_batch_size, "):
        edits.with_policy(standing(), "3", changes)


def test_wishes_end_and_a_retired_version_is_not_wished_for() -> None:
    now = standing(Traffic(wanted={"1": NOW - 1, "2": NOW + 1}, retired={"4": retirement()}))
    assert edits.wanting(now, "3", NOW + 9).wanted == {"2": NOW + 1, "3": NOW + 9}
    with pytest.raises(VersionRetired):
        edits.wanting(now, "4", NOW + 9)


def test_points_of_a_route_are_the_whole_space() -> None:
    now = routed({"3": 1, "4": 1, "5": 1})
    assert now.route is not None
    assert sum(now.route.points.values()) == SPACE
