"""What a dead process held is taken back at once, whoever tells of its death."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis

from umbel_batching.lanes import new_uid
from umbel_batching.record import State
from umbel_cli import orphans
from umbel_worker import deaths

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, WaitUntil

CAUSE = "killed by SIGSEGV"


def overdue(lab: Any) -> int:
    """Leases that ran out."""
    return int(lab.client.zcount(lab.keys.leases, "-inf", lab.client.time()[0] * 1000))


def test_stack_takes_back_what_its_worker_held(settings: MakeSettings, lab: Any) -> None:
    dead, living = (lab.submit(16), lab.submit(16))
    held = lab.claim(new_uid(), worker=orphans.worker_name(4242))
    other = lab.claim(new_uid(), worker=orphans.worker_name(4243))
    orphans.take_back(settings(), 4242, CAUSE).join()
    assert lab.reap() == 1
    assert [lab.record(uid).state for uid in dead] == [State.QUEUED] * 16
    (event,) = lab.record(dead[0]).history
    assert (event.what, event.cause, event.batch_id) == ("lost", CAUSE, held.batch)
    assert [lab.record(uid).state for uid in living] == [State.RUNNING] * 16
    assert not lab.settle(held)
    assert lab.settle(other)


def test_pool_takes_back_what_its_process_held(
    settings: MakeSettings,
    lab: Any,
    namespace: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: WaitUntil,
) -> None:
    monkeypatch.setenv("UMBEL_REDIS_URL", redis_url)
    monkeypatch.setenv("UMBEL_NAMESPACE", namespace)
    (uid,), token = lab.submit(1), new_uid()
    lab.claim(token)
    deaths.take_back(lab.lane.name, token, CAUSE)
    wait_until(lambda: overdue(lab) == 1, "the lease is ended")
    assert lab.reap() == 1
    assert lab.record(uid).history[0].cause == CAUSE


def test_a_death_before_the_first_claim_keeps_the_pause(lab: Any) -> None:
    """A model that kills whoever loads it must not be loaded without end."""
    lab.submit(1)
    token = new_uid()
    call = lab.calls.flush(lab.lane.slot, slots=1, patience_ms=60_000, tokens=[token])
    assert lab.runner.run(call).sent == 1
    assert lab.runner.run(lab.calls.orphan(lab.lane.slot, owner=token, cause=CAUSE)) == 0
    assert lab.client.zscore(lab.keys.sent, token) is not None


def test_a_death_between_two_batches_wakes_a_flusher(lab: Any) -> None:
    lab.submit(17)
    token = new_uid()
    assert lab.settle(lab.claim(token))
    lab.client.delete(lab.wake)
    assert lab.runner.run(lab.calls.orphan(lab.lane.slot, owner=token, cause=CAUSE)) == 0
    assert lab.client.zscore(lab.wake, lab.lane.slot) is not None
    assert lab.client.zscore(lab.keys.drains, token) is None


@pytest.mark.parametrize("reporter", ["stack", "pool"])
def test_redis_that_is_away_blocks_nobody(
    settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: WaitUntil,
    reporter: str,
) -> None:
    away = "redis://127.0.0.1:1/0"
    monkeypatch.setenv("UMBEL_REDIS_URL", away)
    if reporter == "stack":
        orphans.take_back(settings(redis_url=away, redis_retries=0), os.getpid(), CAUSE)
    else:
        deaths.take_back("affine@1", new_uid(), CAUSE)
    names = ("umbel-orphan", "umbel-orphans")
    wait_until(
        lambda: not [each for each in threading.enumerate() if each.name in names],
        "the thread has given up",
    )


def test_a_namespace_without_lanes_has_no_orphans(
    settings: MakeSettings, store_redis: redis.Redis, namespace: str
) -> None:
    orphans.take_back(settings(), 1, CAUSE).join()
    assert list(store_redis.scan_iter(match=f"{namespace}*")) == []
