"""A lane as the design promises it, in plain Python; Redis is compared with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant

from umbel_batching.policy import BatchPolicy
from umbel_batching.record import HEAD, Priority, State
from umbel_batching.retention import Retention
from umbel_batching.values import Reaped, Replayed

MAX_ATTEMPTS, AGE_TURN = 3, 4
PATIENCE_MS = 600_000
COUNTERS = ("submitted", "succeeded", "failed", "expired", "cancelled", "shared", "replayed")
KEEP = Retention(result_ttl_s=1_000, tombstone_ttl_s=1_000, dead_ttl_s=5_000)
POLICY = BatchPolicy(
    max_batch_size=4, max_wait_ms=0, max_queue=20, max_queue_bytes=20 * (HEAD + 80)
)
_CLASSES = list(Priority)


@dataclass
class Job:
    """What the model knows of one job."""

    uid: str
    payload: bytes
    priority: Priority = Priority.NORMAL
    timed: bool = False
    late: bool = False
    created: int = 0
    length: int = 0
    state: State = State.QUEUED
    attempts: int = 0
    cap: int = 0
    batch: str = ""
    body: bytes = b""
    history: list[str] = field(default_factory=list)

    @property
    def place(self) -> int:
        """The place of its class; 0 runs first."""
        return _CLASSES.index(self.priority)


@dataclass
class Batch:
    """A batch under a lease: all its jobs, and whose outcome the twins among them share."""

    token: str
    uids: list[str]
    size: int
    twins: dict[str, str]
    leaders: dict[str, bytes]
    ahead: bool = False


@dataclass
class Known:
    """What is remembered of an input: the batch and job that compute it, or their outcome."""

    batch: str
    leader: str
    body: bytes | None = None


@dataclass
class Model:
    """One lane. Each verb returns what its script must return, a repeated one too."""

    policy: BatchPolicy = POLICY
    jobs: dict[str, Job] = field(default_factory=dict)
    live: dict[str, Batch] = field(default_factory=dict)
    lapsed: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    returned: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)
    drains: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    once: dict[str, bytes] = field(default_factory=dict)
    same: dict[bytes, Known] = field(default_factory=dict)
    fates: dict[str, State] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    turn: int = 0

    @property
    def shares(self) -> bool:
        return self.policy.single_flight or self.policy.cache_ttl_s > 0

    def waiting(self) -> list[Job]:
        queued = [job for job in self.jobs.values() if job.state is State.QUEUED]
        return sorted(queued, key=lambda job: (job.place, job.created, job.uid))

    def alive(self) -> list[Job]:
        return [job for job in self.jobs.values() if not job.state.terminal]

    def running(self, batch: str) -> list[str]:
        """The jobs that a live batch still holds."""
        uids = self.live[batch].uids if batch in self.live else []
        return [uid for uid in uids if self._held(uid, batch)]

    def computed(self, batch: str) -> list[str]:
        """Those of them that its worker computes."""
        return [uid for uid in self.running(batch) if uid not in self.live[batch].twins]

    def _held(self, uid: str, batch: str) -> bool:
        job = self.jobs.get(uid)
        return job is not None and job.state is State.RUNNING and job.batch == batch

    def has_room(self, payloads: list[bytes], waiting_bytes: int) -> bool:
        size = waiting_bytes + sum(HEAD + len(payload) for payload in payloads)
        jobs = len(self.waiting()) + len(payloads)
        return jobs <= self.policy.max_queue and size <= self.policy.max_queue_bytes

    def look_up(self, uids: list[str], payload: bytes) -> tuple[dict[int, bool], list[str]]:
        """By place, the idempotency keys in use and whether the input is the same; the others."""
        known: dict[int, bool] = {}
        fresh: list[str] = []
        for place, uid in enumerate(uids):
            if uid in self.once or uid in fresh:
                known[place] = self.once.get(uid, payload) == payload
            else:
                fresh.append(uid)
        return known, [] if False in known.values() else fresh

    def accept(self, uid: str, payload: bytes, **about: Any) -> None:
        job = Job(uid, payload, **about)
        self.jobs[uid] = job
        self.counts["submitted"] += 1
        known = self.same.get(job.payload)
        if self.policy.cache_ttl_s and known is not None and known.body is not None:
            self._share_outcome(job, known)

    def _share_outcome(self, job: Job, known: Known) -> None:
        assert known.body is not None
        job.batch = known.batch
        self.counts["shared"] += 1
        self._end(job, State.SUCCEEDED, known.body)

    def _end(self, job: Job, state: State, body: bytes = b"") -> None:
        job.state, job.body = state, body
        self.counts[state.value] += 1
        self.fates[job.uid] = state
        if state is State.FAILED:
            self.dead.add(job.uid)

    def _looked_at(self) -> list[Job]:
        line, policy, apart = self.waiting(), self.policy, True
        weighs = line and line[0].length + line[-1].length and policy.max_batch_cost
        if line and line[0].place != line[-1].place:
            self.turn += 1
            if self.turn % AGE_TURN == 0:
                line.sort(key=lambda job: (job.created, job.place, job.uid))
                apart = False
        window = line[: policy.max_batch_size * (policy.look_ahead if weighs else 1)]
        return self._chosen(window, apart) if weighs else window

    def _fits(self, jobs: list[Job]) -> bool:
        cost = len(jobs) * max(job.length for job in jobs)
        return len(jobs) <= self.policy.max_batch_size and cost <= self.policy.max_batch_cost

    def _chosen(self, window: list[Job], apart: bool) -> list[Job]:
        """The first in line, and class by class those that go best with what is there."""
        taken = [window[0]]
        for place in range(len(_CLASSES)) if apart else [None]:
            line = [job for job in window[1:] if place is None or job.place == place]
            if line and place not in (None, window[0].place):
                if not self._fits([*taken, line[0]]):
                    break
                taken.append(line.pop(0))
            ways = [self._filled(taken, line, longest.length) for longest in line]
            taken += max(ways, key=lambda way: way[:3], default=(0, 0, 0, []))[3]
        return sorted(taken, key=window.index)

    def _filled(self, taken: list[Job], line: list[Job], most: int) -> tuple[int, int, int, Any]:
        """Those that fill a batch up if none is longer; before them, how good that is."""
        width = max(most, *(job.length for job in taken))
        room = min(self.policy.max_batch_size, self.policy.max_batch_cost // max(1, width))
        fitting = [job for job in line if job.length <= most]
        fitting.sort(key=lambda job: (-job.length, line.index(job)))
        more = fitting[: max(0, room - len(taken))]
        return len(more), -sum(width - job.length for job in taken + more), -most, more

    def claim(self, batch: str, token: str) -> list[str]:
        if batch in self.live:
            return self.computed(batch)
        self.sent.discard(token)
        group, limit = None, self.policy.max_batch_size
        taken = Batch(token, [], 0, {}, {})
        computed: list[str] = []
        for job in self._looked_at():
            if job.late:
                self._end(job, State.EXPIRED)
                continue
            if (group is not None and job.cap != group) or len(computed) >= limit:
                break
            if group is None:
                group, limit = job.cap, min(limit, job.cap or limit)
            if not (self.shares and not job.cap and self._shares_fate(job, batch, taken)):
                self._run(job, batch, taken)
                computed.append(job.uid)
        if computed:
            taken.size = len(taken.uids)
            self.live[batch] = taken
            self.drains.add(token)
        elif not self.waiting():
            self.drains.discard(token)
        return computed

    def claim_ahead(self, batch: str, token: str) -> list[str]:
        """A full batch that no other drain was sent for, or nothing."""
        self.sent.discard(token)
        if len(self.waiting()) < self.policy.max_batch_size * (1 + len(self.sent)):
            return []
        drains = set(self.drains)
        computed = self.claim(batch, token)
        if batch in self.live:
            self.live[batch].ahead = True
        self.drains |= drains
        return computed

    def begin(self, batch: str) -> None:
        if batch in self.live:
            self.live[batch].ahead = False

    def claim_and_stay(self, batch: str, token: str) -> list[str]:
        computed = self.claim(batch, token)
        if not computed and not self.waiting() and self.counts["submitted"]:
            self.drains.add(token)
        return computed

    def _run(self, job: Job, batch: str, joined: Batch) -> None:
        job.state, job.batch, job.attempts = State.RUNNING, batch, job.attempts + 1
        if job.uid not in joined.uids:  # a forgotten job whose key is used anew was in it before
            joined.uids.append(job.uid)

    def _shares_fate(self, job: Job, batch: str, taken: Batch) -> bool:
        known = self.same.get(job.payload)
        if known is not None and known.body is not None:
            self._share_outcome(job, known)
            return True
        if known is not None and (known.batch == batch or known.batch in self.live):
            other = taken if known.batch == batch else self.live[known.batch]
            self._run(job, known.batch, other)
            other.twins[job.uid] = known.leader
            return True
        self.same[job.payload] = Known(batch, job.uid)
        taken.leaders[job.uid] = job.payload
        return False

    def settle(self, batch: str, outcomes: dict[str, bytes | None]) -> bool:
        """Settles a batch; an outcome is a body, or ``None`` for a failure."""
        if batch not in self.live:
            return batch in self.settled
        taken = self.live[batch]
        held = self.running(batch)
        for uid in held:
            job, source = self.jobs[uid], taken.twins.get(uid, uid)
            if source not in outcomes:
                job.state, job.attempts = State.QUEUED, max(0, job.attempts - 1)
                continue
            body = outcomes[source]
            self.counts["shared"] += uid in taken.twins
            self._end(job, State.SUCCEEDED if body is not None else State.FAILED, body or b"")
        for leader, payload in taken.leaders.items():
            known, body = self.same.get(payload), outcomes.get(leader)
            if known is not None and (known.batch, known.leader) == (batch, leader):
                del self.same[payload]
                if self.policy.cache_ttl_s and body is not None:
                    self.same[payload] = Known(batch, leader, body)
        self._release(batch, self.settled)
        return True

    def _release(self, batch: str, where: set[str]) -> None:
        del self.live[batch]
        self.lapsed.discard(batch)
        where.add(batch)

    def reap(self, batches: list[str]) -> Reaped:
        again = failed = 0
        for batch in batches:
            for uid in self.running(batch):
                job = self.jobs[uid]
                if self.live[batch].ahead:
                    job.state, job.attempts = State.QUEUED, max(0, job.attempts - 1)
                    again += 1
                    continue
                job.history.append("lost")
                if job.attempts >= MAX_ATTEMPTS:
                    self._end(job, State.FAILED)
                    failed += 1
                    continue
                last = job.attempts + 1 >= MAX_ATTEMPTS
                job.state, job.cap = State.QUEUED, 1 if last else -(-self.live[batch].size // 2)
                again += 1
            self._release(batch, self.lost)
        return Reaped(len(batches), again, failed)

    def hand_back(self, token: str) -> int:
        self.sent.discard(token)
        self.drains.discard(token)
        back = 0
        for batch in [batch for batch, held in self.live.items() if held.token == token]:
            for uid in self.running(batch):
                job = self.jobs[uid]
                job.state, job.attempts = State.QUEUED, max(0, job.attempts - 1)
                back += 1
            self._release(batch, self.returned)
        return back

    def orphan(self, token: str) -> int:
        self.drains.discard(token)
        found = [batch for batch, held in self.live.items() if held.token == token]
        self.lapsed.update(found)
        return len(found)

    def expire(self, limit: int) -> int:
        late = sorted(job.uid for job in self.waiting() if job.late)[:limit]
        for uid in late:
            self._end(self.jobs[uid], State.EXPIRED)
        return len(late)

    def cancel(self, uid: str) -> tuple[bool, State | None]:
        job = self.jobs.get(uid)
        if job is None:
            return False, None
        found = job.state
        if not found.terminal:
            self._end(job, State.CANCELLED)
        return not found.terminal, found

    def forget(self, uid: str) -> State | None:
        _, found = self.cancel(uid)
        self.jobs.pop(uid, None)
        self.once.pop(uid, None)
        self.dead.discard(uid)
        return found

    def replay(self, uid: str, *, has_room: bool) -> Replayed:
        if uid not in self.jobs:
            return Replayed(done=False, why="unknown")
        job = self.jobs[uid]
        if uid not in self.dead:
            waits_again = not job.state.terminal and "replayed" in job.history
            return Replayed(done=waits_again, why="" if waits_again else "not dead")
        if not has_room:
            return Replayed(done=False, why="full")
        self.dead.discard(uid)
        job.state, job.attempts, job.cap, job.body = State.QUEUED, 0, 1, b""
        job.timed = job.late = False
        job.history.append("replayed")
        self.counts["failed"] -= 1
        self.counts["replayed"] += 1
        return Replayed(done=True)

    def drop(self, uid: str) -> bool:
        was_dead = uid in self.dead
        self.dead.discard(uid)
        return was_dead

    def flush(self, slots: int, tokens: list[str]) -> int:
        self.sent.difference_update(tokens)
        depth = len(self.waiting())
        ready = max(1, depth // self.policy.max_batch_size) if depth else 0
        pending = len(self.sent)
        wanted = max(0, min(ready - pending, slots - pending - len(self.drains), len(tokens)))
        self.sent.update(tokens[:wanted])
        return wanted


class LaneChecks(RuleBasedStateMachine):
    """What holds for a lane at any time; mixed into the machine that drives it and its model."""

    client: Any
    model: Model
    calls: Any
    keys: Any
    shared: Any
    slot: str
    seen: list[str]
    run: Callable[[Any], Any]
    ask: Callable[..., Any]
    now_ms: Callable[[], int]
    waiting_bytes: Callable[[], int]

    @invariant()
    def every_counter_agrees(self) -> None:
        fields = self.client.hgetall(self.keys.lane)
        names = (*COUNTERS, "batches", "leases_lost", "bytes")
        counted = {name: int(fields.get(name.encode(), 0)) for name in names}
        model = self.model
        assert counted == {
            **{name: model.counts[name] for name in COUNTERS},
            "batches": len(model.settled),
            "leases_lost": len(model.lost),
            "bytes": self.waiting_bytes(),
        }
        ends = sum(counted[state.value] for state in State if state.terminal)
        assert counted["submitted"] == ends + len(model.alive())

    @invariant()
    def what_ended_is_known_to_have_existed(self) -> None:
        told = self.run(self.calls.fates(self.slot, self.seen))
        found = {uid: fate.state for uid, fate in zip(self.seen, told, strict=True) if fate}
        assert found == self.model.fates

    @invariant()
    def keys_are_held_as_long_as_their_jobs(self) -> None:
        ttls = self.ask("TTL", [self.shared.once + uid for uid in self.model.once])
        for uid, ttl in zip(self.model.once, ttls, strict=True):
            live = not self.model.jobs[uid].state.terminal
            assert ttl == -1 if live else ttl > KEEP.result_ttl_s

    @invariant()
    def a_lane_with_work_is_due(self) -> None:
        due = self.client.zscore(self.shared.wake, self.slot)
        if self.model.waiting() or self.model.live:
            assert due is not None
        if self.model.waiting() and not self.model.sent and not self.model.drains:
            assert due <= self.now_ms() + PATIENCE_MS

    @invariant()
    def batches_are_kept_for_their_time(self) -> None:
        live = [self.keys.batch + batch for batch in self.model.live]
        over = self.model.settled | self.model.lost | self.model.returned
        assert set(self.ask("TTL", live)) <= {-1}
        ttls = self.ask("TTL", [self.keys.batch + batch for batch in over])
        assert all(0 < ttl <= KEEP.dead_ttl_s for ttl in ttls)


@pytest.fixture
def lane_checks() -> type[LaneChecks]:
    """What is checked after each step, beside sets and records."""
    return LaneChecks


@pytest.fixture
def make_model() -> type[Model]:
    """Makes models of a lane."""
    return Model
