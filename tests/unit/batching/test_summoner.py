"""Calling senders: who is called, when, how many, and that an outbox with work is always due."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from umbel_batching.flusher import PATIENCE_MS, Drain, Flusher, sweep
from umbel_batching.lanes import new_uid
from umbel_batching.outbox import OUTBOX, OutboxCalls
from umbel_batching.retention import Retention
from umbel_batching.summoner import Summoner, Summons

if TYPE_CHECKING:
    from tests.conftest import MakeSettings
    from tests.unit.batching.conftest import Desk

QUEUE, SENDERS = "shop.example", "callbacks"
HOUR_MS = 3_600_000
MANY, CROWD = 8, 64


def announce(desk: Desk, slots: int, worker: str = "w1") -> None:
    desk.run(desk.lab.calls.announce(SENDERS, worker, slots=slots, stale_ms=60_000))


def summon(desk: Desk, there: int, *tokens: str, patience_ms: int = PATIENCE_MS) -> int:
    names = tokens or [new_uid() for _ in range(there)]
    return desk.run(desk.calls.summon(there=there, patience_ms=patience_ms, tokens=names))


def rest(desk: Desk, token: str = "sender") -> int:
    return desk.run(desk.calls.rest(token))


def rouse(desk: Desk, *, now: bool) -> bool:
    return desk.run(desk.calls.rouse(now=now))


def look(desk: Desk) -> int:
    """When a flusher looks next; there must be such a time."""
    found = desk.look()
    assert found is not None
    return found


def is_due(desk: Desk) -> bool:
    return look(desk) <= desk.lab.now()


# How many are called.


def test_one_is_called_for_a_callback(desk: Desk) -> None:
    desk.end()
    assert summon(desk, 4) == 1
    assert desk.client.zcard(desk.shared.senders) == 1
    assert desk.lab.now() < look(desk) <= desk.lab.now() + PATIENCE_MS
    assert summon(desk, 4) == 0  # one is on its way


def test_nobody_is_called_without_work(desk: Desk) -> None:
    desk.client.zadd(desk.shared.wake, {OUTBOX: 1})
    assert summon(desk, 4) == 0
    assert desk.look() is None
    assert desk.client.exists(desk.shared.senders) == 0


def test_nobody_is_called_before_it_is_due(desk: Desk) -> None:
    desk.end()
    desk.report(desk.lease()[0], "again", "unknown", pause_ms=HOUR_MS)
    rest(desk)
    assert summon(desk, 4) == 0
    assert look(desk) == desk.client.zscore(desk.shared.receivers, QUEUE)


def test_nobody_is_called_where_nobody_is_there(desk: Desk) -> None:
    desk.end()
    assert summon(desk, 0) == 0
    assert desk.lab.now() < look(desk) <= desk.lab.now() + PATIENCE_MS
    assert desk.client.exists(desk.shared.senders) == 0


@pytest.mark.parametrize("crowd", [True, False], ids=["many callbacks", "many receivers"])
def test_all_are_called_for_a_crowd(desk: Desk, crowd: bool) -> None:
    if crowd:
        desk.end(CROWD)
    else:
        for at in range(MANY):
            desk.end(url=f"https://r{at}.example/")
    assert summon(desk, 3) == 3
    assert summon(desk, 3) == 0
    assert summon(desk, 5) == 2  # two more have come


def test_senders_that_are_there_count(desk: Desk) -> None:
    desk.end(CROWD + 9)
    desk.lease(posts=1)
    assert summon(desk, 3) == 2
    assert desk.client.zcard(desk.shared.senders) == 3


def test_sent_twice_it_calls_nobody_twice(desk: Desk) -> None:
    desk.end(CROWD)
    tokens = [new_uid() for _ in range(2)]
    assert [summon(desk, 2, *tokens) for _ in range(3)] == [2, 2, 2]
    assert set(desk.lab.members(desk.shared.senders)) == set(tokens)


def test_no_more_are_called_than_have_names(desk: Desk) -> None:
    desk.end(CROWD)
    assert summon(desk, 9, "a", "b") == 2


def test_a_hint_that_is_lost_is_sent_again(desk: Desk) -> None:
    desk.end()
    assert summon(desk, 1) == 1
    assert summon(desk, 1) == 0
    (token,) = desk.lab.members(desk.shared.senders)
    assert look(desk) == desk.client.zscore(desk.shared.senders, token)
    desk.client.zadd(desk.shared.senders, {token: 1})
    assert summon(desk, 1) == 1
    assert token not in desk.lab.members(desk.shared.senders)


def test_a_sender_that_answers_takes_its_place(desk: Desk) -> None:
    desk.end()
    summon(desk, 1, "sender")
    desk.lease("sender", there_ms=5_000)
    assert desk.lab.members(desk.shared.senders) == ["sender"]


# An outbox with work is always due.


def test_it_is_due_when_the_last_sender_rests(desk: Desk) -> None:
    desk.end(9)
    assert len(desk.lease()) == 8
    desk.client.delete(desk.shared.wake, desk.shared.signal)
    assert [rest(desk), rest(desk)] == [1, 1]
    assert look(desk) == desk.client.zscore(desk.shared.receivers, QUEUE)
    assert desk.client.exists(desk.shared.signal)
    assert desk.client.exists(desk.shared.senders) == 0


def test_a_sender_that_leaves_nothing_calls_nobody(desk: Desk) -> None:
    desk.end()
    desk.report(desk.lease()[0])
    desk.client.delete(desk.shared.wake, desk.shared.signal)
    assert rest(desk) == 0
    assert desk.look() is None
    assert desk.client.exists(desk.shared.signal) == 0


def test_it_is_due_when_a_sender_dies(desk: Desk) -> None:
    """What came while it was there armed nothing: the flusher looks when its time is over."""
    desk.lease(there_ms=5_000)
    desk.client.zadd(desk.shared.wake, {OUTBOX: 1})
    assert summon(desk, 1) == 0  # a flusher that looks meanwhile does not forget it
    desk.end()
    assert look(desk) == desk.client.zscore(desk.shared.senders, "sender")


def test_it_is_due_when_a_sender_dies_though_something_waits_for_long(desk: Desk) -> None:
    desk.end()
    desk.report(desk.lease(there_ms=5_000)[0], "again", "unknown", pause_ms=HOUR_MS)
    desk.client.zadd(desk.shared.wake, {OUTBOX: 1})
    assert summon(desk, 1) == 0
    desk.end()
    assert look(desk) == desk.client.zscore(desk.shared.senders, "sender")
    desk.client.zadd(desk.shared.senders, {"sender": 1})
    assert summon(desk, 1) == 1


def test_it_is_due_when_the_first_of_two_senders_is_over(desk: Desk) -> None:
    desk.lease("one", there_ms=50_000)
    desk.lease("two", there_ms=5_000)
    assert summon(desk, 2) == 0
    assert look(desk) == desk.client.zscore(desk.shared.senders, "two")


def test_a_clock_that_was_set_back_hides_no_callback(desk: Desk) -> None:
    """A sender of before seems to be there for hours; no real one says so."""
    desk.client.zadd(desk.shared.senders, {"ghost": desk.lab.now() + HOUR_MS})
    desk.end()
    assert is_due(desk)
    assert summon(desk, 1) == 1
    assert "ghost" not in desk.lab.members(desk.shared.senders)


def test_what_waits_for_a_time_is_due_then(desk: Desk) -> None:
    desk.end()
    (post,) = desk.lease()
    rest(desk)
    desk.client.delete(desk.shared.wake)
    desk.report(post, "again", "busy", pause_ms=1_000, alone_ms=HOUR_MS)
    assert look(desk) == desk.about()["open_until"]
    desk.end()
    assert look(desk) == desk.about()["open_until"]
    desk.end(url="https://bank.example/")
    assert is_due(desk)


@pytest.mark.parametrize("now", [False, True])
def test_an_outbox_that_fell_off_the_list_is_put_back(desk: Desk, now: bool) -> None:
    assert rouse(desk, now=now) is False
    assert desk.look() is None
    desk.end()
    desk.client.delete(desk.shared.wake, desk.shared.signal)
    for _ in range(2):
        assert rouse(desk, now=now) is True
    assert is_due(desk)
    assert desk.client.exists(desk.shared.signal)


def test_one_that_is_on_the_list_stays_where_it_is(desk: Desk) -> None:
    desk.end()
    later = desk.lab.now() + HOUR_MS
    desk.client.zadd(desk.shared.wake, {OUTBOX: later})
    assert rouse(desk, now=False) is True
    assert look(desk) == later
    assert rouse(desk, now=True) is True
    assert is_due(desk)


def test_a_sweep_finds_it(desk: Desk) -> None:
    desk.end()
    desk.client.delete(desk.shared.wake)
    assert sweep(desk.lab.runner, desk.lab.calls, now=False) == 0  # no lane has work
    assert is_due(desk)


# The flusher.


class Called:
    """Takes the place of a broker, which refuses while ``down``."""

    def __init__(self) -> None:
        self.summons: list[Summons] = []
        self.drains: list[Drain] = []
        self.down = False

    def send(self, summons: Summons) -> None:
        self.summons.append(summons)
        if self.down:
            raise ConnectionError


@pytest.fixture
def called() -> Called:
    return Called()


@pytest.fixture
def flusher(desk: Desk, called: Called) -> Flusher:
    """One that calls senders."""
    summoner = Summoner(desk.calls, SENDERS, called.send)
    return Flusher(desk.client, desk.lab.namespace, called.drains.append, summoner=summoner)


def lane_rests(desk: Desk) -> None:
    """Only the outbox is due."""
    desk.client.zrem(desk.shared.wake, desk.lab.slot)


def test_a_flusher_calls_a_sender(desk: Desk, flusher: Flusher, called: Called) -> None:
    announce(desk, 4)
    desk.end()
    lane_rests(desk)
    assert flusher.turn() == 1
    (summons,) = called.summons
    assert summons.queue == SENDERS
    assert desk.lab.members(desk.shared.senders) == [summons.token]
    assert called.drains == []


def test_it_calls_all_that_are_there_for_a_crowd(
    desk: Desk, flusher: Flusher, called: Called
) -> None:
    announce(desk, 2, "w1")
    announce(desk, 1, "w2")
    desk.end(CROWD)
    lane_rests(desk)
    assert flusher.turn() == 3
    assert len({summons.token for summons in called.summons}) == 3


def test_it_calls_nobody_before_a_sender_has_announced_itself(
    desk: Desk, flusher: Flusher, called: Called
) -> None:
    desk.end()
    lane_rests(desk)
    assert flusher.turn() == 0
    assert called.summons == []
    assert look(desk) > desk.lab.now()
    announce(desk, 1)
    desk.run(desk.calls.rouse(now=True))
    assert flusher.turn() == 1


def test_a_hint_that_the_broker_refuses_is_sent_again(
    desk: Desk, flusher: Flusher, called: Called, caplog: pytest.LogCaptureFixture
) -> None:
    announce(desk, 1)
    desk.end()
    lane_rests(desk)
    called.down = True
    with caplog.at_level(logging.WARNING):
        assert flusher.turn() == 1
    assert "sender not called" in caplog.text
    for key in (desk.shared.senders, desk.shared.wake):
        desk.all_at(key, 1)
    called.down = False
    assert flusher.turn() == 1
    first, second = called.summons
    assert first.token != second.token


def test_a_flusher_without_senders_leaves_it_to_others(desk: Desk, called: Called) -> None:
    announce(desk, 1)
    desk.end()
    lane_rests(desk)
    flusher = Flusher(desk.client, desk.lab.namespace, called.drains.append)
    assert flusher.turn() == 0
    assert desk.lab.now() < look(desk) <= desk.lab.now() + PATIENCE_MS
    assert desk.client.exists(desk.shared.senders) == 0


def test_lanes_are_flushed_beside_it(desk: Desk, flusher: Flusher, called: Called) -> None:
    announce(desk, 1)
    desk.end()
    desk.submit(3)
    assert flusher.turn() == 2
    assert [drain.lane for drain in called.drains] == [desk.lab.lane.name]
    assert len(called.summons) == 1


def test_the_settings_say_how_many_go_to_one_receiver(settings: MakeSettings) -> None:
    given = settings(callback_host_concurrency=5)
    calls = OutboxCalls.of(given)
    assert (calls.host_concurrency, calls.keep) == (5, Retention.of(given))
