"""How much of the keys a change of the route moves."""

from __future__ import annotations

import pytest

from umbel_registry.route import SPACE, Route, moved


def test_the_same_route_moves_nothing() -> None:
    route = Route.of({"3": 90, "4": 10})
    assert moved(route, route) == 0
    assert moved(route, Route.of({"3": 9, "4": 1}, before=route)) == 0


@pytest.mark.parametrize(
    ("before", "after", "part"),
    [
        ({"3": 1}, {"4": 1}, 1.0),
        ({"3": 1}, {"3": 90, "4": 10}, 0.1),
        ({"3": 90, "4": 10}, {"3": 50, "4": 50}, 0.4),
        ({"3": 1, "4": 1}, {"3": 1, "4": 1, "5": 2}, 0.5),
    ],
)
def test_a_change_moves_what_the_weights_ask_for(
    before: dict[str, float], after: dict[str, float], part: float
) -> None:
    first = Route.of(before)
    second = Route.of(after, before=first)
    assert moved(first, second) == pytest.approx(part, abs=2 / SPACE)
    assert moved(second, first) == moved(first, second)
