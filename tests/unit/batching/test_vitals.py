"""Batches whose lease ran out long ago are counted by lane; fresh ones are not."""

from __future__ import annotations

from typing import Any

from umbel_batching.lanes import Lane
from umbel_batching.vitals import overdue_batches


def test_only_batches_past_their_lease_and_the_grace_are_counted(lab: Any) -> None:
    lab.submit(3)
    assert overdue_batches(lab.client, "t", 0) == {}
    claimed = lab.claim()
    assert overdue_batches(lab.client, "t", 0) == {}

    lapsed = lab.client.zscore(lab.keys.leases, claimed.batch) - 100_000
    lab.client.zadd(lab.keys.leases, {claimed.batch: lapsed})
    assert overdue_batches(lab.client, "t", 5_000) == {lab.lane.name: 1}
    assert overdue_batches(lab.client, "t", 120_000) == {}

    lab.reap()
    assert overdue_batches(lab.client, "t", 0) == {}


def test_each_lane_is_counted_by_itself(lab: Any) -> None:
    quiet = Lane(model="digits", version="2", policy=lab.lane.policy)
    lab.submit(8)
    for batch in (lab.claim(), lab.claim()):
        lab.client.zadd(lab.keys.leases, {batch.batch: 1})
    lab.lane, lab.slot = quiet, quiet.slot
    lab.submit(1)
    assert overdue_batches(lab.client, "t", 0) == {"digits@1": 2}
    assert overdue_batches(lab.client, "other", 0) == {}
