"""Routes share out the keys exactly, and move as few of them as their weights ask for."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from umbel_registry.route import SPACE, Interval, Route, moved, position_of, shares, spread

Table = tuple[Interval, ...]
NAMES = ("1", "2", "3", "4", "10", "v2-gpu")
number = st.one_of(
    st.integers(1, 100).map(float),
    st.floats(1e-9, 1e9, allow_nan=False),
    st.sampled_from([1e-9, 1e9, 1 / 3, 0.1]),
)
some_weights = st.dictionaries(st.sampled_from(NAMES), number, min_size=1)
histories = st.lists(some_weights, max_size=4)


def after(history: list[dict[str, float]]) -> Table:
    table: Table = ()
    for weights in history:
        table = spread(table, weights)
    return table


def owned(table: Table) -> Counter[str]:
    points: Counter[str] = Counter()
    for start, (end, name) in zip([0, *(end for end, _ in table)], table, strict=False):
        points[name] += end - start
    return points


def exchanged(before: Table, now: Table) -> int:
    """Points that have another owner, found by walking all borders."""
    count = 0
    for start, end in pairwise(sorted({0, *(end for end, _ in (*before, *now))})):
        owners = [next(name for at, name in table if at > start) for table in (before, now)]
        count += end - start if owners[0] != owners[1] else 0
    return count


@given(some_weights)
def test_points_are_in_proportion_and_none_is_lost(weights: dict[str, float]) -> None:
    points, total = shares(weights), math.fsum(weights.values())
    assert set(points) == set(weights)
    for name, weight in weights.items():
        assert points[name] >= 1
        assert abs(points[name] - SPACE * weight / total) <= 1
    assert sum(owned(spread((), weights)).values()) == SPACE


@given(histories, some_weights)
def test_versions_own_their_share_whatever_was_before(
    history: list[dict[str, float]], weights: dict[str, float]
) -> None:
    points, total = owned(spread(after(history), weights)), math.fsum(weights.values())
    assert points.keys() == weights.keys()
    for name, weight in weights.items():
        assert abs(points[name] - SPACE * weight / total) <= len(weights)


@given(histories.filter(bool), some_weights)
def test_no_more_keys_move_than_the_weights_ask_for(
    history: list[dict[str, float]], weights: dict[str, float]
) -> None:
    before = after(history)
    now = spread(before, weights)
    have, want = owned(before), owned(now)
    gained = sum(max(0, want[name] - have[name]) for name in want)
    assert exchanged(before, now) == gained
    route, other = (
        Route(weights=given, table=table)
        for given, table in ((history[-1], before), (weights, now))
    )
    assert moved(route, other) == gained / SPACE


@given(histories, some_weights, st.randoms())
def test_order_of_the_weights_does_not_matter(
    history: list[dict[str, float]], weights: dict[str, float], shuffler: random.Random
) -> None:
    pairs = list(weights.items())
    shuffler.shuffle(pairs)
    table = after(history)
    assert spread(table, dict(pairs)) == spread(table, weights)


@given(some_weights, st.floats(1e-3, 1e3))
def test_weights_are_relative_and_the_same_ones_move_nothing(
    weights: dict[str, float], factor: float
) -> None:
    table = spread((), weights)
    assert spread(table, weights) == table
    scaled = spread(table, {name: weight * factor for name, weight in weights.items()})
    assert exchanged(table, scaled) <= len(weights)  # what rounding may differ by


@given(st.floats(0.01, 99.99), st.floats(0.01, 99.99))
def test_two_versions_have_one_border_that_moves_there_and_back(first: float, then: float) -> None:
    before = spread((), {"3": 100 - first, "4": first})
    now = spread(before, {"3": 100 - then, "4": then})
    assert len(now) == 2
    assert spread(now, {"3": 100 - first, "4": first}) == before


def test_ten_to_twenty_percent_takes_keys_from_one_version_only() -> None:
    ten = Route.of({"3": 90, "4": 10})
    twenty = Route.of({"3": 80, "4": 20}, before=ten)
    keys = [position_of("digits", f"customer {place}") for place in range(20_000)]
    pairs = Counter((ten.at(key), twenty.at(key)) for key in keys)
    assert set(pairs) == {("3", "3"), ("3", "4"), ("4", "4")}
    spread_of = math.sqrt(len(keys) * 0.1 * 0.9)
    assert abs(pairs["3", "4"] - 2000) < 5 * spread_of
    again = Route.of({"3": 90, "4": 10}, before=twenty)
    assert [again.at(key) for key in keys] == [ten.at(key) for key in keys]


def test_equal_thirds_and_the_extremes() -> None:
    thirds = shares({"1": 1 / 3, "2": 1 / 3, "3": 1 / 3})
    assert max(thirds.values()) - min(thirds.values()) <= 1
    tiny = owned(spread((), {"big": 1e9, **{f"small-{place}": 1e-9 for place in range(200)}}))
    assert tiny.pop("big") == SPACE - 200
    assert set(tiny.values()) == {1}
    many = owned(spread((), {str(place): 1.0 for place in range(200)}))
    assert max(many.values()) - min(many.values()) <= 1


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_table_stays_small_over_hundreds_of_changes(count: int) -> None:
    chance, longest = random.Random(count), 0
    table: Table = ()
    names = [str(place) for place in range(count)]
    for _ in range(400):
        chosen = chance.sample(names, chance.randint(1, count))
        table = spread(table, {name: chance.random() + 1e-3 for name in chosen})
        longest = max(longest, len(table))
    assert longest <= 4 * count


def test_roll_outs_one_after_the_other_leave_no_pieces_behind() -> None:
    table: Table = ()
    for old in range(300):
        for percent in (1, 5, 25, 50, 99):
            table = spread(table, {str(old): 100 - percent, str(old + 1): percent})
            assert len(table) == 2


def test_positions_at_the_borders_have_one_owner() -> None:
    route = Route.of({"3": 3, "4": 1})
    border = SPACE * 3 // 4
    assert [route.at(place) for place in (0, border - 1, border, SPACE - 1)] == ["3", "3", "4", "4"]
    assert route.points == {"3": border, "4": SPACE - border}
    assert route.versions == ("3", "4")
    assert (route.share("3"), route.share("4"), route.share("5")) == (0.75, 0.25, 0.0)
    assert Route.of({"4": 1, "3": 1}).versions == ("3", "4")


def test_keys_fall_evenly_and_each_model_has_its_own_order() -> None:
    places = [position_of("digits", str(number)) for number in range(20_000)]
    counts = Counter(place * 20 // SPACE for place in places)
    chi_square = sum((counts[part] - 1000) ** 2 / 1000 for part in range(20))
    assert chi_square < 60  # 19 degrees of freedom: 1 in 250,000
    route = Route.of({"3": 50, "4": 50})
    both = [
        (route.at(position_of("a", str(n))), route.at(position_of("b", str(n))))
        for n in range(4000)
    ]
    same = sum(one == other for one, other in both)
    assert abs(same - 2000) < 5 * math.sqrt(1000)


def test_position_of_a_key_is_for_ever() -> None:
    """Clients of all releases must send a key to the same version."""
    assert position_of("digits", "customer 7") == 1_060_431_291
    assert position_of("digits", "") < SPACE
    assert position_of("digits", "ä") != position_of("digits", "a")


@given(histories, some_weights, st.integers(0, 10**9))
@settings(max_examples=50)
def test_route_survives_json(
    history: list[dict[str, float]], weights: dict[str, float], count: int
) -> None:
    before = Route.of(history[-1]) if history else None
    route = Route.of(weights, before=before, shadows={"9": 1 / 3}, number=count)
    read = Route.model_validate_json(route.model_dump_json(exclude_defaults=True))
    assert read == route
    assert (read.table, read.weights, read.number) == (route.table, route.weights, count)


WHOLE = {"weights": {"3": 1.0}, "table": [[SPACE, "3"]]}


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {}},
        {"weights": {"3": 0}},
        {"weights": {"3": -1}},
        {"weights": {"3": 1e10}},
        {"weights": {"3": None}},
        {"weights": {"3": "Infinity"}},
        {"weights": {"3": "NaN"}},
        {"weights": {"4": 1.0}},
        {"weights": {"3": 1.0, "4": 1.0}},
        {"weights": None},
        {"table": []},
        {"table": [[SPACE - 1, "3"]]},
        {"table": [[SPACE + 1, "3"]]},
        {"table": [[0, "3"], [SPACE, "3"]]},
        {"table": [[-1, "3"], [SPACE, "3"]]},
        {"table": [[SPACE, "3"], [SPACE, "3"]]},
        {"table": [[9, "3"], [5, "3"], [SPACE, "3"]]},
        {"table": [[SPACE, "4"]]},
        {"table": [[9, "4"], [SPACE, "3"]]},
        {"table": [[SPACE]]},
        {"table": [[1.5, "3"], [SPACE, "3"]]},
        {"table": "x"},
        {"number": -1},
        {"shadows": {"4": 0}},
        {"shadows": {"4": 1.1}},
        {"shadows": {"4": "NaN"}},
        {"more": 1},
    ],
    ids=json.dumps,
)
def test_table_that_shares_out_anything_else_is_refused(change: dict[str, Any]) -> None:
    assert Route.model_validate_json(json.dumps(WHOLE)).at(SPACE - 1) == "3"
    with pytest.raises(ValidationError):
        Route.model_validate_json(json.dumps(WHOLE | change))
