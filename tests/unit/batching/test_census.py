"""Reading lanes and jobs for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from umbel_batching.census import (
    JobInfo,
    job_info,
    lane_names,
    lane_statuses,
    worker_slots,
)
from umbel_batching.lanes import Lane
from umbel_batching.policy import BatchPolicy

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab


def announce(lab: Lab, worker: str, slots: int, *, stale_ms: int = 10_000) -> None:
    lab.runner.run(lab.calls.announce("umbel", worker, slots=slots, stale_ms=stale_ms))


def slots(lab: Lab, later_ms: int = 0) -> int:
    now_ms = lab.runner.run(lab.calls.due(1)).now_ms
    return worker_slots(lab.client, "t", "umbel", now_ms + later_ms)


def info(lab: Lab, uid: str) -> JobInfo:
    record = lab.record(uid)
    batch: Any = lab.client.hgetall(lab.keys.batch + record.batch)
    return job_info(f"{lab.slot}-{uid}", "digits@1", record, batch)


def test_an_empty_namespace_has_no_lanes(lab: Lab) -> None:
    assert lane_names(lab.client, "t") == {}
    assert lane_statuses(lab.client, "t") == []


def test_a_lane_is_told_in_numbers(lab: Lab) -> None:
    lab.age(lab.submit(10)[4], 7_000)
    lab.settle(lab.claim())
    bad, gone, *_ = lab.submit(2)
    claimed = lab.claim()
    lab.settle(claimed, failing=claimed.uids[:1])
    lab.cancel(gone)
    running = lab.claim()
    lab.lose(running)
    announce(lab, "w1", 2)
    (status,) = lane_statuses(lab.client, "t")
    assert (status.lane, status.model, status.version) == ("digits@1", "digits", "1")
    assert (status.queue, status.slots) == ("umbel", 2)
    assert (status.submitted, status.succeeded, status.failed) == (12, 7, 1)
    assert (status.cancelled, status.expired, status.batches) == (1, 0, 2)
    assert (status.waiting, status.running, status.leases_lost) == (3, 0, 1)
    assert status.waiting_bytes == lab.counter("bytes") > 0
    assert status.oldest_ms >= 0
    assert (status.max_batch_size, status.max_wait_ms) == (4, 1_000)
    assert lab.state(bad) is not None


def test_the_age_of_the_oldest_job_is_told(lab: Lab) -> None:
    lab.age(lab.submit(2)[1], 7_000)
    (status,) = lane_statuses(lab.client, "t")
    assert 7_000 <= status.oldest_ms < 60_000


def test_lanes_are_sorted_by_name(lab: Lab) -> None:
    for model in ("zebra", "ape"):
        lab.lane = Lane(model=model, version="1", policy=BatchPolicy())
        lab.submit()
    assert [status.model for status in lane_statuses(lab.client, "t")] == ["ape", "zebra"]


def test_slots_of_live_workers_add_up(lab: Lab) -> None:
    assert slots(lab) == 0
    announce(lab, "w1", 2)
    announce(lab, "name|with|bars", 3)
    announce(lab, "w1", 2)
    assert slots(lab) == 5
    assert slots(lab, later_ms=20_000) == 0


def test_a_worker_that_leaves_is_not_counted(lab: Lab) -> None:
    announce(lab, "w1", 2)
    announce(lab, "w2", 1)
    announce(lab, "w1", 2, stale_ms=0)
    assert slots(lab) == 1


def test_a_workers_list_does_not_outlive_its_workers(lab: Lab) -> None:
    announce(lab, "w1", 2)
    assert 0 < lab.client.ttl("t:workers:umbel") <= 60


def test_the_story_of_a_waiting_job(lab: Lab) -> None:
    (uid,) = lab.submit(meta=b"\x81\xa1a\x01")
    told = info(lab, uid)
    assert (told.id, told.model, told.version) == (f"{lab.slot}-{uid}", "digits", "1")
    assert (told.state, told.attempts, told.metadata) == ("queued", 0, {"a": 1})
    unknown = (told.started_at, told.finished_at, told.batch_id, told.worker, told.error)
    assert set(unknown) == {None}


def test_the_story_of_a_job_that_succeeded(lab: Lab) -> None:
    uid, _ = lab.submit(2)
    claimed = lab.claim()
    lab.settle(claimed)
    told = info(lab, uid)
    assert (told.state, told.batch_id, told.batch_size) == ("succeeded", claimed.batch, 2)
    assert (told.flush_reason, told.worker, told.compute_ms) == ("drain", "w1", 1.5)
    assert told.started_at == claimed.started_ms
    assert told.wait_ms == claimed.started_ms - told.created_at
    assert told.finished_at is not None
    assert told.finished_at >= told.started_at
    assert told.error is None


@pytest.mark.parametrize("own_batch_known", [True, False])
def test_the_story_of_a_job_that_failed(lab: Lab, own_batch_known: bool) -> None:
    (uid,) = lab.submit()
    claimed = lab.claim()
    lab.settle(claimed, failing=[uid])
    if not own_batch_known:
        lab.client.delete(lab.keys.batch + claimed.batch)
    told = info(lab, uid)
    assert (told.state, told.error) == ("failed", "ValueError: bad row")
    assert (told.batch_size is not None) == own_batch_known


def test_the_story_of_a_cancelled_job(lab: Lab) -> None:
    (uid,) = lab.submit()
    lab.cancel(uid)
    told = info(lab, uid)
    assert (told.state, told.started_at, told.batch_id) == ("cancelled", None, None)
    assert told.finished_at is not None


def test_the_story_of_a_job_lost_with_its_workers(lab: Lab) -> None:
    (uid,) = lab.submit()
    lab.lose(lab.claim(), max_attempts=1)
    told = info(lab, uid)
    assert (told.state, told.attempts) == ("failed", 1)
    assert told.error is not None
    assert told.error.startswith("WorkerLost: ")
