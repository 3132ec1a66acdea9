"""A submission goes on where it stopped, says what got in, and finds jobs by their keys."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from umbel import _submission
from umbel._inbox import Inbox
from umbel._intake import Group
from umbel._job import Job
from umbel._submission import BUNDLE, Bundle, Submission, portions
from umbel._way import Target
from umbel_batching.lanes import Lane, keyed_uid, new_uid
from umbel_batching.values import Accepted, Known, NewJob
from umbel_config.errors import IdempotencyConflict, LaneFull, StoreFull, StoreUnavailable
from umbel_registry import Signature, TensorSpec

LANE = Lane(model="digits", version="1")
SPEC = {"x": TensorSpec(dtype="float32")}
TARGET = Target(LANE, Signature(inputs=SPEC, outputs=SPEC))
OTHER = Lane(model="digits", version="2").slot
SECOND = Target(Lane(model="digits", version="2"), Signature(inputs=SPEC, outputs=SPEC))


class FakeSession:
    """A store with a bounded number of places, and errors on demand.

    Attributes:
        room: jobs that it still takes.
        rooms: the same by version, where lanes differ.
        errors: raised by the next submits, in turn; ``None`` lets one pass.
        answers: what the next submits answer, if not what is usual.
    """

    store = "one"

    def __init__(self) -> None:
        self.room = 10_000
        self.rooms: dict[str, int] = {}
        self.errors: list[Exception | None] = []
        self.answers: list[Accepted] = []
        self.taken: list[str] = []
        self._inbox = Inbox()

    def inbox(self) -> Inbox:
        return self._inbox

    def submit(self, target: Target, jobs: Sequence[NewJob]) -> Accepted:
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        version = target.lane.version
        if len(jobs) > self.rooms.get(version, self.room):
            raise LaneFull(f"{version} is full", retry_after=1)
        if version in self.rooms:
            self.rooms[version] -= len(jobs)
        else:
            self.room -= len(jobs)
        self.taken += [job.uid for job in jobs]
        return self.answers.pop(0) if self.answers else Accepted(len(self.taken))


def plain(count: int) -> list[NewJob]:
    return [NewJob(new_uid(), b"x") for _ in range(count)]


def keyed(key: str) -> NewJob:
    return NewJob(keyed_uid("digits", key), b"x", 0, "f" * 32)


def submission(session: Any, new: Sequence[NewJob]) -> Submission:
    return Submission(session, [Group(TARGET, new, range(len(new)))])


def test_all_jobs_go_in_order_and_are_expected() -> None:
    session, new = FakeSession(), plain(2 * BUNDLE + 3)
    jobs = submission(session, new).go()
    assert session.taken == [job.uid for job in new]
    assert [job.id for job in jobs] == [f"{LANE.slot}-{job.uid}" for job in new]
    assert len(session.inbox().expected()) == len(jobs)
    assert submission(session, []).go() == []


@pytest.mark.parametrize("count", [1, 2, 3, 100, 256])
def test_portions_never_exceed_what_is_there(count: int) -> None:
    assert sum(portions(count)) < count


def test_full_lane_takes_what_fits_and_the_rest_goes_later() -> None:
    session, new = FakeSession(), plain(BUNDLE + 100)
    session.room = BUNDLE + 37
    on_its_way = submission(session, new)
    with pytest.raises(LaneFull) as caught:
        on_its_way.go()
    assert caught.value.accepted == len(caught.value.jobs) == BUNDLE + 37
    assert on_its_way.left == 63
    session.room = 1000
    assert len(on_its_way.go()) == 63
    assert session.taken == [job.uid for job in new]


@pytest.mark.parametrize("kind", [StoreUnavailable, StoreFull])
def test_lost_store_tells_what_got_in_and_the_same_jobs_go_again(
    kind: type[StoreUnavailable],
) -> None:
    session, new = FakeSession(), plain(3 * BUNDLE)
    session.errors = [None, kind("gone")]
    on_its_way = submission(session, new)
    with pytest.raises(kind) as caught:
        on_its_way.go()
    assert caught.value.accepted == BUNDLE
    assert [job.id[9:] for job in caught.value.jobs] == [job.uid for job in new[:BUNDLE]]
    assert len(session.inbox().expected()) == BUNDLE
    assert len(on_its_way.go()) == 2 * BUNDLE
    assert session.taken == [job.uid for job in new]


def test_store_that_is_lost_while_portions_are_tried_tells_of_them_too() -> None:
    session, new = FakeSession(), plain(8)
    session.errors = [LaneFull("full", retry_after=1), None, StoreFull("no memory")]
    with pytest.raises(StoreFull) as caught:
        submission(session, new).go()
    assert caught.value.accepted == 4


def test_jobs_that_were_not_accepted_are_not_expected() -> None:
    session = FakeSession()
    session.errors = [KeyboardInterrupt()]  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt):
        submission(session, plain(3)).go()
    assert session.inbox().expected() == []


def test_known_key_leads_to_the_job_of_another_version() -> None:
    session, new = FakeSession(), [*plain(1), keyed("a"), *plain(1)]
    session.answers = [Accepted(2, {1: Known(OTHER, new[1].uid, same=True)})]
    jobs = submission(session, new).go()
    assert jobs[1].id == f"{OTHER}-{new[1].uid}"
    assert [job.inbox is None for job in jobs] == [False, True, False]
    assert sorted(session.inbox().expected()) == sorted(job.id for job in jobs)


def test_known_key_of_the_same_lane_is_looked_for_at_once() -> None:
    session, new = FakeSession(), [keyed("a")]
    session.answers = [Accepted(1, {0: Known(LANE.slot, new[0].uid, same=True)})]
    (job,) = submission(session, new).go()
    assert job.inbox is None
    assert session.inbox().expected() == [job.id]


def test_key_whose_job_this_client_waits_for_gives_that_job() -> None:
    session, new = FakeSession(), [keyed("a")]
    (first,) = submission(session, new).go()
    session.answers = [Accepted(1, {0: Known(LANE.slot, new[0].uid, same=True)})]
    (second,) = submission(session, new).go()
    assert second is first
    assert first.inbox is session.inbox()


def test_key_twice_in_a_call_gives_one_job() -> None:
    session, new = FakeSession(), [keyed("a"), keyed("a")]
    session.answers = [Accepted(1, {1: Known(LANE.slot, new[0].uid, same=True)})]
    first, second = submission(session, new).go()
    assert first is second
    assert first.inbox is session.inbox()


def test_conflict_names_the_job_and_what_got_in_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_submission, "BUNDLE", 2)
    session, new = FakeSession(), [*plain(2), keyed("a"), keyed("b")]
    known = {0: Known(OTHER, new[2].uid, same=True), 1: Known(OTHER, new[3].uid, same=False)}
    session.answers = [Accepted(2), Accepted(2, known)]
    with pytest.raises(IdempotencyConflict, match=f"{OTHER}-{new[3].uid}") as caught:
        submission(session, new).go()
    assert caught.value.job_id == f"{OTHER}-{new[3].uid}"
    assert caught.value.accepted == len(caught.value.jobs) == 2
    assert sorted(session.inbox().expected()) == sorted(job.id for job in caught.value.jobs)


def test_conflict_of_a_like_does_not_deafen_the_job_that_was_accepted() -> None:
    """Two threads with one key and two inputs: the refused one takes its expectation back."""
    session: Any = FakeSession()
    inbox, new = session.inbox(), [keyed("a")]
    refused = Bundle(inbox, partial(Job, session), LANE.slot, new)
    sharing = Bundle(inbox, partial(Job, session), LANE.slot, new)
    refused.refused()
    (job,) = sharing.accepted(Accepted(1))
    assert inbox.expected() == [job.id]


def split(session: Any, rows: int) -> tuple[Submission, list[NewJob]]:
    """A call whose every third row goes to another lane; and its jobs in the order of the rows."""
    new = plain(rows)
    places = [[row for row in range(rows) if (row % 3 == 2) is other] for other in (False, True)]
    groups = [
        Group(target, [new[row] for row in its], its)
        for target, its in zip((TARGET, SECOND), places, strict=True)
    ]
    return Submission(session, groups), new


def uids(jobs: Sequence[Job]) -> list[str]:
    return [job.id[9:] for job in jobs]


def test_jobs_of_two_lanes_come_back_in_the_order_of_their_rows() -> None:
    session = FakeSession()
    on_its_way, new = split(session, 3 * BUNDLE)
    jobs = on_its_way.go()
    assert uids(jobs) == [job.uid for job in new]
    slots = [job.id[:8] for job in jobs]
    assert slots == [OTHER if row % 3 == 2 else LANE.slot for row in range(len(new))]
    assert uids(on_its_way.ready()) == [job.uid for job in new]
    assert len(session.inbox().expected()) == len(new)


def test_full_lane_keeps_nothing_out_of_the_other() -> None:
    session = FakeSession()
    session.rooms = {"1": 5}
    on_its_way, new = split(session, 30)
    with pytest.raises(LaneFull, match="1 is full") as caught:
        on_its_way.go()
    got_in = [row for row in range(30) if row % 3 == 2 or row < 7]
    assert caught.value.accepted == len(got_in) == 15
    assert list(caught.value.rows) == got_in
    assert uids(caught.value.jobs) == [new[row].uid for row in got_in]
    assert on_its_way.left == 15
    assert uids(on_its_way.ready()) == [job.uid for job in new[:7]]
    session.rooms = {}
    assert len(on_its_way.go()) == 15
    assert uids(on_its_way.ready()) == [job.uid for job in new[7:]]
    assert sorted(session.taken) == sorted(job.uid for job in new), "none twice, none lost"


def test_both_lanes_full_tells_of_the_first_and_of_all_that_got_in() -> None:
    session = FakeSession()
    session.rooms = {"1": 3, "2": 2}
    on_its_way, _ = split(session, 30)
    with pytest.raises(LaneFull, match="1 is full") as caught:
        on_its_way.go()
    assert caught.value.rows == (0, 1, 2, 3, 5)


def test_store_that_is_lost_in_the_second_lane_tells_of_the_first() -> None:
    session = FakeSession()
    on_its_way, new = split(session, 30)
    session.errors = [None, StoreUnavailable("gone")]
    with pytest.raises(StoreUnavailable) as caught:
        on_its_way.go()
    first = [row for row in range(30) if row % 3 != 2]
    assert list(caught.value.rows) == first
    assert uids(caught.value.jobs) == [new[row].uid for row in first]
    assert sorted(session.inbox().expected()) == sorted(job.id for job in caught.value.jobs)
    assert uids(on_its_way.go()) == [new[row].uid for row in range(2, 30, 3)]
    assert sorted(session.taken) == sorted(job.uid for job in new)


def test_store_that_is_lost_while_another_lane_is_full_is_what_is_told() -> None:
    session = FakeSession()
    session.rooms = {"1": 2}
    on_its_way, _ = split(session, 6)
    session.errors = [None, None, None, StoreFull("no memory")]
    with pytest.raises(StoreFull) as caught:
        on_its_way.go()
    assert caught.value.rows == (0, 1)


def test_conflict_in_the_second_lane_tells_what_the_first_took() -> None:
    session, new = FakeSession(), [*plain(2), keyed("a")]
    known = {0: Known(LANE.slot, new[2].uid, same=False)}
    session.answers = [Accepted(2), Accepted(1, known)]
    groups = [Group(TARGET, new[:2], [0, 2]), Group(SECOND, new[2:], [1])]
    with pytest.raises(IdempotencyConflict) as caught:
        Submission(session, groups).go()  # type: ignore[arg-type]
    assert caught.value.job_id == f"{LANE.slot}-{new[2].uid}"
    assert (caught.value.accepted, caught.value.rows) == (2, (0, 2))
    assert uids(caught.value.jobs) == [job.uid for job in new[:2]]
    assert sorted(session.inbox().expected()) == sorted(job.id for job in caught.value.jobs)


def test_one_key_at_two_rows_of_two_lanes_is_one_job() -> None:
    session, key = FakeSession(), keyed("a")
    session.answers = [Accepted(1), Accepted(1, {0: Known(LANE.slot, key.uid, same=True)})]
    groups = [Group(TARGET, [key], [1]), Group(SECOND, [key], [0])]
    first, second = Submission(session, groups).go()  # type: ignore[arg-type]
    assert first is second
    assert first.id == f"{LANE.slot}-{key.uid}"
    assert first.inbox is session.inbox()
    assert session.inbox().expected() == [first.id]
