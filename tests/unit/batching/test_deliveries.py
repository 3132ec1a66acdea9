"""How a callback fares, as the scripts write it and people read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from umbel_batching.deliveries import (
    Attempt,
    DeliveryState,
    callback_of,
    delivery_of,
    parse_delivery,
)

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Desk, Lab

URL = "https://shop.example/done"
LOG = "1700000000005|503|40|busy\n1700000000009|0|15000|no answer | in time\n"
RAW = f"p0021700000000001{1_700_000_000_020:013d}\n{LOG}".encode()
#: Bytes of log that are kept of one delivery.
LONGEST_LOG = 6_000


def test_a_delivery_is_read_field_by_field() -> None:
    read = parse_delivery(RAW)
    assert (read.state, read.attempts) == (DeliveryState.PENDING, 2)
    assert (read.since, read.due) == (1_700_000_000_001, 1_700_000_000_020)
    assert read.log == [
        Attempt(1_700_000_000_005, 503, 40, "busy"),
        Attempt(1_700_000_000_009, 0, 15_000, "no answer | in time"),
    ]


@pytest.mark.parametrize(
    ("letter", "state"),
    [(b"p", DeliveryState.PENDING), (b"d", DeliveryState.DELIVERED), (b"x", DeliveryState.DEAD)],
)
def test_each_state_has_a_letter(letter: bytes, state: DeliveryState) -> None:
    assert parse_delivery(letter + RAW[1:]).state is state


def test_a_job_without_a_callback_has_no_delivery(lab: Lab) -> None:
    (uid,) = lab.submit()
    assert delivery_of(lab.record(uid), None) is None
    assert callback_of(lab.record(uid), None) is None


def test_a_callback_waits_for_the_end_of_its_job(desk: Desk) -> None:
    (uid,) = desk.submit()
    assert desk.delivery(uid) is not None
    assert desk.state(uid) == "waiting"
    told = callback_of(desk.lab.record(uid), None)
    assert told is not None
    assert (told.url, told.state, told.attempts, told.last_status) == (URL, "waiting", 0, None)
    assert (told.next_at, told.log) == (None, [])


def test_it_is_pending_from_then_on(desk: Desk) -> None:
    (uid,) = desk.end()
    delivery, record = desk.delivery(uid), desk.lab.record(uid)
    assert delivery is not None
    assert delivery.state is DeliveryState.PENDING
    assert delivery.since == delivery.due == record.finished_ms > 0
    assert desk.client.exists(desk.lab.keys.delivery + uid) == 0  # nothing was tried yet


def test_every_attempt_is_in_its_log(desk: Desk) -> None:
    (uid,) = desk.end()
    before = desk.lab.now()
    (post,) = desk.lease()
    desk.report(post, "again", status=503, took_ms=40, note="busy |\n\t now", pause_ms=9_000)
    desk.time_passes()
    (post,) = desk.lease()
    desk.report(post, "delivered", status=204, took_ms=7)
    delivery, record = desk.delivery(uid), desk.lab.record(uid)
    assert delivery is not None
    assert (delivery.state, delivery.attempts) == (DeliveryState.DELIVERED, 2)
    assert (delivery.since, delivery.due) == (record.finished_ms, 0)
    told = [(each.status, each.took_ms, each.note) for each in delivery.log]
    assert told == [(503, 40, "busy | now"), (204, 7, "")]
    assert all(before <= each.at <= desk.lab.now() for each in delivery.log)


def test_people_are_told_when_it_is_tried_next(desk: Desk) -> None:
    (uid,) = desk.end()
    (post,) = desk.lease()
    desk.report(post, "again", status=500, pause_ms=90_000)
    raw = desk.client.get(desk.lab.keys.delivery + uid)
    told = callback_of(desk.lab.record(uid), raw)
    assert told is not None
    assert told.next_at == desk.due(desk.entry(uid)) > desk.lab.now() + 80_000
    assert (told.state, told.attempts, told.last_status) == ("pending", 1, 500)


def test_the_last_status_is_that_of_an_attempt(desk: Desk) -> None:
    (uid,) = desk.end()
    (post,) = desk.lease()
    desk.report(post, "dead", status=410)
    assert desk.redeliver(uid) == ""
    raw = desk.client.get(desk.lab.keys.delivery + uid)
    told = callback_of(desk.lab.record(uid), raw)
    assert told is not None
    assert (told.state, told.attempts, told.last_status) == ("pending", 0, 410)
    assert [each.note for each in told.log] == ["", "replayed"]
    desk.time_passes()
    (post,) = desk.lease()
    desk.report(post, "again", note="no route", pause_ms=9_000)
    told = callback_of(desk.lab.record(uid), desk.client.get(desk.lab.keys.delivery + uid))
    assert told is not None
    assert (told.attempts, told.last_status) == (1, None)


def test_the_log_is_bounded_and_the_count_goes_on(desk: Desk) -> None:
    (uid,) = desk.end()
    for at in range(60):
        (post,) = desk.lease()
        desk.report(post, "again", "unknown", status=500, note=f"{at} " + "x" * 300, pause_ms=9_000)
        desk.time_passes()
    delivery = desk.delivery(uid)
    assert delivery is not None
    assert delivery.attempts == 60
    assert 20 < len(delivery.log) < 60
    assert [each.note.split()[0] for each in delivery.log][-1] == "59"
    assert all(len(each.note) == 200 for each in delivery.log)
    assert desk.client.strlen(desk.lab.keys.delivery + uid) <= LONGEST_LOG + 31
