"""The rules of who must go: least recently used first, never a pinned one or one in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from umbel_registry.loading import ArrayModel
from umbel_worker.holdings import Holdings, Place
from umbel_worker.warmup import Warm


class Shelf:
    """Holdings with a clock that is turned by hand."""

    def __init__(self, model: ArrayModel, budget: int, *pins: str) -> None:
        self.now = 1000.0
        self.held = Holdings(budget, pins, lambda: self.now)
        self._model = model

    def put(self, name: str, mb: float) -> Place:
        """A model that was loaded a second after the one before."""
        self.now += 1
        place = self.held.begin(name)
        self.held.ready(place, Warm(self._model, 0.5, 0.25), mb)
        return place

    def need(self, mb: float) -> Place:
        """A model that is about to be loaded."""
        place = self.held.begin("new@1")
        place.mb = mb
        return place

    @property
    def names(self) -> str:
        return " ".join(each.name.removesuffix("@1") for each in self.held.shown())


@pytest.fixture
def shelf(array_model: Callable[..., ArrayModel]) -> Callable[..., Shelf]:
    return lambda *given: Shelf(array_model(lambda x: x), *given)


def names(gone: list[Place]) -> str:
    return " ".join(each.name.removesuffix("@1") for each in gone)


def test_the_least_recently_used_go_first_and_no_more_than_must(shelf: Any) -> None:
    made = shelf(100)
    a, *_ = [made.put(f"{name}@1", 30) for name in "abc"]
    made.now += 1
    made.held.enter(a)
    made.held.leave(a)
    assert names(made.held.take_out(made.need(40))) == "b"
    assert made.names == "a c new"


def test_several_go_for_a_large_one(shelf: Any) -> None:
    made = shelf(100)
    for name in "abc":
        made.put(f"{name}@1", 30)
    assert names(made.held.take_out(made.need(70))) == "a b"


def test_without_a_budget_nobody_goes(shelf: Any) -> None:
    made = shelf(0)
    made.put("a@1", 1e6)
    new = made.need(1e6)
    assert made.held.fits(new)
    assert made.held.take_out(new) == []
    assert made.held.may_fit(new, 0)


@pytest.mark.parametrize("pin", ["a", "a@1"])
def test_pinned_models_and_those_in_use_stay(shelf: Any, pin: str) -> None:
    made = shelf(100, pin, "other", "c@2")
    a, b, _ = (made.put(f"{name}@1", 30) for name in "abc")
    made.held.enter(b)
    assert names(made.held.take_out(made.need(90))) == "c"
    assert a.shown().pinned
    assert not b.shown().pinned


def test_a_model_larger_than_the_budget_is_alone(shelf: Any) -> None:
    made = shelf(100)
    for name in "ab":
        made.put(f"{name}@1", 30)
    new = made.need(150)
    assert not made.held.fits(new)
    assert names(made.held.take_out(new)) == "a b"
    assert made.held.fits(new)
    assert made.held.over()
    assert not made.held.may_fit(new, made.now), "it is not loaded ahead of need"


def test_room_taken_by_pinned_models_cannot_be_waited_for(shelf: Any) -> None:
    made = shelf(100, "a")
    made.put("a@1", 80)
    assert made.held.fits(made.need(30))


def test_those_in_the_way_are_asked_to_leave(shelf: Any) -> None:
    made = shelf(100, "d")
    places = [made.put(f"{name}@1", 25) for name in "abcd"]
    for place in places:
        made.now += 1
        made.held.enter(place)
    made.held.ask_to_leave(made.need(30))
    assert [place.leaving for place in places] == [True, True, False, False]
    made.held.ask_nobody()
    assert not any(place.leaving for place in places)


def test_ahead_of_need_only_those_go_that_were_not_used_lately(shelf: Any) -> None:
    made = shelf(100)
    for name in "abc":
        made.put(f"{name}@1", 30)
    new, long_ago = made.need(60), made.now - 1
    assert not made.held.may_fit(new, long_ago - 1)
    assert made.held.may_fit(new, long_ago)
    assert names(made.held.take_out(new, long_ago)) == "a b"


def test_what_takes_more_than_was_thought_counts_as_it_is(shelf: Any) -> None:
    made = shelf(100)
    made.put("a@1", 30)
    new = made.need(10)
    assert made.held.take_out(new) == []
    made.held.ready(new, Warm(made.put("b@1", 30).model, 0, 0), 60)
    assert names(made.held.take_out(new)) == "a"


def test_a_failure_is_shown_for_ten_minutes(shelf: Any) -> None:
    made = shelf(100)
    made.held.fail(made.need(30), OSError("share is away"))
    made.now += 599
    (held,) = made.held.shown()
    assert (held.state, held.error, held.mb) == ("failed", "OSError: share is away", 0)
    assert made.held.total() == 0
    made.now += 1
    assert made.held.shown() == []
    assert made.held.get("new@1") is None


def test_a_place_without_a_model_says_so(shelf: Any) -> None:
    place = shelf(100).need(30)
    assert (place.shown().state, place.shown().mb) == ("loading", 0)
    with pytest.raises(LookupError, match="new@1 is not loaded"):
        _ = place.model
