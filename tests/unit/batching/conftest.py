"""A lane on a fake Redis, and the verbs to bring its jobs into any state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import fakeredis
import msgspec
import pytest

from umbel_batching import replies
from umbel_batching.calls import Calls
from umbel_batching.census import BANDS
from umbel_batching.keys import lane_keys, shared_keys
from umbel_batching.lanes import Lane, keyed_uid, new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import (
    _SPANS,
    NO_REPLY,
    Failure,
    Priority,
    Record,
    State,
    parse,
    reply_of,
    settled,
    tail,
)
from umbel_batching.retention import Retention
from umbel_batching.scripts import Call, Runner
from umbel_batching.values import (
    Accepted,
    Claimed,
    Fate,
    Flush,
    NewJob,
    Reaped,
    Replayed,
    Settlement,
)

LEASE_MS = 60_000
#: How long a result, a tombstone and a dead letter stay; each tells itself from the others.
TTL_S, TOMB_S, DEAD_S = 100, 1_000, 10_000
KEEP = Retention(result_ttl_s=TTL_S, tombstone_ttl_s=TOMB_S, dead_ttl_s=DEAD_S)


class Lab:
    """One lane and its scripts; time passes only where a test says so."""

    def __init__(self, policy: BatchPolicy, keep: Retention = KEEP) -> None:
        self.server = fakeredis.FakeServer()
        # redis-py's types offer every reply as text, bytes or awaitable; these are bytes.
        self.client: Any = fakeredis.FakeRedis(server=self.server)
        self.calls = Calls("t", keep)
        self.runner = Runner(self.client)
        self.lane = Lane(model="digits", version="1", policy=policy)
        self.slot = self.lane.slot
        self.keys = lane_keys("t", self.slot)
        self.shared = shared_keys("t")

    def submit(
        self,
        count: int = 1,
        *,
        payload: bytes = b"payload",
        timeout_ms: int = 0,
        meta: bytes = b"",
        reply: str = NO_REPLY,
        priority: Priority = Priority.NORMAL,
    ) -> list[str]:
        text = tail(reply, meta, priority) + payload
        jobs = [NewJob(new_uid(), text, timeout_ms) for _ in range(count)]
        self.runner.run(self.calls.submit(self.lane, jobs))
        return [job.uid for job in jobs]

    def submit_keyed(
        self, *keys: str, payload: bytes = b"payload", timeout_ms: int = 0, lane: Lane | None = None
    ) -> Accepted:
        """Submits one job for each idempotency key, in one call."""
        return self.runner.run(
            self.keyed_call(*keys, payload=payload, timeout_ms=timeout_ms, lane=lane)
        )

    def keyed_call(
        self, *keys: str, payload: bytes = b"payload", timeout_ms: int = 0, lane: Lane | None = None
    ) -> Call[Accepted]:
        fingerprint = hashlib.blake2b(payload, digest_size=16).hexdigest()
        text = tail(NO_REPLY, b"") + payload
        jobs = [NewJob(keyed_uid("digits", key), text, timeout_ms, fingerprint) for key in keys]
        return self.calls.submit(lane or self.lane, jobs)

    def claim(
        self,
        batch: str | None = None,
        *,
        token: str = "drain",
        worker: str = "w1",
        lease_ms: int = LEASE_MS,
        device: str = "cpu",
    ) -> Claimed:
        call = self.calls.claim(
            self.slot,
            batch=batch or new_uid(),
            token=token,
            worker=worker,
            lease_ms=lease_ms,
            device=device,
        )
        return self.runner.run(call)

    def outcome(
        self,
        claimed: Claimed,
        failing: Collection[str] = (),
        *,
        device: str = "cpu",
        ceiling: int = 0,
    ) -> Settlement:
        """The outcomes a worker would settle: ``done`` for each job but the ``failing`` ones."""
        states = [State.FAILED if uid in failing else State.SUCCEEDED for uid in claimed.uids]
        failure = msgspec.msgpack.encode(Failure("ValueError", "bad row"))
        bodies = [failure if state is State.FAILED else b"done" for state in states]
        columns = list(zip(claimed.uids, claimed.records, states, bodies, strict=True))
        clients = {reply_of(record).decode() for record in claimed.records} - {NO_REPLY}
        messages = {}
        for client in sorted(clients):
            rows = [row for row in columns if reply_of(row[1]).decode() == client]
            uids, _, its_states, its_bodies = zip(*rows, strict=True)
            messages[client] = replies.push(self.slot, uids, its_states, its_bodies)
        return Settlement(
            uids=claimed.uids,
            records=[settled(record, state, body) for _, record, state, body in columns],
            succeeded=states.count(State.SUCCEEDED),
            messages=messages,
            compute_us=1500,
            device=device,
            ceiling=ceiling,
        )

    def settle(
        self,
        claimed: Claimed,
        failing: Collection[str] = (),
        *,
        device: str = "cpu",
        ceiling: int = 0,
    ) -> bool:
        outcome = self.outcome(claimed, failing, device=device, ceiling=ceiling)
        return self.runner.run(self.calls.settle(self.slot, claimed.batch, outcome))

    def cancel(self, uid: str) -> tuple[bool, State | None]:
        return self.runner.run(self.calls.cancel(self.slot, uid))

    def reap(self, *, max_attempts: int = 3, limit: int = 10) -> Reaped:
        call = self.calls.reap(self.slot, limit=limit, max_attempts=max_attempts)
        return self.runner.run(call)

    def lose(self, claimed: Claimed, *, max_attempts: int = 3) -> Reaped:
        """Lets the lease of a batch run out, and reaps it."""
        self.client.zadd(self.keys.leases, {claimed.batch: 1})
        return self.reap(max_attempts=max_attempts)

    def hand_back(self, token: str = "drain") -> int:
        return self.runner.run(self.calls.hand_back(self.slot, token))

    def orphan(self, owner: str, cause: str = "killed by SIGSEGV") -> int:
        return self.runner.run(self.calls.orphan(self.slot, owner=owner, cause=cause))

    def expire(self, limit: int = 1000) -> int:
        return self.runner.run(self.calls.expire(self.slot, limit))

    def forget(self, uid: str) -> State | None:
        return self.runner.run(self.calls.forget(self.slot, uid))

    def replay(self, uid: str) -> Replayed:
        return self.runner.run(self.calls.replay(self.slot, uid))

    def drop(self, uid: str) -> bool:
        return self.runner.run(self.calls.drop(self.slot, uid))

    def fates(self, *uids: str) -> list[Fate | None]:
        return self.runner.run(self.calls.fates(self.slot, uids))

    def flush(
        self, *, slots: int = 1, tokens: Sequence[str] | None = None, patience_ms: int = 2_000
    ) -> Flush:
        names = list(tokens) if tokens else [new_uid() for _ in range(8)]
        call = self.calls.flush(self.slot, slots=slots, patience_ms=patience_ms, tokens=names)
        return self.runner.run(call)

    def now(self) -> int:
        return self.runner.run(self.calls.due(1)).now_ms

    def next_look(self) -> int | None:
        """When a flusher looks at the lane next."""
        score = self.client.zscore(self.shared.wake, self.slot)
        return None if score is None else int(score)

    def age(self, uid: str, ms: int) -> None:
        """Makes a waiting job ``ms`` older."""
        record = self.record(uid)
        arrival, place = record.created_ms - ms, list(Priority).index(record.priority)
        self.client.zadd(self.keys.waiting, {uid: BANDS[place] + arrival})
        self.client.setrange(self.keys.job + uid, _SPANS["created"][0], str(arrival).encode())

    def past_deadline(self, uid: str) -> None:
        """Moves the deadline of a job into the past."""
        self.set_deadline(uid, 1)

    def set_deadline(self, uid: str, at_ms: int) -> None:
        """Moves the deadline of a job, in its record and in the index."""
        start, end = _SPANS["deadline"]
        self.client.setrange(self.keys.job + uid, start, f"{at_ms:0{end - start}d}".encode())
        if self.client.zscore(self.keys.deadlines, uid) is not None:
            self.client.zadd(self.keys.deadlines, {uid: at_ms})

    def state(self, uid: str) -> State | None:
        return self.runner.run(self.calls.states(self.slot, [uid]))[0]

    def record(self, uid: str) -> Record:
        return parse(self.client.get(self.keys.job + uid))

    def counter(self, name: str) -> int:
        return int(self.client.hget(self.keys.lane, name) or 0)

    def waiting(self) -> list[str]:
        return self.members(self.keys.waiting)

    def members(self, key: str) -> list[str]:
        """The members of a sorted set, first ones first."""
        return [member.decode() for member in self.client.zrange(key, 0, -1)]

    def keys_with(self, uid: str) -> set[str]:
        """Every key that is named after ``uid`` or holds it, but for the tombstones."""
        found = set()
        for key in self.client.scan_iter(count=10_000):
            name = key.decode()
            if not name.startswith(self.keys.tomb) and (uid in name or uid in self._content(name)):
                found.add(name)
        return found

    def _content(self, name: str) -> str:
        kind = self.client.type(name)
        if kind == b"zset":
            return " ".join(self.members(name))
        content = self.client.hgetall(name) if kind == b"hash" else self.client.get(name)
        return str(content)

    def listen(self, *clients: str) -> Callable[[], list[tuple[str, bytes]]]:
        """Subscribes for ``clients``; what it returns tells client and message of all news."""
        pubsub = self.client.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe(*[f"t:reply:{client}" for client in clients])

        def heard() -> list[tuple[str, bytes]]:
            news = []
            while (message := pubsub.get_message()) is not None:
                news.append((message["channel"].decode().removeprefix("t:reply:"), message["data"]))
            return news

        for _ in clients:
            assert pubsub.get_message() is None
        return heard


@pytest.fixture
def lab() -> Lab:
    """A lane of batches of 4 that wait up to a second."""
    return Lab(BatchPolicy(max_batch_size=4, max_wait_ms=1_000, max_queue=100))


@pytest.fixture
def make_lab() -> type[Lab]:
    """For lanes of another policy."""
    return Lab
