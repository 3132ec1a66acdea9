"""Dead letters: jobs that failed for good, their evidence, their inputs, and their second life."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from umbel_batching.dead_letters import dead_letter, dead_letters, recorded_batch
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import HEAD, Priority, State
from umbel_batching.retention import Retention
from umbel_batching.values import Replayed

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

TTL_S, TOMB_S, DEAD_S = 100, 1_000, 10_000


def keep(**bounds: int) -> Retention:
    return Retention(result_ttl_s=TTL_S, tombstone_ttl_s=TOMB_S, dead_ttl_s=DEAD_S, **bounds)


def die(lab: Lab, count: int = 1, payload: bytes = b"payload") -> list[str]:
    """Jobs that fail by exception, each batch as a whole."""
    uids = lab.submit(count, payload=payload)
    while (claimed := lab.claim()).uids:
        lab.settle(claimed, failing=claimed.uids)
    return uids


def dead(lab: Lab) -> list[str]:
    return lab.members(lab.keys.dead)


def test_a_job_that_failed_is_a_dead_letter_with_its_evidence(lab: Lab) -> None:
    good, bad = lab.submit(2)
    claimed = lab.claim(worker="host:1")
    lab.settle(claimed, failing=[bad])
    assert dead(lab) == [bad]
    letter = dead_letter(lab.client, "t", f"{lab.slot}-{bad}")
    assert letter is not None
    assert (letter.lane, letter.error) == ("digits@1", "ValueError: bad row")
    assert (letter.attempts, letter.batch_id, letter.worker) == (1, claimed.batch, "host:1")
    assert (letter.replayable, letter.history) == (True, [])
    assert letter.created_at == lab.record(bad).created_ms <= letter.died_at <= lab.now()
    assert dead_letter(lab.client, "t", f"{lab.slot}-{good}") is None
    assert 0 < lab.client.ttl(lab.keys.dead) <= DEAD_S


def test_a_job_that_killed_its_workers_is_a_dead_letter_with_its_evidence(lab: Lab) -> None:
    lab.submit()
    batches = []
    for attempt in range(3):
        batches.append(lab.claim(worker=f"host:{attempt}").batch)
        lab.orphan(f"host:{attempt}", f"killed by SIG{attempt}")
        lab.reap()
    (letter,) = dead_letters(lab.client, "t")
    assert letter.error.startswith("WorkerLost: ")
    assert (letter.attempts, letter.batch_id, letter.worker) == (3, batches[-1], "host:2")
    assert [event.batch_id for event in letter.history] == batches
    assert [event.cause for event in letter.history] == [f"killed by SIG{at}" for at in range(3)]
    assert letter.replayable


def test_dead_letters_are_listed_newest_first_of_one_lane_or_all(lab: Lab) -> None:
    first = die(lab)[0]
    lab.client.zadd(lab.keys.dead, {first: lab.now() - 1_000})
    second = die(lab)[0]
    ids = [f"{lab.slot}-{uid}" for uid in (second, first)]
    assert [letter.id for letter in dead_letters(lab.client, "t")] == ids
    assert [letter.id for letter in dead_letters(lab.client, "t", lane="digits@1")] == ids
    assert [letter.id for letter in dead_letters(lab.client, "t", limit=1)] == ids[:1]
    assert dead_letters(lab.client, "t", lane="other@1") == []
    assert dead_letters(lab.client, "elsewhere") == []


def test_a_lane_keeps_a_bounded_number_of_dead_letters(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_batch_size=1), keep(max_dead=3))
    uids = []
    for _ in range(5):
        uids += die(lab)
        lab.client.zadd(lab.keys.dead, {uids[-1]: lab.now() - 1000 + len(uids)})
    assert dead(lab) == uids[2:]
    for uid in uids[:2]:
        assert 0 < lab.client.ttl(lab.keys.job + uid) <= TTL_S
        assert lab.state(uid) is State.FAILED
    for uid in uids[2:]:
        assert TTL_S < lab.client.ttl(lab.keys.job + uid) <= DEAD_S
    assert len(lab.members(lab.keys.recordings)) == 3


def test_more_jobs_may_die_at_once_than_are_kept(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_batch_size=8), keep(max_dead=3))
    uids = die(lab, 8)
    assert len(dead(lab)) == 3
    assert set(dead(lab)) < set(uids)
    for uid in set(uids) - set(dead(lab)):
        assert 0 < lab.client.ttl(lab.keys.job + uid) <= TTL_S


def test_no_dead_letters_at_all_can_be_asked_for(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_batch_size=4), keep(max_dead=0))
    (bad,) = die(lab)
    (lost,) = lab.submit()
    lab.lose(lab.claim(), max_attempts=1)
    for uid in (bad, lost):
        assert lab.state(uid) is State.FAILED
        assert 0 < lab.client.ttl(lab.keys.job + uid) <= TTL_S
        assert lab.replay(uid) == Replayed(done=False, why="not dead")
    assert lab.client.exists(lab.keys.dead, lab.keys.recordings) == 0
    assert list(lab.client.scan_iter(match=f"{lab.keys.recording}*")) == []
    assert dead_letters(lab.client, "t") == []


def test_recorded_inputs_are_bounded_in_bytes(make_lab: type[Lab]) -> None:
    one = 4 * (HEAD + 1_000)
    lab = make_lab(BatchPolicy(max_batch_size=4), keep(max_dead_bytes=2 * one + 10))
    batches = []
    for _ in range(3):
        lab.submit(4, payload=b"x" * 1_000)
        claimed = lab.claim()
        batches.append(claimed.batch)
        lab.settle(claimed, failing=claimed.uids[:1])
        for member in lab.members(lab.keys.recordings):
            lab.client.zincrby(lab.keys.recordings, -1_000, member)
    kept = [batch for batch in batches if lab.client.exists(lab.keys.recording + batch)]
    assert kept == batches[1:]
    assert lab.counter("recorded_bytes") == 2 * one
    assert len(dead(lab)) == 3
    first = next(uid for uid in dead(lab) if lab.record(uid).batch == batches[0])
    assert lab.replay(first) == Replayed(done=False, why="not recorded")


def test_of_a_batch_too_large_to_record_the_failed_inputs_are_kept(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_batch_size=4), keep(max_dead_bytes=2 * (HEAD + 1_000)))
    uids = lab.submit(4, payload=b"x" * 1_000)
    claimed = lab.claim()
    lab.settle(claimed, failing=uids[2:3])
    recorded = recorded_batch(lab.client, "t", claimed.batch)
    assert recorded is not None
    assert recorded.job_ids == [f"{lab.slot}-{uids[2]}"]
    assert recorded.missing == 3
    assert lab.counter("recorded_bytes") == HEAD + 1_000
    assert lab.replay(uids[2]).done


def test_an_input_too_large_to_record_is_a_dead_letter_all_the_same(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_batch_size=4), keep(max_dead_bytes=100))
    (uid,) = die(lab, payload=b"x" * 1_000)
    letter = dead_letter(lab.client, "t", f"{lab.slot}-{uid}")
    assert letter is not None
    assert not letter.replayable
    assert lab.client.exists(lab.keys.recordings) == 0


@pytest.mark.parametrize("how", ["failed", "lost"])
def test_a_batch_is_recorded_as_it_was_composed(lab: Lab, how: str) -> None:
    uids = []
    for at, which in enumerate([Priority.LOW, Priority.HIGH, Priority.NORMAL, Priority.HIGH]):
        uids += lab.submit(payload=b"p%d" % at, priority=which, meta=b"\x80")
    claimed = lab.claim(worker="host:1")
    if how == "failed":
        lab.settle(claimed, failing=claimed.uids[1:2])
    else:
        lab.orphan("host:1", "killed by SIGKILL")
        lab.reap()
    recorded = recorded_batch(lab.client, "t", claimed.batch)
    assert recorded is not None
    assert recorded.job_ids == [f"{lab.slot}-{uid}" for uid in claimed.uids]
    assert recorded.payloads == [b"p1", b"p3", b"p2", b"p0"]
    assert (recorded.lane, recorded.worker, recorded.reason) == ("digits@1", "host:1", "size")
    assert (recorded.started_at, recorded.missing) == (claimed.started_ms, 0)
    assert recorded.cause == (None if how == "failed" else "killed by SIGKILL")
    assert 0 < lab.client.ttl(lab.keys.recording + claimed.batch) <= DEAD_S


def test_a_batch_without_a_failure_is_not_recorded(lab: Lab) -> None:
    lab.submit(4)
    claimed = lab.claim()
    lab.settle(claimed)
    assert recorded_batch(lab.client, "t", claimed.batch) is None
    assert recorded_batch(lab.client, "t", new_uid()) is None


def test_the_input_of_a_cancelled_neighbour_is_missing_not_empty(lab: Lab) -> None:
    bad, gone = lab.submit(2)
    claimed = lab.claim()
    lab.cancel(gone)
    lab.settle(claimed, failing=[bad])
    recorded = recorded_batch(lab.client, "t", claimed.batch)
    assert recorded is not None
    assert recorded.job_ids == [f"{lab.slot}-{bad}"]
    assert (recorded.payloads, recorded.missing) == ([b"payload"], 1)


def test_a_failure_nobody_waits_for_any_more_records_nothing(lab: Lab) -> None:
    gone, _ = lab.submit(2)
    claimed = lab.claim()
    lab.cancel(gone)
    lab.settle(claimed, failing=[gone])
    assert recorded_batch(lab.client, "t", claimed.batch) is None
    assert lab.client.exists(lab.keys.dead, lab.keys.recordings) == 0


def test_a_replayed_job_waits_again_under_its_id(lab: Lab) -> None:
    (uid,) = lab.submit(meta=b"\x81\xa1a\x01", priority=Priority.LOW, reply="c" * 16)
    for _ in range(3):
        claimed = lab.claim()
        lab.lose(claimed)
    created = lab.record(uid).created_ms
    lab.client.delete(lab.shared.wake)
    assert lab.replay(uid) == Replayed(done=True)
    record = lab.record(uid)
    assert (record.state, record.attempts, record.cap) == (State.QUEUED, 0, 1)
    assert (record.created_ms, record.finished_ms) == (created, 0)
    assert (record.metadata, bytes(record.body)) == ({"a": 1}, b"payload")
    assert (record.priority, record.reply) == (Priority.LOW, "c" * 16)
    assert [event.what for event in record.history] == ["lost"] * 3 + ["replayed"]
    assert record.history[-1].batch_id == claimed.batch
    assert lab.client.ttl(lab.keys.job + uid) == -1
    assert (lab.waiting(), dead(lab)) == ([uid], [])
    assert lab.counter("bytes") == lab.client.strlen(lab.keys.job + uid)
    assert (lab.counter("failed"), lab.counter("replayed")) == (0, 1)
    assert lab.runner.run(lab.calls.due(1)).slots == [lab.slot]


def test_a_replayed_job_runs_alone_and_may_succeed(lab: Lab) -> None:
    (uid,) = die(lab)
    lab.replay(uid)
    fresh = lab.submit(3)
    first, second = lab.claim(), lab.claim()
    assert sorted([first.uids, second.uids]) == sorted([[uid], fresh])
    for claimed in (first, second):
        assert lab.settle(claimed)
    assert lab.state(uid) is State.SUCCEEDED
    counts = {name: lab.counter(name) for name in ("submitted", "succeeded", "failed")}
    assert counts == {"submitted": 4, "succeeded": 4, "failed": 0}
    assert 0 < lab.client.ttl(lab.keys.job + uid) <= TTL_S


@pytest.mark.parametrize("how", ["failed", "lost"])
def test_a_replayed_job_that_dies_again_can_be_replayed_again(lab: Lab, how: str) -> None:
    (uid,) = die(lab)
    for times in range(1, 4):
        assert lab.replay(uid).done
        claimed = lab.claim()
        assert claimed.uids == [uid]
        if how == "failed":
            lab.settle(claimed, failing=[uid])
        else:
            lab.lose(claimed, max_attempts=1)
        assert dead(lab) == [uid]
        record = lab.record(uid)
        assert (record.state, record.attempts) == (State.FAILED, 1)
        assert [event.what for event in record.history].count("replayed") == times
        assert lab.counter("failed") == lab.counter("submitted") == 1
    assert lab.counter("replayed") == 3
    assert bytes(lab.record(uid).body) != b"payload"


def test_replaying_twice_puts_one_job_back(lab: Lab) -> None:
    (uid,) = die(lab)
    for _ in range(2):  # the reply to the first call may have been lost
        assert lab.replay(uid) == Replayed(done=True)
        assert lab.waiting() == [uid]
    lab.lose(lab.claim())
    before = lab.client.get(lab.keys.job + uid)
    assert lab.replay(uid).done
    assert lab.client.get(lab.keys.job + uid) == before
    assert lab.counter("replayed") == 1
    lab.settle(lab.claim())
    assert lab.replay(uid) == Replayed(done=False, why="not dead")


def test_what_is_no_dead_letter_is_not_replayed(lab: Lab) -> None:
    waiting, good = lab.submit(2)
    lab.settle(lab.claim())
    (waiting,) = lab.submit()
    (dropped,) = die(lab)[:1]
    assert lab.drop(dropped)
    (waiting,) = lab.submit()
    reasons = {new_uid(): "unknown", good: "not dead", waiting: "not dead", dropped: "not dead"}
    for uid, why in reasons.items():
        before = lab.client.get(lab.keys.job + uid)
        assert lab.replay(uid) == Replayed(done=False, why=why)
        assert lab.client.get(lab.keys.job + uid) == before


def test_a_full_lane_takes_no_dead_letter_back(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_queue=2))
    (uid,) = die(lab)
    lab.submit(2)
    assert lab.replay(uid) == Replayed(done=False, why="full")
    assert dead(lab) == [uid]
    assert lab.state(uid) is State.FAILED
    lab.settle(lab.claim())
    assert lab.replay(uid).done


def test_a_lane_full_of_bytes_takes_no_dead_letter_back(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_queue_bytes=2 * (HEAD + 100)))
    (uid,) = die(lab, payload=b"x" * 100)
    lab.submit(payload=b"x" * 101)
    assert lab.replay(uid).why == "full"


def test_a_dropped_dead_letter_is_an_ordinary_failure(lab: Lab) -> None:
    uid, other = die(lab, 2)
    claimed = lab.record(uid).batch
    assert lab.drop(uid)
    assert not lab.drop(uid)
    assert not lab.drop(new_uid())
    assert dead(lab) == [other]
    assert lab.state(uid) is State.FAILED
    assert 0 < lab.client.ttl(lab.keys.job + uid) <= TTL_S
    assert lab.client.hkeys(lab.keys.recording + claimed) == [other.encode()]
    assert lab.counter("failed") == 2


def test_dropping_the_last_of_a_recorded_batch_frees_its_room(lab: Lab) -> None:
    for uid in die(lab, 2):
        lab.drop(uid)
    assert lab.client.exists(lab.keys.recordings, lab.keys.dead) == 0
    assert lab.counter("recorded_bytes") == 0


def test_dead_letters_whose_time_is_over_are_swept(lab: Lab) -> None:
    (old,) = die(lab)
    member = lab.members(lab.keys.recordings)[0]
    lab.client.zadd(lab.keys.dead, {old: 1})
    lab.client.zadd(lab.keys.recordings, {member: 1})
    (young,) = die(lab)
    assert dead(lab) == [young]
    assert len(lab.members(lab.keys.recordings)) == 1
    assert lab.counter("recorded_bytes") == HEAD + len(b"payload")


def test_the_bytes_of_recordings_are_counted_afresh_once_all_are_gone(lab: Lab) -> None:
    die(lab)
    lab.client.delete(lab.keys.recordings)  # as when its TTL has passed
    die(lab)
    assert lab.counter("recorded_bytes") == HEAD + len(b"payload")


def test_dead_letters_of_lanes_do_not_mix(lab: Lab) -> None:
    (uid,) = die(lab)
    lab.lane = Lane(model="other", version="1", policy=BatchPolicy())
    assert dead_letter(lab.client, "t", f"{lab.lane.slot}-{uid}") is None
    call = lab.calls.replay(lab.lane.slot, uid)
    assert lab.runner.run(call) == Replayed(done=False, why="unknown")
