"""What people are told of receivers, and of the callbacks that were given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from umbel_batching.lanes import new_uid
from umbel_batching.receivers import (
    BREAKS,
    ReceiverStatus,
    Undelivered,
    read_callback,
    receiver_statuses,
    undelivered,
)
from umbel_batching.scripts import source
from umbel_config.errors import JobNotFound

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Desk

URL, QUEUE = "https://shop.example/done", "shop.example"
OTHER, OTHER_QUEUE = "https://bank.example:8443/in", "bank.example:8443"
LITERAL, LITERAL_QUEUE = "http://[2001:db8::1]:8080/in", "[2001:db8::1]:8080"


def statuses(desk: Desk) -> dict[str, ReceiverStatus]:
    found = receiver_statuses(desk.client, desk.lab.namespace)
    assert [each.receiver for each in found] == sorted({each.receiver for each in found})
    return {each.receiver: each for each in found}


def letters(desk: Desk, **wanted: Any) -> list[Undelivered]:
    return undelivered(desk.client, desk.lab.namespace, **wanted)


def give_up(desk: Desk, url: str = URL, *, shared: bool = False, ago_ms: int = 0) -> str:
    """A callback that was given up ``ago_ms`` before; returns the id of its job."""
    (uid,) = desk.end(url=url, shared=shared)
    (post,) = desk.lease()
    desk.report(post, "dead", status=410, note="it is gone")
    member = f"{desk.entry(uid)} {post.queue}"
    desk.client.zadd(desk.shared.undelivered, {member: desk.lab.now() - ago_ms})
    return f"{desk.lab.slot}-{uid}"


def test_nobody_is_known_at_first(desk: Desk) -> None:
    assert statuses(desk) == {}
    assert letters(desk) == []


def test_a_receiver_that_something_waits_for(desk: Desk) -> None:
    desk.end(3)
    desk.lease(posts=2)
    (status,) = statuses(desk).values()
    assert (status.receiver, status.pending, status.under_way) == (QUEUE, 3, 2)
    assert status.next_at == desk.client.zscore(desk.shared.receivers, QUEUE)
    assert (status.closed_until, status.failures, status.limit) == (None, 0, None)
    assert (status.delivered, status.again, status.dead) == (0, 0, 0)


def test_one_that_nothing_waits_for_any_more(desk: Desk) -> None:
    desk.end()
    desk.report(desk.lease()[0])
    status = statuses(desk)[QUEUE]
    assert (status.pending, status.under_way, status.next_at) == (0, 0, None)
    assert (status.delivered, status.limit) == (1, 9)


def test_all_its_queues_are_told_as_one(desk: Desk) -> None:
    desk.end(2)
    desk.end(3, shared=True)
    desk.end(4, URL + "/else", shared=True)
    desk.end(1, OTHER)
    desk.client.zadd(desk.shared.receivers, {QUEUE: 7})
    found = statuses(desk)
    assert {name: each.pending for name, each in found.items()} == {QUEUE: 9, OTHER_QUEUE: 1}
    assert found[QUEUE].next_at == 7
    desk.lease()
    status = statuses(desk)[QUEUE]
    assert (status.pending, status.under_way) == (9, 4)  # those in a parcel are under way as one
    assert (status.pending, status.pending_bytes) == desk.owing()


def test_leases_that_ran_out_are_not_under_way(desk: Desk) -> None:
    desk.end(2)
    desk.lease()
    desk.leases_end()
    assert statuses(desk)[QUEUE].under_way == 0


def test_a_breaker_that_is_open_is_told(desk: Desk) -> None:
    desk.end()
    for _ in range(BREAKS):
        desk.time_passes()
        desk.report(desk.lease()[0], "again", pause_ms=1_000)
    status = statuses(desk)[QUEUE]
    assert status.closed_until == status.next_at == desk.about()["open_until"]
    assert (status.failures, status.limit, status.again) == (BREAKS, 1, BREAKS)
    desk.time_passes()
    assert statuses(desk)[QUEUE].closed_until is None


def test_the_number_of_failures_is_that_of_the_scripts() -> None:
    assert f"FIRST_LIMIT, BREAKS = 8, {BREAKS}" in source("report").text


def test_an_undelivered_callback_is_told_with_its_evidence(desk: Desk) -> None:
    before = desk.lab.now()
    job_id = give_up(desk, OTHER)
    (letter,) = letters(desk)
    assert (letter.id, letter.receiver, letter.url) == (job_id, OTHER_QUEUE, OTHER)
    assert (letter.job_state, letter.attempts) == ("succeeded", 1)
    assert before <= letter.died_at <= desk.lab.now()
    assert [(each.status, each.note) for each in letter.log] == [(410, "it is gone")]


def test_they_are_told_newest_first(desk: Desk) -> None:
    old, new = give_up(desk, ago_ms=2_000), give_up(desk, shared=True, ago_ms=1_000)
    assert [letter.id for letter in letters(desk)] == [new, old]
    assert [letter.id for letter in letters(desk, limit=1)] == [new]
    between = desk.lab.now() - 1_500
    assert [letter.id for letter in letters(desk, since_ms=between)] == [new]
    assert [letter.id for letter in letters(desk, until_ms=between)] == [old]
    assert letters(desk, since_ms=between + 1_400) == []


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("bank.example", OTHER),
        ("bank.example:8443", OTHER),
        ("bank.example:443", None),
        ("shop.example", URL),
        ("[2001:db8::1]", LITERAL),
        ("[2001:db8::1]:8080", LITERAL),
        ("example", None),
    ],
)
def test_those_of_one_receiver_are_found(desk: Desk, host: str, found: str | None) -> None:
    for url in (URL, OTHER, LITERAL):
        give_up(desk, url)
    assert [letter.url for letter in letters(desk, host=host)] == ([found] if found else [])


def test_what_is_not_kept_any_more_is_not_told(desk: Desk) -> None:
    gone, anew = give_up(desk), give_up(desk)
    desk.client.delete(desk.lab.keys.job + gone[-32:])
    desk.client.zadd(desk.shared.undelivered, {f"{desk.entry(anew[-32:], 1)} {QUEUE}": 1})
    assert [letter.id for letter in letters(desk)] == [anew]


def test_a_callback_is_read_without_the_body(desk: Desk) -> None:
    (uid,) = desk.end()
    found = read_callback(desk.client, desk.lab.namespace, f"{desk.lab.slot}-{uid}")
    assert found is not None
    record, callback = found
    assert (record.state.value, bytes(record.body)) == ("succeeded", b"")
    assert callback is not None
    assert (callback.url, callback.state) == (URL, "pending")


def test_a_job_may_have_no_callback_or_be_unknown(desk: Desk) -> None:
    (uid,) = desk.lab.submit()
    found = read_callback(desk.client, desk.lab.namespace, f"{desk.lab.slot}-{uid}")
    assert found is not None
    assert found[1] is None
    unknown = f"{desk.lab.slot}-{new_uid()}"
    assert read_callback(desk.client, desk.lab.namespace, unknown) is None
    with pytest.raises(JobNotFound):
        read_callback(desk.client, desk.lab.namespace, "no id")
