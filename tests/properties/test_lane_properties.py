"""Whatever is done to a lane in whatever order, and however often it is repeated, promises hold.

A Hypothesis state machine drives the scripts on a real Redis beside a plain Python model of one
lane. After each step every record, set and counter is compared with the model, so a job that is
lost, doubled, computed past its fence or counted wrongly is found with the shortest way there. Each
verb may be sent twice, as after a reply that was lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from umbel_batching.calls import Calls
from umbel_batching.census import BANDS
from umbel_batching.keys import lane_keys, shared_keys
from umbel_batching.lanes import Lane, keyed_uid, new_uid
from umbel_batching.length import NO_LENGTH, code_of
from umbel_batching.record import _SPANS, NO_REPLY, Priority, State, parse, settled, tail
from umbel_batching.retention import Retention
from umbel_batching.scripts import Call, Runner
from umbel_batching.values import Accepted, Claimed, Known, NewJob, Settlement
from umbel_config.errors import LaneFull

if TYPE_CHECKING:
    from tests.properties import conftest as plain

LEASE_MS, PATIENCE_MS, FAR_MS, EPOCH_MS = 3_600_000, 600_000, 10**9, 1_600_000_000_000
KEEP = Retention(result_ttl_s=1_000, tombstone_ttl_s=1_000, dead_ttl_s=5_000)
TOKENS = ["drain-a", "drain-b"]
#: Lengths of inputs, where a policy bounds what they cost together, and their codes.
CODES = {length: code_of(length) if length else NO_LENGTH for length in (0, 2, 3, 7, 20, 40)}
SIZED = {"max_batch_cost": 30, "look_ahead": 2}
PAYLOADS = [b"a", b"bb", b"c" * 160]
twice = st.booleans().map(lambda again: range(1 + again))
priorities, tokens = st.sampled_from(list(Priority)), st.sampled_from(TOKENS)


class LaneMachine(RuleBasedStateMachine):
    """Does the same to the scripts and to the model."""

    submits = Bundle("submits")
    claims = Bundle("claims")

    def __init__(self, client: redis.Redis, namespace: str, model: plain.Model) -> None:
        super().__init__()
        self.client: Any = client
        self.runner, self.calls = Runner(client), Calls(namespace, KEEP)
        self.lane = Lane(model="m", version=new_uid(), policy=model.policy)
        self.slot = self.lane.slot
        self.keys, self.shared = lane_keys(namespace, self.slot), shared_keys(namespace)
        self.model, self.sized = model, model.policy.max_batch_cost > 0
        self.seen: list[str] = []
        self.tick = 0
        self.run(self.calls.announce("umbel", "w", slots=100, stale_ms=FAR_MS))
        self.ended: dict[str, bytes] = {}

    def run(self, call: Call[Any]) -> Any:
        return self.runner.run(call)

    def one_of(self, data: st.DataObject, uids: Collection[str]) -> str:
        """One of ``uids``; by age, as the ids themselves differ from run to run."""
        return data.draw(st.sampled_from([uid for uid in self.seen if uid in uids]))

    # What producers do.

    @rule(
        target=submits,
        lengths=st.lists(st.sampled_from([*CODES][1:]), min_size=1, max_size=5),
        payload=st.sampled_from(PAYLOADS),
        priority=priorities,
        timed=st.booleans(),
        again=twice,
    )
    def submit(
        self, lengths: list[int], payload: bytes, priority: Priority, timed: bool, again: range
    ) -> Any:
        lengths = [length * self.sized for length in lengths]
        tails = [tail(NO_REPLY, b"", priority, length=CODES[length]) for length in lengths]
        new = [NewJob(new_uid(), text + payload, FAR_MS * timed) for text in tails]
        call = self.calls.submit(self.lane, new)
        if not self.model.has_room([payload] * len(new), self.waiting_bytes()):
            return self._refused(call, [job.uid for job in new])
        replies = [self.run(call) for _ in again]
        for job, length in zip(new, lengths, strict=True):
            self._accept(job.uid, payload, priority=priority, timed=timed, length=length)
        assert {(reply.depth, bool(reply.known)) for reply in replies} == {(self.depth, False)}
        return call, [job.uid for job in new]

    def _refused(self, call: Call[Any], uids: list[str]) -> Any:
        with pytest.raises(LaneFull):
            self.run(call)
        keys = [key + uid for uid in uids for key in (self.keys.job, self.shared.once)]
        known = [self.shared.once + uid for uid in self.model.once]
        known += [self.keys.job + uid for uid in self.model.jobs]
        assert not self.client.exists(*[key for key in keys if key not in known], "none")
        return multiple()

    def _accept(self, uid: str, payload: bytes, **about: Any) -> None:
        arrival = self._arrive(uid, about.get("priority", Priority.NORMAL))
        self.model.accept(uid, payload, created=arrival, **about)
        if uid not in self.seen:
            self.seen.append(uid)

    def _arrive(self, uid: str, priority: Priority) -> int:
        """Gives a job an arrival of its own, lest the order depend on the pace of the test."""
        self.tick += 1
        arrival, score = EPOCH_MS + self.tick, self.client.zscore(self.keys.waiting, uid)
        self.client.setrange(self.keys.job + uid, _SPANS["created"][0], str(arrival).encode())
        if score is not None:
            band = BANDS[list(Priority).index(priority)]
            assert abs(score - band - self.now_ms()) < 60_000
            self.client.zadd(self.keys.waiting, {uid: band + arrival + score % 1})
        return arrival

    @property
    def depth(self) -> int:
        return len(self.model.waiting())

    @rule(submitted=submits)
    def submit_again(self, submitted: tuple[Call[Accepted], list[str]]) -> None:
        call, uids = submitted
        if uids[0] in self.model.jobs:
            assert self.run(call) == Accepted(self.depth)

    @rule(
        keys=st.lists(st.sampled_from("abc"), min_size=1, max_size=3),
        payload=st.sampled_from(PAYLOADS),
        again=twice,
    )
    def submit_keyed(self, keys: list[str], payload: bytes, again: range) -> None:
        mark = hashlib.blake2b(payload, digest_size=16).hexdigest()
        length, uids = 7 * self.sized, [keyed_uid(self.lane.name, key) for key in keys]
        text = tail(NO_REPLY, b"", length=CODES[length]) + payload
        call = self.calls.submit(self.lane, [NewJob(uid, text, 0, mark) for uid in uids])
        for _ in again:
            places, fresh = self.model.look_up(uids, payload)
            known = {at: Known(self.slot, uids[at], same) for at, same in places.items()}
            if fresh and not self.model.has_room([payload] * len(fresh), self.waiting_bytes()):
                self._refused(call, fresh)
                continue
            accepted = self.run(call)
            for uid in fresh:
                self.model.once[uid] = payload
                self._accept(uid, payload, length=length)
            assert accepted == Accepted(self.depth, known)
            assert accepted.conflicts == (False in places.values())

    @rule(data=st.data(), again=twice)
    @precondition(lambda self: self.seen)
    def cancel(self, data: st.DataObject, again: range) -> None:
        uid = self.one_of(data, {job.uid for job in self.model.alive()} or self.seen)
        for _ in again:
            assert self.run(self.calls.cancel(self.slot, uid)) == self.model.cancel(uid)

    @rule(data=st.data(), again=twice)
    @precondition(lambda self: self.seen)
    def forget(self, data: st.DataObject, again: range) -> None:
        uid = self.one_of(data, self.seen)
        for _ in again:
            assert self.run(self.calls.forget(self.slot, uid)) == self.model.forget(uid)
        self.ended.pop(uid, None)
        assert not self.client.exists(self.keys.job + uid, self.shared.once + uid)

    # What workers do.

    @rule(target=claims, token=tokens)
    def claim(self, token: str) -> Any:
        batch = new_uid()
        expected = self.model.claim(batch, token)
        claimed = self._claim(batch, token)
        assert (claimed.uids, claimed.left) == (expected, self.depth)
        lengths = [self.model.jobs[uid].length for uid in claimed.uids]
        assert not self.sized or len(lengths) * max(lengths, default=0) <= max(30, *lengths, 0)
        return (claimed, token) if claimed.uids else multiple()

    @rule(target=claims, token=tokens, again=twice)
    def claim_ahead(self, token: str, again: range) -> Any:
        batch = new_uid()
        expected = self.model.claim_ahead(batch, token)
        for _ in again if expected else range(1):
            claimed = self._claim(batch, token, ahead=True)
            assert (claimed.uids, claimed.stays) == (expected, False)
        return (claimed, token) if expected else multiple()

    @rule(target=claims, token=tokens)
    def claim_and_stay(self, token: str) -> Any:
        batch = new_uid()
        expected = self.model.claim_and_stay(batch, token)
        claimed = self._claim(batch, token, stay_ms=FAR_MS)
        assert (claimed.uids, claimed.left) == (expected, self.depth)
        known = bool(self.model.counts["submitted"])
        assert claimed.stays == (known and not expected and not claimed.left)
        assert bool(self.ask("ZSCORE", [self.keys.idle], token)[0]) >= claimed.stays
        return (claimed, token) if claimed.uids else multiple()

    @rule(target=claims, token=tokens, cancelled=st.booleans())
    def claim_whose_reply_is_lost(self, token: str, cancelled: bool) -> Any:
        batch = new_uid()
        expected = self.model.claim(batch, token)
        assert self._claim(batch, token).uids == expected
        if expected and cancelled:
            self.run(self.calls.cancel(self.slot, expected[0]))
            self.model.cancel(expected[0])
        expected, again = self.model.claim(batch, token), self._claim(batch, token)
        assert again.uids == expected
        return (again, token) if expected else multiple()

    @rule(target=claims, claim=consumes(claims))
    def claim_again(self, claim: tuple[Claimed, str]) -> Any:
        old, token = claim
        again = self._claim(old.batch, token)
        assert (again.uids, again.left) == (self.model.computed(old.batch), self.depth)
        assert {parse(raw).batch for raw in again.records} <= {old.batch}
        return (again, token)

    def _claim(self, batch: str, token: str, **how: Any) -> Claimed:
        call = self.calls.claim(
            self.slot, batch=batch, token=token, worker="w", lease_ms=LEASE_MS, **how
        )
        claimed = self.run(call)
        assert isinstance(claimed, Claimed)
        for uid, raw in zip(claimed.uids, claimed.records, strict=True):
            assert raw == self.client.get(self.keys.job + uid)
        return claimed

    @rule(claim=claims, again=twice)
    def renew(self, claim: tuple[Claimed, str], again: range) -> None:
        batch, token = claim[0].batch, claim[1]
        if batch in self.model.live:
            self.model.lapsed.discard(batch)
            self.model.drains.add(token)
        call = self.calls.renew(self.slot, batch=batch, token=token, lease_ms=LEASE_MS)
        for _ in again:
            assert self.run(call) == (batch in self.model.live)

    @rule(target=claims, claim=claims, failing=st.sets(st.integers(0, 3)))
    def settle_and_claim(self, claim: tuple[Claimed, str], failing: set[int]) -> Any:
        self._settle(claim[0], failing, range(1))
        return self.claim(claim[1])

    @rule(claim=consumes(claims), failing=st.sets(st.integers(0, 3)), again=twice)
    def settle(self, claim: tuple[Claimed, str], failing: set[int], again: range) -> None:
        self._settle(claim[0], failing, again)

    @rule(claim=consumes(claims), begins=claims, again=twice)
    def settle_and_begin(
        self, claim: tuple[Claimed, str], begins: tuple[Claimed, str], again: range
    ) -> None:
        self.model.begin(begins[0].batch)
        self._settle(claim[0], set(), again, begins[0].batch)

    def _settle(self, claimed: Claimed, failing: set[int], again: range, begins: str = "") -> None:
        bodies = [
            None if place in failing else f"{claimed.batch}{uid}".encode()
            for place, uid in enumerate(claimed.uids)
        ]
        records = [
            settled(raw, State.FAILED if body is None else State.SUCCEEDED, body or b"")
            for raw, body in zip(claimed.records, bodies, strict=True)
        ]
        succeeded = len(bodies) - bodies.count(None)
        call = self.calls.settle(
            self.slot, claimed.batch, Settlement(claimed.uids, records, succeeded, {}, 1), begins
        )
        for _ in again:
            outcomes = dict(zip(claimed.uids, bodies, strict=True))
            assert self.run(call) == self.model.settle(claimed.batch, outcomes)

    @rule(token=tokens, again=twice)
    def hand_back(self, token: str, again: range) -> None:
        for _ in again:
            handed = self.run(self.calls.hand_back(self.slot, token))
            assert handed == self.model.hand_back(token)

    @rule(token=tokens, again=twice)
    def release(self, token: str, again: range) -> None:
        self.model.sent.discard(token)
        self.model.drains.discard(token)
        for _ in again:
            assert self.run(self.calls.release(self.slot, token)) == self.depth

    # What befalls them, and what flushers and operators do about it.

    @rule(claim=claims)
    def lease_runs_out(self, claim: tuple[Claimed, str]) -> None:
        batch = claim[0].batch
        if batch in self.model.live:
            self.model.lapsed.add(batch)
        self.client.zadd(self.keys.leases, {batch: 1}, xx=True)

    @rule(token=tokens, again=twice)
    def worker_dies(self, token: str, again: range) -> None:
        call = self.calls.orphan(self.slot, owner=token, cause="killed|by\nSIGKILL")
        for _ in again:
            assert self.run(call) == self.model.orphan(token)
        orphans = [batch for batch, held in self.model.live.items() if held.token == token]
        assert all(self.client.zscore(self.keys.leases, each) < self.now_ms() for each in orphans)
        for batch in orphans:
            self.client.zadd(self.keys.leases, {batch: 1})

    @rule(limit=st.integers(1, 3), again=twice)
    def reap(self, limit: int, again: range) -> None:
        call = self.calls.reap(self.slot, limit=limit, max_attempts=3)
        for _ in again:
            leases = [batch.decode() for batch in self.client.zrange(self.keys.leases, 0, -1)]
            due = [batch for batch in leases if batch in self.model.lapsed][:limit]
            assert self.run(call) == self.model.reap(due)

    def now_ms(self) -> int:
        seconds, micros = self.client.time()
        return int(seconds) * 1_000 + int(micros) // 1_000

    @rule(data=st.data())
    @precondition(lambda self: self.model.alive())
    def deadline_passes(self, data: st.DataObject) -> None:
        uid = self.one_of(data, {job.uid for job in self.model.alive()})
        job = self.model.jobs[uid]
        job.timed = job.late = True
        self.client.setrange(self.keys.job + uid, _SPANS["deadline"][0], b"0" * 12 + b"1")
        if job.state is State.QUEUED:
            self.client.zadd(self.keys.deadlines, {uid: 1})

    @rule(limit=st.integers(1, 9), again=twice)
    def expire(self, limit: int, again: range) -> None:
        for _ in again:
            assert self.run(self.calls.expire(self.slot, limit)) == self.model.expire(limit)

    @rule(data=st.data(), again=twice)
    @precondition(lambda self: self.seen)
    def replay(self, data: st.DataObject, again: range) -> None:
        uid = self.one_of(data, self.model.dead or self.seen)
        for _ in again:
            batch = self.model.jobs[uid].batch if uid in self.model.jobs else ""
            size = self.client.hstrlen(self.keys.recording + batch, uid)
            used, policy = self.waiting_bytes(), self.model.policy
            room = self.depth < policy.max_queue and used + size <= policy.max_queue_bytes
            expected = self.model.replay(uid, has_room=room)
            assert self.run(self.calls.replay(self.slot, uid)) == expected
            if expected.done:
                self.ended.pop(uid, None)

    @rule(data=st.data(), again=twice)
    @precondition(lambda self: self.model.dead)
    def drop(self, data: st.DataObject, again: range) -> None:
        uid = self.one_of(data, self.model.dead)
        for _ in again:
            assert self.run(self.calls.drop(self.slot, uid)) == self.model.drop(uid)

    @rule(slots=st.integers(1, 3), fresh=st.booleans(), again=twice)
    @precondition(lambda self: self.seen)
    def flush(self, slots: int, fresh: bool, again: range) -> None:
        names = [new_uid() for _ in range(3)] if fresh else TOKENS
        call = self.calls.flush(self.slot, slots=slots, patience_ms=PATIENCE_MS, tokens=names)
        late = sum(job.late for job in self.model.waiting())
        for _ in again:
            flush = self.run(call)
            expected = (self.model.flush(slots, names), len(self.model.lapsed), late)
            assert (flush.sent, flush.expired, flush.overdue) == expected

    @rule(now=st.booleans())
    def rearm(self, now: bool) -> None:
        work = bool(self.model.waiting() or self.model.live)
        if now and work:
            self.model.sent.clear()
        assert self.run(self.calls.rearm(self.slot, now=now)) == work

    # What must hold at any time.

    def members(self, key: str) -> list[str]:
        return [member.decode() for member in self.client.zrange(key, 0, -1)]

    def ask(self, command: str, names: Collection[str], *rest: Any) -> list[Any]:
        """The replies to one command for each of ``names``, in one round trip."""
        pipe = self.client.pipeline(transaction=False)
        for name in names:
            pipe.execute_command(command, name, *rest)
        return pipe.execute() if names else []

    def waiting_bytes(self) -> int:
        keys = [self.keys.job + job.uid for job in self.model.waiting()]
        return sum(self.ask("STRLEN", keys))

    @invariant()
    def every_set_is_as_the_model_says(self) -> None:
        model, keys = self.model, self.keys
        names = (keys.waiting, keys.leases, keys.sent, keys.drains, keys.dead, keys.deadlines)
        found = self.ask("ZRANGE", names, 0, -1)
        waiting, *others = ([member.decode() for member in members] for members in found)
        assert waiting == [job.uid for job in model.waiting()]
        timed = {job.uid for job in model.waiting() if job.timed}
        expected = [set(model.live), model.sent, model.drains, model.dead, timed]
        assert [set(members) for members in others] == expected

    @invariant()
    def every_job_is_in_one_place_and_ends_once(self) -> None:
        keys = [self.keys.job + uid for uid in self.model.jobs]
        rows = zip(self.ask("GET", keys), self.ask("TTL", keys), strict=True)
        for job, (raw, ttl) in zip(self.model.jobs.values(), rows, strict=True):
            self._check(job, raw, ttl)
        held = [uid for batch in self.model.live for uid in self.model.running(batch)]
        states = [job.state for job in self.model.jobs.values()]
        assert len(held) == len(set(held)) == states.count(State.RUNNING)

    def _check(self, job: plain.Job, raw: bytes, ttl: int) -> None:
        record = parse(raw)
        found = (record.state, record.attempts, record.cap, record.batch, record.priority)
        assert found == (job.state, job.attempts, job.cap, job.batch, job.priority)
        assert record.created_ms == job.created
        assert [event.what for event in record.history] == job.history
        if not job.state.terminal:
            assert (ttl, bytes(record.body)) == (-1, job.payload)
            assert bool(record.deadline_ms) == job.timed
            return
        long = job.uid in self.model.dead
        assert KEEP.result_ttl_s * long < ttl <= (KEEP.dead_ttl_s if long else KEEP.result_ttl_s)
        assert self.ended.setdefault(job.uid, raw) == raw
        if job.state is State.SUCCEEDED:
            assert bytes(record.body) == job.body

    def teardown(self) -> None:
        """Drains the lane: nothing may be left then that stays for ever."""
        for token in TOKENS:
            self.run(self.calls.hand_back(self.slot, token))
        claimed = self._claim(new_uid(), TOKENS[0])
        while claimed.uids or claimed.left:
            records = [settled(raw, State.SUCCEEDED, b"") for raw in claimed.records]
            outcome = Settlement(claimed.uids, records, len(records), {}, 1)
            call = self.calls.settle(self.slot, claimed.batch, outcome)
            assert self.run(call) == bool(claimed.uids)
            claimed = self._claim(new_uid(), TOKENS[0])
        states = self.run(self.calls.states(self.slot, sorted(self.model.jobs)))
        assert all(state is not None and state.terminal for state in states)
        found = list(self.client.scan_iter(match=f"*{{{self.slot}}}*", count=5_000))
        found += [self.shared.once + uid for uid in self.model.once]
        permanent = {self.keys.lane, self.keys.sent}
        names = {key.decode() if isinstance(key, bytes) else key for key in found}
        ttls = dict(zip(names, self.ask("TTL", names), strict=True))
        assert {name for name, ttl in ttls.items() if ttl == -1} <= permanent
        self.client.delete(*names, "none")


@pytest.mark.parametrize(
    ("sharing", "examples"),
    [({}, 60), ({"single_flight": True}, 50), ({"cache_ttl_s": 3_600}, 30), (SIZED, 50)],
    ids=["alone", "single flight", "cache", "lengths"],
)
def test_the_scripts_keep_their_promises_in_any_order(
    store_redis: redis.Redis,
    namespace: str,
    make_model: type[plain.Model],
    lane_checks: Any,
    sharing: dict[str, Any],
    examples: int,
) -> None:
    class Machine(LaneMachine, lane_checks):  # type: ignore[misc]
        def __init__(self) -> None:
            model = make_model()
            model.policy = model.policy.model_copy(update=sharing)
            super().__init__(store_redis, namespace, model)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
