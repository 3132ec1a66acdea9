"""Submits, claims, settlings, cancels, losses and repeats keep the promises in any order.

A Hypothesis state machine drives the scripts on a real Redis beside a plain Python model of one
lane. After each step every record, set and counter is compared with the model, so a job that is
lost, doubled, computed past its fence or counted wrongly is found with the shortest way there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from umbel_batching.calls import Calls
from umbel_batching.keys import lane_keys, shared_keys
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import _SPANS, HEAD, NO_REPLY, State, parse, settled, tail
from umbel_batching.scripts import Call, Runner
from umbel_batching.values import Claimed, NewJob, Reaped, Settlement
from umbel_config.errors import LaneFull

SIZE, MAX_QUEUE, MAX_BYTES, MAX_ATTEMPTS = 4, 14, 14 * (HEAD + 24), 3
LEASE_MS, TTL_S, PATIENCE_MS = 3_600_000, 1_000, 600_000
POLICY = BatchPolicy(
    max_batch_size=SIZE, max_wait_ms=0, max_queue=MAX_QUEUE, max_queue_bytes=MAX_BYTES
)
TOKENS = ["drain-a", "drain-b"]
COUNTERS = ("submitted", "succeeded", "failed", "expired", "cancelled", "batches", "leases_lost")


@dataclass
class Job:
    """What the model knows of one job."""

    uid: str
    created: int
    payload: bytes
    state: State = State.QUEUED
    attempts: int = 0
    cap: int = 0
    batch: str = ""
    late: bool = False


@dataclass
class Model:
    """One lane as section 6 of the design promises it, in plain Python."""

    jobs: dict[str, Job] = field(default_factory=dict)
    live: dict[str, list[str]] = field(default_factory=dict)
    lapsed: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)
    drains: set[str] = field(default_factory=set)

    def waiting(self) -> list[Job]:
        queued = [job for job in self.jobs.values() if job.state is State.QUEUED]
        return sorted(queued, key=lambda job: (job.created, job.uid))

    def waiting_bytes(self) -> int:
        return sum(HEAD + len(job.payload) for job in self.waiting())

    def has_room(self, payloads: list[bytes]) -> bool:
        more = sum(HEAD + len(payload) for payload in payloads)
        jobs, size = len(self.waiting()) + len(payloads), self.waiting_bytes() + more
        return jobs <= MAX_QUEUE and size <= MAX_BYTES

    def claim(self, batch: str, token: str) -> list[str]:
        taken: list[Job] = []
        self.sent.discard(token)
        for job in self.waiting()[:SIZE]:
            if job.late:
                job.state = State.EXPIRED
            elif taken and (job.cap != taken[0].cap or len(taken) >= (taken[0].cap or SIZE)):
                break
            else:
                taken.append(job)
        for job in taken:
            job.state, job.batch, job.attempts = State.RUNNING, batch, job.attempts + 1
        if taken:
            self.live[batch] = [job.uid for job in taken]
            self.drains.add(token)
        elif not self.waiting():
            self.drains.discard(token)
        return [job.uid for job in taken]

    def running(self, batch: str) -> list[str]:
        """The jobs that a live batch still holds."""
        return [u for u in self.live.get(batch, []) if self.jobs[u].state is State.RUNNING]

    def settle(self, batch: str, failing: set[str]) -> bool:
        if batch not in self.live:
            return batch in self.settled
        for uid in self.running(batch):
            self.jobs[uid].state = State.FAILED if uid in failing else State.SUCCEEDED
        del self.live[batch]
        self.lapsed.discard(batch)
        self.settled.add(batch)
        return True

    def reap(self, limit: int) -> Reaped:
        batches = sorted(self.lapsed)[:limit]
        again = failed = 0
        for batch in batches:
            companions = len(self.live[batch])
            for uid in self.running(batch):
                job = self.jobs[uid]
                if job.attempts >= MAX_ATTEMPTS:
                    job.state, failed = State.FAILED, failed + 1
                    continue
                last = job.attempts + 1 >= MAX_ATTEMPTS
                job.state, job.cap = State.QUEUED, 1 if last else -(-companions // 2)
                again += 1
            del self.live[batch]
            self.lapsed.discard(batch)
            self.lost.add(batch)
        return Reaped(len(batches), again, failed)

    def cancel(self, uid: str) -> tuple[bool, State]:
        found = self.jobs[uid].state
        if not found.terminal:
            self.jobs[uid].state = State.CANCELLED
        return not found.terminal, found

    def flush(self, slots: int, tokens: list[str]) -> int:
        depth = len(self.waiting())
        ready = max(1, depth // SIZE) if depth else 0
        pending = len(self.sent)
        wanted = max(0, min(ready - pending, slots - pending - len(self.drains), len(tokens)))
        self.sent.update(tokens[:wanted])
        return wanted

    def count(self, state: State) -> int:
        return sum(job.state is state for job in self.jobs.values())


class LaneMachine(RuleBasedStateMachine):
    """Does the same to the scripts and to the model."""

    submits = Bundle("submits")
    claims = Bundle("claims")

    def __init__(self, client: redis.Redis, namespace: str) -> None:
        super().__init__()
        self.client: Any = client
        self.runner, self.calls = Runner(client), Calls(namespace)
        self.lane = Lane(model="m", version=new_uid(), policy=POLICY)
        self.slot = self.lane.slot
        self.keys, self.shared = lane_keys(namespace, self.slot), shared_keys(namespace)
        self.model = Model()
        self.ended: dict[str, bytes] = {}

    @rule(target=submits, count=st.integers(1, 6), size=st.integers(0, 60))
    def submit(self, count: int, size: int) -> Any:
        payloads = [b"x" * size] * count
        jobs = [NewJob(new_uid(), tail(NO_REPLY, b"") + payload) for payload in payloads]
        call = self.calls.submit(self.lane, jobs)
        if not self.model.has_room(payloads):
            with pytest.raises(LaneFull):
                self.runner.run(call)
            assert not self.client.exists(*[self.keys.job + job.uid for job in jobs])
            return multiple()
        depth = self.runner.run(call)
        created = parse(self.client.get(self.keys.job + jobs[0].uid)).created_ms
        for job, payload in zip(jobs, payloads, strict=True):
            self.model.jobs[job.uid] = Job(job.uid, created, payload)
        assert depth == len(self.model.waiting())
        return call

    @rule(call=submits)
    def submit_again(self, call: Call[int]) -> None:
        assert self.runner.run(call) == len(self.model.waiting())

    @rule(target=claims, token=st.sampled_from(TOKENS))
    def claim(self, token: str) -> Any:
        batch = new_uid()
        expected = self.model.claim(batch, token)
        claimed = self._claim(batch, token)
        assert claimed.uids == expected
        assert claimed.left == len(self.model.waiting())
        return (claimed, token) if claimed.uids else multiple()

    @rule(claim=claims)
    def claim_again(self, claim: tuple[Claimed, str]) -> None:
        claimed, token = claim
        again = self._claim(claimed.batch, token)
        assert again.uids == self.model.running(claimed.batch)
        assert again.left == len(self.model.waiting())
        assert all(parse(raw).batch == claimed.batch for raw in again.records)

    def _claim(self, batch: str, token: str) -> Claimed:
        call = self.calls.claim(self.slot, batch=batch, token=token, worker="w", lease_ms=LEASE_MS)
        return self.runner.run(call)

    @rule(claim=claims)
    def renew(self, claim: tuple[Claimed, str]) -> None:
        batch, token = claim[0].batch, claim[1]
        held = batch in self.model.live
        if held:
            self.model.lapsed.discard(batch)
            self.model.drains.add(token)
        call = self.calls.renew(self.slot, batch=batch, token=token, lease_ms=LEASE_MS)
        assert self.runner.run(call) == held

    @rule(claim=claims, failing=st.sets(st.integers(0, SIZE - 1)))
    def settle(self, claim: tuple[Claimed, str], failing: set[int]) -> None:
        claimed, _ = claim
        states = [
            State.FAILED if place in failing else State.SUCCEEDED
            for place in range(len(claimed.uids))
        ]
        records = [
            settled(raw, state, claimed.batch.encode())
            for raw, state in zip(claimed.records, states, strict=True)
        ]
        outcome = Settlement(claimed.uids, records, states.count(State.SUCCEEDED), {}, 1)
        bad = {
            uid for uid, state in zip(claimed.uids, states, strict=True) if state is State.FAILED
        }
        expected = self.model.settle(claimed.batch, bad)
        call = self.calls.settle(self.slot, claimed.batch, outcome)
        assert self.runner.run(call) == expected

    @rule(data=st.data())
    @precondition(lambda self: self.model.jobs)
    def cancel(self, data: st.DataObject) -> None:
        uid = data.draw(st.sampled_from(sorted(self.model.jobs)))
        expected = self.model.cancel(uid)
        assert self.runner.run(self.calls.cancel(self.slot, uid)) == expected

    @rule(claim=claims)
    def lease_runs_out(self, claim: tuple[Claimed, str]) -> None:
        batch = claim[0].batch
        if batch in self.model.live:
            self.model.lapsed.add(batch)
        self.client.zadd(self.keys.leases, {batch: 1}, xx=True)

    @rule(limit=st.integers(1, 3))
    def reap(self, limit: int) -> None:
        expected = self.model.reap(limit)
        call = self.calls.reap(self.slot, limit=limit, max_attempts=MAX_ATTEMPTS)
        assert self.runner.run(call) == expected

    @rule(data=st.data())
    @precondition(lambda self: self.model.waiting() or self.model.live)
    def deadline_passes(self, data: st.DataObject) -> None:
        alive = sorted(uid for uid, job in self.model.jobs.items() if not job.state.terminal)
        if not alive:
            return
        uid = data.draw(st.sampled_from(alive))
        self.model.jobs[uid].late = True
        self.client.setrange(self.keys.job + uid, _SPANS["deadline"][0], b"0" * 12 + b"1")

    @rule(token=st.sampled_from(TOKENS))
    def release(self, token: str) -> None:
        self.model.sent.discard(token)
        self.model.drains.discard(token)
        left = self.runner.run(self.calls.release(self.slot, token))
        assert left == len(self.model.waiting())

    @rule(slots=st.integers(1, 3), repeat=st.booleans(), fresh=st.booleans())
    @precondition(lambda self: self.model.jobs)
    def flush(self, slots: int, repeat: bool, fresh: bool) -> None:
        tokens = [new_uid() for _ in range(3)] if fresh else TOKENS
        self.model.sent.difference_update(tokens)
        expected = self.model.flush(slots, tokens)
        call = self.calls.flush(self.slot, slots=slots, patience_ms=PATIENCE_MS, tokens=tokens)
        for _ in range(1 + repeat):
            flush = self.runner.run(call)
            assert (flush.sent, flush.expired) == (expected, len(self.model.lapsed))

    @rule(now=st.booleans())
    def rearm(self, now: bool) -> None:
        work = bool(self.model.waiting() or self.model.live)
        if now and work:
            self.model.sent.clear()
        assert self.runner.run(self.calls.rearm(self.slot, now=now)) == work

    @invariant()
    def every_set_is_as_the_model_says(self) -> None:
        pipe = self.client.pipeline(transaction=False)
        for key in (self.keys.waiting, self.keys.leases, self.keys.sent, self.keys.drains):
            pipe.zrange(key, 0, -1)
        waiting, leases, sent, drains = ([m.decode() for m in found] for found in pipe.execute())
        assert waiting == [job.uid for job in self.model.waiting()]
        assert set(leases) == set(self.model.live)
        assert set(sent) == self.model.sent
        assert set(drains) == self.model.drains

    @invariant()
    def every_job_is_in_one_place_and_ends_once(self) -> None:
        pipe = self.client.pipeline(transaction=False)
        for uid in self.model.jobs:
            pipe.get(self.keys.job + uid)
            pipe.ttl(self.keys.job + uid)
        replies = pipe.execute()
        pairs = zip(replies[::2], replies[1::2], strict=True)
        for job, (raw, ttl) in zip(self.model.jobs.values(), pairs, strict=True):
            self._check(job, raw, ttl)
        held = [uid for batch in self.model.live for uid in self.model.running(batch)]
        assert len(held) == len(set(held)) == self.model.count(State.RUNNING)

    def _check(self, job: Job, raw: bytes, ttl: int) -> None:
        record = parse(raw)
        assert (record.state, record.attempts, record.cap, record.batch) == (
            job.state,
            job.attempts,
            job.cap,
            job.batch,
        )
        assert record.created_ms == job.created
        if job.state.terminal:
            assert 0 < ttl <= TTL_S
            assert self.ended.setdefault(job.uid, raw) == raw
        else:
            assert ttl == -1
            assert bytes(record.body) == job.payload

    @invariant()
    def every_counter_agrees(self) -> None:
        fields = self.client.hgetall(self.keys.lane)
        counted = {name: int(fields.get(name.encode(), 0)) for name in (*COUNTERS, "bytes")}
        model = self.model
        ends = {state.value: model.count(state) for state in State if state.terminal}
        assert counted == {
            "submitted": len(model.jobs),
            "batches": len(model.settled),
            "leases_lost": len(model.lost),
            "bytes": model.waiting_bytes(),
            **ends,
        }

    @invariant()
    def a_lane_with_work_is_due(self) -> None:
        due = self.client.zscore(self.shared.wake, self.slot)
        if self.model.waiting() or self.model.live:
            assert due is not None
        if self.model.waiting() and not self.model.sent and not self.model.drains:
            seconds, micros = self.client.time()
            assert due <= seconds * 1_000 + micros // 1_000 + PATIENCE_MS

    @invariant()
    def batches_are_kept_for_their_time(self) -> None:
        for batch in self.model.live:
            assert self.client.ttl(self.keys.batch + batch) == -1
        for batch in self.model.settled | self.model.lost:
            assert 0 < self.client.ttl(self.keys.batch + batch) <= TTL_S


def test_the_scripts_keep_their_promises_in_any_order(
    store_redis: redis.Redis, namespace: str
) -> None:
    class Machine(LaneMachine):
        def __init__(self) -> None:
            super().__init__(store_redis, namespace)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=120,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
