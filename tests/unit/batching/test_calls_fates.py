"""Tombstones and forgetting: what is known of a job when its record is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from umbel_batching.lanes import keyed_uid, new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import State
from umbel_batching.retention import Retention
from umbel_batching.values import Fate

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

TTL_S, TOMB_S, DEAD_S = 100, 1_000, 10_000
#: Digits of a uid that name its bucket of tombstones.
BUCKET = 9


def tombs(lab: Lab) -> list[str]:
    return [key.decode() for key in lab.client.scan_iter(match=f"{lab.keys.tomb}*", count=10_000)]


def fate(lab: Lab, uid: str) -> Fate | None:
    return lab.fates(uid)[0]


def test_a_job_that_never_existed_has_no_fate(lab: Lab) -> None:
    (uid,) = lab.submit()
    assert lab.fates(uid, new_uid(), "0" * 32) == [None] * 3
    assert lab.fates() == []
    lab.settle(lab.claim())
    near = f"{uid[:-1]}{'0' if uid[-1] != '0' else '1'}"
    assert lab.fates(near) == [None]


def test_every_way_to_end_leaves_a_tombstone(lab: Lab) -> None:
    good, bad, gone = lab.submit(3)
    (taken,) = lab.submit(1, timeout_ms=60_000)
    lab.past_deadline(taken)
    claimed = lab.claim()
    lab.cancel(gone)
    lab.settle(claimed, failing=[bad])
    (late,) = lab.submit(timeout_ms=60_000)
    lab.past_deadline(late)
    lab.expire()
    (waited,) = lab.submit()
    lab.cancel(waited)
    (lost,) = lab.submit()
    lab.lose(lab.claim(), max_attempts=1)
    ended = {
        good: State.SUCCEEDED,
        bad: State.FAILED,
        gone: State.CANCELLED,
        taken: State.EXPIRED,
        late: State.EXPIRED,
        waited: State.CANCELLED,
        lost: State.FAILED,
    }
    finished = {uid: lab.record(uid).finished_ms for uid in ended}
    lab.client.delete(*[lab.keys.job + uid for uid in ended])
    found = dict(zip(ended, lab.fates(*ended), strict=True))
    assert {uid: told and told.state for uid, told in found.items()} == ended
    for uid in set(ended) - {good, bad}:
        assert found[uid] == Fate(ended[uid], finished[uid])
    for told in found.values():
        assert told is not None
        assert claimed.started_ms <= told.finished_ms <= lab.now()


def test_tombstones_outlive_the_results(lab: Lab) -> None:
    (good,) = lab.submit()
    lab.settle(lab.claim())
    (tomb,) = tombs(lab)
    assert tomb == lab.keys.tomb + good[:BUCKET]
    assert TTL_S < lab.client.ttl(tomb) <= TTL_S + TOMB_S
    (bad,) = lab.submit()
    lab.settle(lab.claim(), failing=[bad])
    assert DEAD_S < lab.client.ttl(lab.keys.tomb + bad[:BUCKET]) <= DEAD_S + TOMB_S


def test_a_later_end_does_not_shorten_the_life_of_a_bucket(lab: Lab) -> None:
    bad, good = lab.submit(2)
    uids = {bad[:BUCKET], good[:BUCKET]}
    lab.lose(lab.claim(), max_attempts=1)
    (other,) = lab.submit()
    lab.settle(lab.claim())
    if other[:BUCKET] in uids:
        assert lab.client.ttl(lab.keys.tomb + other[:BUCKET]) > DEAD_S
    assert fate(lab, bad) is not None


def test_jobs_of_one_bucket_are_told_apart(lab: Lab) -> None:
    uids = lab.submit(12)
    lab.settle(lab.claim(), failing=uids[:1])
    lab.cancel(uids[4])
    lab.settle(lab.claim())
    found = lab.fates(*uids, *reversed(uids))
    assert [told and told.state for told in found[:9]] == [
        State.FAILED,
        *[State.SUCCEEDED] * 3,
        State.CANCELLED,
        *[State.SUCCEEDED] * 4,
    ]
    assert found[9:12] == [None] * 3
    assert found[12:] == found[:12][::-1]


def test_a_uid_within_other_tombstones_is_not_taken_for_its_own(lab: Lab) -> None:
    (uid,) = lab.submit()
    bucket, rest = uid[:BUCKET], uid[BUCKET:]
    shifted = f"{'0' * 5}{rest}s{'1' * 13}".ljust(37 * 2, "0")
    lab.client.set(lab.keys.tomb + bucket, shifted)
    assert lab.fates(uid) == [None]
    lab.settle(lab.claim())
    told = fate(lab, uid)
    assert told is not None
    assert told.state is State.SUCCEEDED


def test_thousands_of_fates_are_told_at_once(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_batch_size=4096))
    uids = lab.submit(3_000)
    lab.settle(lab.claim(), failing=uids[::7])
    keyed = [keyed_uid("digits", str(at)) for at in range(20)]
    lab.submit_keyed(*[str(at) for at in range(20)])
    lab.settle(lab.claim())
    found = lab.fates(*uids, *keyed, new_uid())
    states = [told.state if told else None for told in found]
    expected = [State.SUCCEEDED if place % 7 else State.FAILED for place in range(3_000)]
    assert states == [*expected, *[State.SUCCEEDED] * 20, None]


def test_a_replayed_job_has_its_last_fate(lab: Lab) -> None:
    (uid,) = lab.submit()
    lab.lose(lab.claim(), max_attempts=1)
    lab.replay(uid)
    lab.settle(lab.claim())
    told = fate(lab, uid)
    assert told is not None
    assert told.state is State.SUCCEEDED


def test_no_tombstone_time_still_keeps_it_as_long_as_the_result(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(), Retention(result_ttl_s=TTL_S, tombstone_ttl_s=0))
    (uid,) = lab.submit()
    lab.settle(lab.claim())
    assert 0 < lab.client.ttl(lab.keys.tomb + uid[:BUCKET]) <= TTL_S


def prepare(lab: Lab, state: State, uid: str) -> None:
    """Brings a fresh job into ``state``."""
    if state is State.CANCELLED:
        lab.cancel(uid)
    elif state is State.EXPIRED:
        lab.past_deadline(uid)
        lab.expire()
    elif state is not State.QUEUED:
        claimed = lab.claim()
        if state is not State.RUNNING:
            lab.settle(claimed, failing=[uid] if state is State.FAILED else [])


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("keyed", [False, True])
def test_nothing_is_left_of_a_forgotten_job(lab: Lab, state: State, keyed: bool) -> None:
    if keyed:
        lab.submit_keyed("a", timeout_ms=60_000)
        uid = keyed_uid("digits", "a")
    else:
        (uid,) = lab.submit(timeout_ms=60_000)
    prepare(lab, state, uid)
    assert lab.forget(uid) is state
    batches = {key for key in lab.keys_with(uid) if key.startswith(lab.keys.batch)}
    assert lab.keys_with(uid) == batches
    assert lab.state(uid) is None
    told = fate(lab, uid)
    assert told is not None
    assert told.state is (state if state.terminal else State.CANCELLED)
    assert lab.forget(uid) is None
    assert (lab.counter("bytes"), lab.waiting()) == (0, [])
    ended = sum(lab.counter(end.value) for end in State if end.terminal)
    assert ended == lab.counter("submitted") == 1


def test_forgetting_a_waiting_job_is_told_to_who_waits_for_it(lab: Lab) -> None:
    client = "c" * 16
    (uid,) = lab.submit(reply=client)
    heard = lab.listen(client)
    lab.forget(uid)
    assert len(heard()) == 1


def test_a_running_job_that_was_forgotten_stays_forgotten(lab: Lab) -> None:
    kept, gone = lab.submit(2)
    claimed = lab.claim()
    lab.forget(gone)
    assert lab.settle(claimed)
    assert (lab.state(kept), lab.state(gone)) == (State.SUCCEEDED, None)
    assert (lab.counter("succeeded"), lab.counter("cancelled")) == (1, 1)


def test_a_lost_batch_does_not_bring_a_forgotten_job_back(lab: Lab) -> None:
    kept, gone = lab.submit(2)
    claimed = lab.claim()
    lab.forget(gone)
    assert lab.lose(claimed).again == 1
    assert lab.waiting() == [kept]
    assert lab.keys_with(gone) == {lab.keys.batch + claimed.batch}


def test_inputs_recorded_at_earlier_losses_are_forgotten_too(lab: Lab) -> None:
    uid, other = lab.submit(2, payload=b"secret")
    first = lab.claim()
    lab.lose(first)
    second = lab.claim()
    assert second.uids == [uid]
    lab.lose(second)
    lab.settle(lab.claim())
    lab.settle(lab.claim())
    assert lab.forget(uid) is State.SUCCEEDED
    recorded = [lab.client.hkeys(lab.keys.recording + batch.batch) for batch in (first, second)]
    assert recorded == [[other.encode()], []]
    assert lab.members(lab.keys.recordings) == [
        member for member in lab.members(lab.keys.recordings) if first.batch in member
    ]


def test_forgetting_the_last_input_of_a_recorded_batch_frees_its_room(lab: Lab) -> None:
    uids = lab.submit(2)
    lab.settle(lab.claim(), failing=uids)
    assert lab.counter("recorded_bytes") > 0
    for uid in uids:
        lab.forget(uid)
    assert lab.client.exists(lab.keys.recordings, lab.keys.dead) == 0
    assert lab.counter("recorded_bytes") == 0


def test_forgetting_a_job_nobody_knows_changes_nothing(lab: Lab) -> None:
    assert lab.forget(new_uid()) is None
    assert lab.client.keys() == []
