"""The inbox delivers once, forgets what nobody keeps, and wakes everybody who waits."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from umbel._inbox import Inbox
from umbel_batching.lanes import new_uid, slot_of
from umbel_batching.record import REPLY_WIDTH, State
from umbel_batching.replies import Outcome, push

SLOT = slot_of("digits@1")
DONE = Outcome(State.SUCCEEDED, b"\x01")


class FakeJob:
    """The least that an inbox takes for a job."""

    def __init__(self, job_id: str = "") -> None:
        self.id = job_id or f"{SLOT}-{new_uid()}"
        self.store = ""
        self.inbox: Inbox | None = None
        self.outcome: Outcome | None = None
        self.on_done: list[Callable[[Any], None]] | None = None


def message(*jobs: FakeJob, body: bytes = b"\x01") -> bytes:
    uids = [job.id.partition("-")[2] for job in jobs]
    return push(SLOT, uids, [State.SUCCEEDED] * len(jobs), [body] * len(jobs))


@pytest.fixture
def switch_often() -> Iterator[None]:
    """Lets threads interleave as finely as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_every_client_has_a_reply_id_of_the_width_of_a_record() -> None:
    replies = {Inbox().reply for _ in range(100)}
    assert len(replies) == 100
    assert {len(reply) for reply in replies} == {REPLY_WIDTH}


def test_outcome_reaches_the_expected_job() -> None:
    inbox, job, other = Inbox(), FakeJob(), FakeJob()
    inbox.expect([job, other])
    assert inbox.receive(message(job)) == []
    assert job.outcome == DONE
    assert other.outcome is None


def test_job_that_nobody_keeps_is_forgotten() -> None:
    inbox, job = Inbox(), FakeJob()
    inbox.expect([job])
    late = message(job)
    assert len(inbox._jobs) == 1
    del job
    gc.collect()
    assert len(inbox._jobs) == 0
    assert inbox.receive(late) == []


def test_delivered_job_is_no_longer_held() -> None:
    inbox, job = Inbox(), FakeJob()
    inbox.expect([job])
    inbox.receive(message(job))
    assert len(inbox._jobs) == 0


def test_first_outcome_stays() -> None:
    inbox, job = Inbox(), FakeJob()
    inbox.expect([job])
    inbox.deliver(job, DONE)
    inbox.deliver(job, Outcome(State.FAILED, b""))
    inbox.receive(message(job, body=b"\x02"))
    assert job.outcome == DONE


def test_waiter_is_told_once() -> None:
    inbox, job, told = Inbox(), FakeJob(), list[Any]()
    inbox.expect([job])
    assert inbox.when_done(job, told.append)
    inbox.deliver(job, DONE)
    inbox.deliver(job, DONE)
    inbox.receive(message(job))
    assert told == [job]


def test_waiter_of_a_done_job_is_not_called() -> None:
    inbox, job, told = Inbox(), FakeJob(), list[Any]()
    inbox.deliver(job, DONE)
    assert not inbox.when_done(job, told.append)
    assert told == []


def test_waiter_that_left_is_not_called() -> None:
    inbox, job, told, stays = Inbox(), FakeJob(), list[Any](), list[Any]()
    inbox.when_done(job, told.append)
    inbox.when_done(job, stays.append)
    inbox.no_longer(job, told.append)
    inbox.no_longer(job, told.append)
    inbox.deliver(job, DONE)
    inbox.no_longer(job, stays.append)
    assert told == []
    assert stays == [job]


def test_forgotten_job_gets_nothing() -> None:
    inbox, job = Inbox(), FakeJob()
    inbox.expect([job])
    inbox.forget([job, FakeJob()])
    inbox.receive(message(job))
    assert job.outcome is None


def test_job_of_the_same_key_stands_in_for_its_like_while_somebody_keeps_it() -> None:
    inbox, job = Inbox(), FakeJob()
    like = FakeJob(job.id)
    assert inbox.expect([job]) == [job]
    assert inbox.expect([like]) == [job]
    inbox.forget([like])
    late = message(job)
    inbox.receive(late)
    assert job.outcome == DONE
    assert inbox.expect([like]) == [like]


def test_discarded_job_loses_its_outcome_and_gets_no_other() -> None:
    inbox, job = Inbox(), FakeJob()
    inbox.expect([job])
    inbox.deliver(job, DONE)
    inbox.expect([job])
    inbox.discard(job)
    inbox.receive(message(job))
    assert job.outcome is None


def test_large_outcomes_are_named_only_to_be_read_by_those_who_wait() -> None:
    inbox, job, gone = Inbox(), FakeJob(), FakeJob()
    inbox.expect([job])
    assert inbox.receive(message(job, gone, body=b"x" * 2**20)) == [job.id]
    inbox.deliver_to(job.id, DONE)
    inbox.deliver_to(gone.id, DONE)
    assert job.outcome == DONE
    assert gone.outcome is None


def test_list_of_waiters_is_touched_under_the_lock_only() -> None:
    """Otherwise one who gives up shifts the list under the thread that walks it: a lost wake-up."""
    inbox, told = Inbox(), list[Any]()

    class Guarded(FakeJob):
        waiters: list[Callable[[Any], None]] | None = None

        @property
        def on_done(self) -> list[Callable[[Any], None]] | None:
            assert inbox._lock.locked()
            return self.waiters

        @on_done.setter
        def on_done(self, value: list[Callable[[Any], None]] | None) -> None:
            assert inbox._lock.locked() or not hasattr(self, "outcome") or self.outcome is None
            self.waiters = value

    polled, pushed = Guarded(), Guarded()
    inbox.expect([polled, pushed])
    for job in (polled, pushed):
        inbox.when_done(job, told.append)
        inbox.when_done(job, print)
        inbox.no_longer(job, print)
    inbox.deliver(polled, DONE)
    inbox.receive(message(pushed))
    inbox.no_longer(pushed, told.append)
    assert told == [polled, pushed]


def test_waiter_and_delivery_never_miss_each_other(switch_often: None) -> None:
    inbox = Inbox()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2000):
            job, told, start = FakeJob(), list[Any](), threading.Barrier(2)
            inbox.expect([job])
            pushed = message(job)
            deliver = pool.submit(_after, start, inbox.receive, pushed)
            waiting = pool.submit(_after, start, inbox.when_done, job, told.append)
            deliver.result()
            assert waiting.result() == bool(told)


def _after(start: threading.Barrier, act: Callable[..., Any], *arguments: Any) -> Any:
    start.wait()
    return act(*arguments)
