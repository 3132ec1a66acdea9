"""Those who wait bear with what may pass, say so once, and give up on what will not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from umbel import _patience
from umbel._patience import LONGEST_S, Outage, Patience
from umbel_config.errors import (
    LaneFull,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
    StoreUnsuitable,
)

AWAY, FULL = StoreUnavailable("away"), StoreFull("full")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [1000.0]
    monkeypatch.setattr(_patience, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def test_an_outage_is_told_once_and_again_after_it_was_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "umbel.client")
    outage = Outage()
    outage.over()
    for _ in range(3):
        assert outage.met(AWAY) is AWAY
    outage.over()
    outage.over()
    outage.met(AWAY)
    told = [(entry.levelname, entry.message[:13]) for entry in caplog.records]
    assert told == [
        ("WARNING", "Redis is away"),
        ("INFO", "Redis is back"),
        ("WARNING", "Redis is away"),
    ]


@pytest.mark.parametrize("kind", [StoreRefused, StoreUnsuitable])
def test_what_waiting_does_not_cure_is_raised(kind: type[StoreUnavailable]) -> None:
    error, patience = kind("no"), Patience()
    patience.progress()
    for bear in (Outage().met, patience.pause):
        with pytest.raises(kind):
            bear(error)


def test_full_lane_says_itself_when_to_come_back() -> None:
    assert Patience().pause(LaneFull("full", retry_after=7.5)) == 7.5


def test_pauses_for_a_full_store_grow_to_a_bound_and_start_anew_with_progress(
    clock: Callable[[float], None],
) -> None:
    patience = Patience()
    pauses = [patience.pause(FULL) for _ in range(10)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.1, 5.0)
    patience.progress()
    assert patience.pause(FULL) == 0.1


@pytest.mark.parametrize("obstacle", [AWAY, FULL])
def test_a_minute_without_progress_is_enough(
    clock: Callable[[float], None], obstacle: StoreUnavailable
) -> None:
    patience = Patience()
    patience.progress()
    patience.pause(obstacle)
    clock(LONGEST_S)
    patience.pause(obstacle)
    patience.progress()
    clock(LONGEST_S)
    patience.pause(obstacle)
    clock(LONGEST_S + 1)
    with pytest.raises(StoreUnavailable):
        patience.pause(obstacle)


def test_store_that_was_away_from_the_beginning_is_not_waited_for() -> None:
    with pytest.raises(StoreUnavailable):
        Patience().pause(AWAY)
