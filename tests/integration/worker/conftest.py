"""A lane with jobs, and drains of it that a test steers by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from umbel_batching.calls import Calls
from umbel_batching.keys import lane_keys, shared_keys
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import NO_REPLY, Record, parse, tail
from umbel_batching.scripts import Runner
from umbel_batching.values import Claimed, NewJob, Settlement


class Lab:
    """One lane on a real Redis.

    Args:
        client: of that Redis.
        namespace: of the test.
    """

    def __init__(self, client: redis.Redis, namespace: str) -> None:
        policy = BatchPolicy(max_batch_size=16, max_wait_ms=0)
        self.lane = Lane(model="affine", version="1", policy=policy)
        self.client, self.runner, self.calls = client, Runner(client), Calls(namespace)
        self.keys = lane_keys(namespace, self.lane.slot)
        self.wake = shared_keys(namespace).wake

    def submit(self, count: int) -> list[str]:
        jobs = [NewJob(new_uid(), tail(NO_REPLY, b"") + b"payload") for _ in range(count)]
        self.runner.run(self.calls.submit(self.lane, jobs))
        return [job.uid for job in jobs]

    def claim(self, token: str, worker: str = "host:1") -> Claimed:
        call = self.calls.claim(
            self.lane.slot, batch=new_uid(), token=token, worker=worker, lease_ms=60_000
        )
        return self.runner.run(call)

    def settle(self, claimed: Claimed) -> bool:
        """What a late drain tries: writes the outcome of a batch."""
        outcome = Settlement(claimed.uids, claimed.records, 0, {}, 1)
        return self.runner.run(self.calls.settle(self.lane.slot, claimed.batch, outcome))

    def record(self, uid: str) -> Record:
        raw: Any = self.client.get(self.keys.job + uid)
        return parse(raw)

    def reap(self) -> int:
        call = self.calls.reap(self.lane.slot, limit=10, max_attempts=3)
        return self.runner.run(call).batches


@pytest.fixture
def lab(store_redis: redis.Redis, namespace: str) -> Lab:
    return Lab(store_redis, namespace)


@pytest.fixture
def aged(lab: Lab) -> Callable[[], None]:
    """Makes the remembered ceiling old, so that the next batch tries a larger size."""
    return lambda: lab.client.hset(lab.keys.lane, "ceiling_at:cpu", "0" * 13)  # type: ignore[return-value]
