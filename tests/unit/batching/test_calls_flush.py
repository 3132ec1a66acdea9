"""Flushing: as many drains as there are batches and free slots, none twice, none forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from umbel_batching.lanes import new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import HEAD, State, parse
from umbel_batching.values import Flush

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

PATIENCE_MS = 2_000


def flush(lab: Lab, *, slots: int = 1, tokens: list[str] | None = None) -> Flush:
    names = tokens or [new_uid() for _ in range(8)]
    call = lab.calls.flush(lab.slot, slots=slots, patience_ms=PATIENCE_MS, tokens=names)
    return lab.runner.run(call)


def now(lab: Lab) -> int:
    return lab.runner.run(lab.calls.due(1)).now_ms


def sent(lab: Lab) -> list[str]:
    return [member.decode() for member in lab.client.zrange(lab.keys.sent, 0, -1)]


def forget_hints(lab: Lab) -> None:
    """Lets every hint that was sent count as lost."""
    for token in sent(lab):
        lab.client.zadd(lab.keys.sent, {token: 1})


def test_a_lane_that_is_not_due_is_looked_at_later(lab: Lab) -> None:
    (uid,) = lab.submit()
    assert flush(lab) == Flush(0, 0, "digits@1", "umbel")
    due = lab.record(uid).created_ms + 1_000
    assert lab.client.zscore(lab.shared.wake, lab.slot) == due


@pytest.mark.parametrize(
    ("jobs", "slots", "drains"),
    [(4, 1, 1), (4, 9, 1), (7, 9, 1), (8, 9, 2), (40, 3, 3), (100, 99, 8)],
)
def test_drains_follow_batches_and_slots(lab: Lab, jobs: int, slots: int, drains: int) -> None:
    lab.submit(jobs)
    assert flush(lab, slots=slots).sent == len(sent(lab)) == drains


def test_one_job_that_has_waited_is_worth_a_drain(lab: Lab) -> None:
    lab.age(lab.submit()[0], 1_000)
    assert flush(lab, slots=5).sent == 1


def test_two_flushers_send_nothing_twice(lab: Lab) -> None:
    lab.submit(8)
    assert [flush(lab, slots=4).sent for _ in range(3)] == [2, 0, 0]


def test_a_flush_whose_reply_was_lost_can_be_repeated(lab: Lab) -> None:
    """Otherwise its drains count as sent, and nobody sends them until patience runs out."""
    lab.submit(8)
    tokens = [new_uid() for _ in range(8)]
    assert flush(lab, slots=4, tokens=tokens) == flush(lab, slots=4, tokens=tokens)
    assert sorted(sent(lab)) == sorted(tokens[:2])


def test_running_drains_take_their_slots(lab: Lab) -> None:
    lab.submit(12)
    lab.claim(token="a")
    assert flush(lab, slots=1).sent == 0
    assert flush(lab, slots=2).sent == 1


def test_drains_that_died_free_their_slots(lab: Lab) -> None:
    lab.submit(8)
    claimed = lab.claim(token="a")
    lab.client.zadd(lab.keys.drains, {"a": 1})
    assert flush(lab).sent == 1
    assert lab.settle(claimed)


def test_an_unanswered_hint_is_sent_again_ever_more_patiently(lab: Lab) -> None:
    lab.submit(4)
    waits = []
    for _ in range(8):
        before = now(lab)
        assert flush(lab).sent == 1
        (token,) = sent(lab)
        score = lab.client.zscore(lab.keys.sent, token)
        waits.append(round((score - before) / PATIENCE_MS))
        forget_hints(lab)
    assert waits == [1, 2, 4, 8, 16, 32, 32, 32]


def test_an_answer_restores_impatience(lab: Lab) -> None:
    lab.submit(4)
    for _ in range(4):
        flush(lab)
        forget_hints(lab)
    flush(lab)
    (token,) = sent(lab)
    lab.settle(lab.claim(token=token))
    assert lab.claim(token=token).left == 0
    lab.submit(4)
    before = now(lab)
    flush(lab)
    ((_, score),) = lab.client.zrange(lab.keys.sent, 0, -1, withscores=True)
    assert score - before < 2 * PATIENCE_MS


def test_a_lane_with_waiting_jobs_is_looked_at_within_patience(lab: Lab) -> None:
    lab.submit(8)
    lab.claim()
    flush(lab)
    score = lab.client.zscore(lab.shared.wake, lab.slot)
    assert score <= now(lab) + PATIENCE_MS


def test_a_lane_at_rest_leaves_the_list(lab: Lab) -> None:
    lab.submit(4)
    flush(lab)
    (token,) = sent(lab)
    lab.settle(lab.claim(token=token))
    lab.claim(token=token)
    assert flush(lab).sent == 0
    assert lab.client.zscore(lab.shared.wake, lab.slot) is None


def test_a_lane_that_does_not_exist_leaves_the_list(lab: Lab) -> None:
    lab.client.zadd(lab.shared.wake, {lab.slot: 1})
    assert flush(lab) == Flush(0, 0, "", "")
    assert lab.client.keys() == []


def test_leases_that_ran_out_are_reported(lab: Lab) -> None:
    lab.submit(8)
    for _ in range(2):
        lab.client.zadd(lab.keys.leases, {lab.claim().batch: 1})
    assert flush(lab).expired == 2


def test_a_lane_with_a_lease_stays_on_the_list(lab: Lab) -> None:
    lab.submit(1)
    claimed = lab.claim()
    flush(lab)
    assert lab.client.zscore(lab.shared.wake, lab.slot) == claimed.started_ms + 60_000


def test_due_lists_lanes_by_urgency(lab: Lab) -> None:
    far = now(lab) + 10**6
    lab.client.zadd(lab.shared.wake, {"bbbbbbbb": 5, "aaaaaaaa": 7, "cccccccc": far})
    due = lab.runner.run(lab.calls.due(10))
    assert (due.slots, due.next_ms) == (["bbbbbbbb", "aaaaaaaa"], 5)
    assert lab.runner.run(lab.calls.due(1)).slots == ["bbbbbbbb"]
    lab.client.zrem(lab.shared.wake, "aaaaaaaa", "bbbbbbbb")
    due = lab.runner.run(lab.calls.due(10))
    assert (due.slots, due.next_ms) == ([], far)


def test_nothing_is_due_in_an_empty_namespace(lab: Lab) -> None:
    due = lab.runner.run(lab.calls.due(10))
    assert (due.slots, due.next_ms) == ([], 0)


@pytest.mark.parametrize("waiting", [0, 3])
def test_a_released_drain_hands_the_lane_over(lab: Lab, waiting: int) -> None:
    lab.submit(4)
    lab.settle(lab.claim(token="a"))
    lab.client.delete(lab.shared.wake, lab.shared.signal)
    if waiting:
        lab.submit(waiting)
    lab.client.zadd(lab.keys.sent, {"a": 10**13})
    assert lab.runner.run(lab.calls.release(lab.slot, "a")) == waiting
    assert lab.client.exists(lab.keys.drains, lab.keys.sent) == 0
    assert lab.runner.run(lab.calls.due(1)).slots == ([lab.slot] if waiting else [])
    assert lab.client.zcard(lab.shared.signal) == bool(waiting)


def test_rearm_finds_lanes_that_fell_off_the_list(lab: Lab) -> None:
    assert not lab.runner.run(lab.calls.rearm(lab.slot, now=False))
    lab.submit()
    score = lab.client.zscore(lab.shared.wake, lab.slot)
    assert lab.runner.run(lab.calls.rearm(lab.slot, now=False))
    assert lab.client.zscore(lab.shared.wake, lab.slot) == score
    lab.client.delete(lab.shared.wake)
    assert lab.runner.run(lab.calls.rearm(lab.slot, now=False))
    assert lab.runner.run(lab.calls.due(1)).slots == [lab.slot]


def test_rearm_now_sends_afresh_what_may_be_lost(lab: Lab) -> None:
    """A new worker need not wait for hints that were lost while there was none."""
    lab.submit(4)
    for _ in range(5):
        flush(lab)
        forget_hints(lab)
    flush(lab)
    assert lab.runner.run(lab.calls.rearm(lab.slot, now=True))
    assert lab.runner.run(lab.calls.due(1)).slots == [lab.slot]
    assert flush(lab).sent == 1


def test_rearm_finds_lanes_that_only_run(lab: Lab) -> None:
    lab.submit()
    lab.claim()
    lab.client.delete(lab.shared.wake)
    assert lab.runner.run(lab.calls.rearm(lab.slot, now=False))


def test_peeking_never_drags_payloads_along(lab: Lab) -> None:
    payload = b"x" * 10_000
    waiting, running, done = (lab.submit(payload=payload, meta=b"\x81\xa1a\x01")[0] for _ in "123")
    lab.client.zadd(lab.keys.waiting, {waiting: 10**13})
    lab.age(done, 10_000)
    lab.client.hset(lab.keys.lane, "max_batch_size", 1)
    lab.settle(lab.claim())
    lab.claim()
    uids = [waiting, running, done, "0" * 32]
    states = lab.runner.run(lab.calls.states(lab.slot, uids))
    assert states == [State.QUEUED, State.RUNNING, State.SUCCEEDED, None]
    heads = lab.runner.run(lab.calls.heads(lab.slot, uids))
    assert [len(head) for head in heads] == [HEAD + 4] * 3 + [0]
    assert [parse(head).metadata for head in heads[:3]] == [{"a": 1}] * 3
    outcomes = lab.runner.run(lab.calls.outcomes(lab.slot, uids))
    assert [len(outcome) for outcome in outcomes] == [HEAD + 4, HEAD + 4, HEAD + 8, 0]
    assert bytes(parse(outcomes[2]).body) == b"done"


def test_peeking_at_nothing_finds_nothing(lab: Lab) -> None:
    assert lab.runner.run(lab.calls.states(lab.slot, [])) == []


def test_lanes_do_not_see_each_other(lab: Lab, make_lab: type[Lab]) -> None:
    (uid,) = lab.submit()
    assert lab.runner.run(lab.calls.states("zzzzzzzz", [uid])) == [None]
    assert lab.runner.run(lab.calls.cancel("zzzzzzzz", uid)) == (False, None)
    other = make_lab(BatchPolicy())
    assert other.claim().uids == []
