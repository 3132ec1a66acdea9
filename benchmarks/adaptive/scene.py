"""One worker and the lane of one model, with loads that go straight to the scripts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from faults.stage import Stage
from faults.waiting import until

from adaptive.contestants import Contestant
from umbel_batching import wire
from umbel_batching.calls import Calls
from umbel_batching.census import LaneStatus, lane_status
from umbel_batching.keys import lane_keys
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.record import NO_REPLY, parse, tail
from umbel_batching.scripts import Runner
from umbel_batching.tuning import Tuned
from umbel_batching.values import NewJob
from umbel_registry import ArtifactStore, Catalog, TrafficControl, push
from umbel_registry.policy_keeper import PolicyKeeper

#: Seconds between two submits of a load, jobs of one submit at most, jobs that are looked at.
_TICK_S, _MOST_AT_ONCE, _LOOKED_AT = 0.002, 500, 3000
#: Seconds that a worker may take to hear that a lane is adaptive; of a static one scripts know.
_HEARD_S = 2.0


@dataclass(frozen=True, slots=True)
class Step:
    """What came of one rate.

    Attributes:
        per_s: jobs per second that were submitted.
        p95_ms: from arrival to outcome, 95 of 100 jobs.
        late: whether the load could not be submitted as fast.
    """

    per_s: float
    p95_ms: float
    late: bool


class Scene:
    """A model on a stage with one worker.

    Args:
        stage: with a worker.
        contestant: the model; it is pushed.
    """

    def __init__(self, stage: Stage, contestant: Contestant) -> None:
        self._stage, self.name = stage, contestant.name
        self._client, settings = stage.redis, stage.settings
        catalog = Catalog(self._client, settings.namespace)
        folder = contestant.write(stage.folder / contestant.name)
        manifest = push(folder, catalog=catalog, store=ArtifactStore(settings.artifacts))
        self._runner, self._calls = Runner(self._client), Calls.of(settings)
        self.lane = Lane(model=self.name, version=manifest.version, policy=manifest.policy)
        self._keys = lane_keys(settings.namespace, self.lane.slot)
        self._control = TrafficControl(self._client, settings.namespace, who="benchmark")
        self._keeper = PolicyKeeper(self._client, settings.namespace)
        self._tail = tail(NO_REPLY, b"") + wire.encode(contestant.row())
        self._random = np.random.default_rng(0)

    def govern(self, values: Mapping[str, Any]) -> None:
        """Puts a policy in force."""
        self._control.set_policy(self.name, self.lane.version, values)
        self._keeper.apply(self.name)
        time.sleep(_HEARD_S if values["mode"] == "adaptive" else 0.0)

    def submit(self, count: int) -> list[str]:
        """Submits jobs at once."""
        jobs = [NewJob(new_uid(), self._tail) for _ in range(count)]
        self._runner.run(self._calls.submit(self.lane, jobs))
        return [job.uid for job in jobs]

    def status(self) -> LaneStatus:
        """How the lane fares."""
        found = lane_status(self._client, self._stage.settings.namespace, self.lane.name)
        if found is None:
            raise LookupError(f"{self.lane.name} has no job yet")
        return found

    def tuned(self) -> Tuned | None:
        """What the worker chose."""
        found = self.status().tuned
        return found[0] if found else None

    def saturate(self, seconds: float, reserve: int = 3072) -> float:
        """Jobs per second with a lane that never runs empty."""
        self.submit(reserve)
        begin, done = time.monotonic(), self._succeeded()
        while time.monotonic() < begin + seconds:
            depth = int(self._client.zcard(self._keys.waiting))
            if depth < reserve:
                self.submit(min(reserve, _MOST_AT_ONCE))
            else:
                time.sleep(_TICK_S)
        rate = (self._succeeded() - done) / (time.monotonic() - begin)
        self.drain()
        return rate

    def load(self, per_s: float, seconds: float) -> Step:
        """Submits at random moments, ``per_s`` jobs in each second on average."""
        begin, sent, uids = time.monotonic(), 0, list[str]()
        while (now := time.monotonic()) < begin + seconds:
            due = int(self._random.poisson(max(0.0, (now - begin) * per_s - sent)))
            if due:
                uids += self.submit(min(due, _MOST_AT_ONCE))
                sent += min(due, _MOST_AT_ONCE)
            time.sleep(max(0.0, now + _TICK_S - time.monotonic()))
        took = time.monotonic() - begin
        self.drain()
        late = sent < 0.97 * per_s * took
        return Step(sent / took, self._p95(uids), late)

    def drain(self) -> None:
        """Waits until no job is left."""
        keys = (self._keys.waiting, self._keys.leases)
        until(lambda: not self._client.exists(*keys), f"{self.name} is drained", 60)

    def _succeeded(self) -> int:
        return int(self._client.hget(self._keys.lane, "succeeded") or 0)

    def _p95(self, uids: list[str]) -> float:
        """Of jobs drawn from all of them; their batch knows when they ended."""
        drawn = uids[:: max(1, len(uids) // _LOOKED_AT)]
        heads = self._runner.run(self._calls.heads(self.lane.slot, drawn))
        records = [parse(head) for head in heads if head]
        batches = list({record.batch for record in records})
        pipe = self._client.pipeline(transaction=False)
        for batch in batches:
            pipe.hget(self._keys.batch + batch, "settled")
        settled = dict(zip(batches, pipe.execute(), strict=True))
        times = [int(settled[record.batch]) - record.created_ms for record in records]
        return float(np.quantile(times, 0.95))
