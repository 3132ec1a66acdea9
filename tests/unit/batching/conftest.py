"""A lane on a fake Redis, and the verbs to bring its jobs into any state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import fakeredis
import msgspec
import pytest
import redis

from umbel_batching import replies
from umbel_batching.calls import Calls
from umbel_batching.census import BANDS
from umbel_batching.deliveries import Delivery, delivery_of
from umbel_batching.keys import lane_keys, shared_keys
from umbel_batching.lanes import Lane, keyed_uid, new_uid
from umbel_batching.outbox import (
    OUTBOX,
    Entry,
    Health,
    Leased,
    OutboxCalls,
    Post,
    Report,
    Verdict,
)
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import (
    _SPANS,
    NO_REPLY,
    Failure,
    Priority,
    Record,
    State,
    encode_callback,
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

T = TypeVar("T")

LEASE_MS = 60_000
#: How long a result, a tombstone and a dead letter stay; each tells itself from the others.
TTL_S, TOMB_S, DEAD_S = 100, 1_000, 10_000
KEEP = Retention(result_ttl_s=TTL_S, tombstone_ttl_s=TOMB_S, dead_ttl_s=DEAD_S)


class Lab:
    """One lane and its scripts; time passes only where a test says so."""

    def __init__(
        self,
        policy: BatchPolicy,
        keep: Retention = KEEP,
        client: redis.Redis | None = None,
        namespace: str = "t",
    ) -> None:
        self.server = fakeredis.FakeServer()
        # redis-py's types offer every reply as text, bytes or awaitable; these are bytes.
        self.client: Any = client or fakeredis.FakeRedis(server=self.server)
        self.namespace = namespace
        self.calls = Calls(namespace, keep)
        self.runner = Runner(self.client)
        self.lane = Lane(model="digits", version="1", policy=policy)
        self.slot = self.lane.slot
        self.keys = lane_keys(namespace, self.slot)
        self.shared = shared_keys(namespace)

    def submit(
        self,
        count: int = 1,
        *,
        payload: bytes = b"payload",
        timeout_ms: int = 0,
        meta: bytes = b"",
        reply: str = NO_REPLY,
        priority: Priority = Priority.NORMAL,
        callback: bytes = b"",
    ) -> list[str]:
        text = tail(reply, meta, priority, callback) + payload
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
        self,
        *keys: str,
        payload: bytes = b"payload",
        timeout_ms: int = 0,
        lane: Lane | None = None,
        callback: bytes = b"",
    ) -> Call[Accepted]:
        fingerprint = hashlib.blake2b(payload, digest_size=16).hexdigest()
        text = tail(NO_REPLY, b"", Priority.NORMAL, callback) + payload
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
        size: int = 0,
    ) -> Claimed:
        call = self.calls.claim(
            self.slot,
            batch=batch or new_uid(),
            token=token,
            worker=worker,
            lease_ms=lease_ms,
            device=device,
            size=size,
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
        for key in self.client.scan_iter(match=f"{self.namespace}:*", count=10_000):
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
        pubsub.subscribe(*[f"{self.namespace}:reply:{client}" for client in clients])

        def heard() -> list[tuple[str, bytes]]:
            news = []
            while (message := pubsub.get_message()) is not None:
                client = message["channel"].decode().removeprefix(f"{self.namespace}:reply:")
                news.append((client, message["data"]))
            return news

        for _ in clients:
            assert pubsub.get_message() is None
        return heard


#: What an answer of each kind says about the receiver, unless a test says otherwise.
HEALTH: dict[Verdict, Health] = {
    "delivered": "well",
    "again": "sick",
    "dead": "well",
    "gone": "unknown",
}
#: Where callbacks go in the tests; `shared` ones may come with others in one POST.
URL = "https://shop.example/done"
QUEUE = "shop.example"


class Desk:
    """The outbox of a lab and its senders' verbs; what is due is due because a test says so.

    Not on a fake Redis: that has no SHA-1 for scripts, which names the queues of shared callbacks.
    """

    def __init__(self, lab: Lab, most: int = 32) -> None:
        self.lab, self.client, self.shared = lab, lab.client, lab.shared
        self.calls = OutboxCalls(lab.namespace, lab.calls.keep, most)

    def run(self, call: Call[T]) -> T:
        return self.lab.runner.run(call)

    def submit(self, count: int = 1, url: str = URL, *, shared: bool = False) -> list[str]:
        return self.lab.submit(count, callback=encode_callback(url, shared=shared))

    def end(
        self, count: int = 1, url: str = URL, *, shared: bool = False, failing: bool = False
    ) -> list[str]:
        """Jobs that ended, so that their callbacks are due."""
        uids = self.submit(count, url, shared=shared)
        while (claimed := self.lab.claim()).uids:
            self.lab.settle(claimed, claimed.uids if failing else ())
        return uids

    def lease_call(
        self,
        token: str = "sender",
        *,
        posts: int = 64,
        size: int = 100,
        lease_ms: int = LEASE_MS,
        there_ms: int = 5_000,
        parcel: str = "",
        to_one: int | None = None,
    ) -> Call[Leased]:
        return self.calls.lease(
            token,
            lease_ms=lease_ms,
            posts=posts,
            parcel=parcel or new_uid(),
            batch_size=size,
            there_ms=there_ms,
            to_one=to_one,
        )

    def lease(self, token: str = "sender", **options: Any) -> list[Post]:
        return self.run(self.lease_call(token, **options)).posts

    def report(
        self, post: Post, verdict: Verdict = "delivered", health: Health | None = None, **more: Any
    ) -> list[Entry] | None:
        health = health or HEALTH[verdict]
        return self.run(self.calls.report(Report(post, verdict, health, **more)))

    def redeliver(self, uid: str) -> str:
        return self.run(self.calls.redeliver(self.lab.slot, uid))

    def time_passes(self) -> None:
        """Whatever waits for a time is due: next attempts, ends of leases and of pauses."""
        for key in self.keys_of(self.shared.receiver):
            if self.client.hexists(key, "open_until"):
                self.client.hset(key, "open_until", 1)
        for key in self.keys_of(self.shared.outbox):
            self.all_at(key, self.lately())
        self.leases_end()

    def leases_end(self) -> None:
        """All senders are lost, and others may take what they had."""
        for key in self.keys_of(self.shared.underway):
            receiver = key.removeprefix(self.shared.underway)
            for name in self.all_at(key, 1):
                for queue in self.queues():
                    if queue.partition("#")[0] == receiver:
                        due = {name: self.lately()}
                        self.client.zadd(self.shared.outbox + queue, due, xx=True)
        self.all_at(self.shared.receivers, 1)

    def lately(self) -> int:
        """A time that has passed; what is due since long ago is not held up by its receiver."""
        return self.lab.now() - 1_000

    def keys_of(self, prefix: str) -> list[str]:
        """All keys that begin so."""
        return sorted(key.decode() for key in self.client.scan_iter(f"{prefix}*", count=10_000))

    def all_at(self, key: str, score: int) -> list[str]:
        members = self.client.zrange(key, 0, -1)
        if members:
            self.client.zadd(key, dict.fromkeys(members, score))
        return [member.decode() for member in members]

    def entry(self, uid: str, replays: int = 0) -> str:
        """As it stands in the outbox; that of a shared callback names its URL too."""
        raw = self.client.get(self.lab.keys.job + uid)
        callback = parse(raw).callback if raw else ""
        digest = hashlib.sha1(callback.encode(), usedforsecurity=False).hexdigest()[:16]
        url = digest if callback.startswith("m") else ""
        return Entry(self.lab.slot, uid, replays, url).text

    def waiting(self, queue: str = QUEUE) -> list[str]:
        return self.lab.members(self.shared.outbox + queue)

    def due(self, name: str, queue: str = QUEUE) -> int:
        return int(self.client.zscore(self.shared.outbox + queue, name))

    def look(self) -> int | None:
        """When a flusher looks at the outbox next."""
        score = self.client.zscore(self.shared.wake, OUTBOX)
        return None if score is None else int(score)

    def queues(self) -> dict[str, list[str]]:
        """All that is in the outbox."""
        keys = self.keys_of(self.shared.outbox)
        names = [key.removeprefix(self.shared.outbox) for key in keys]
        return {name: self.waiting(name) for name in names}

    def delivery(self, uid: str) -> Delivery | None:
        return delivery_of(self.lab.record(uid), self.client.get(self.lab.keys.delivery + uid))

    def state(self, uid: str) -> str | None:
        delivery = self.delivery(uid)
        return None if delivery is None else delivery.state.value

    def ttls(self, uid: str) -> tuple[int, int]:
        """Seconds that record and delivery of a job stay; -1: without limit, -2: not there."""
        keys = self.lab.keys
        return self.client.ttl(keys.job + uid), self.client.ttl(keys.delivery + uid)

    def owing(self, receiver: str = QUEUE) -> tuple[int, int]:
        """Callbacks that wait for a receiver, and bytes of their records."""
        found = self.client.hmget(self.shared.owing, receiver, f"{receiver} bytes")
        count, size = (int(each or 0) for each in found)
        return count, size

    def about(self, receiver: str = QUEUE) -> dict[str, int]:
        """What is known of a receiver: breaker, limit and counters."""
        fields = self.client.hgetall(self.shared.receiver + receiver)
        return {name.decode(): int(float(value)) for name, value in fields.items()}

    def counted(self) -> dict[str, int]:
        fields = self.client.hgetall(self.shared.callbacks)
        return {name.decode(): int(value) for name, value in fields.items()}

    def everything(self) -> dict[str, Any]:
        """The content of every key, to tell that nothing has changed."""
        return {key: self.client.dump(key) for key in self.keys_of(f"{self.lab.namespace}:")}


@pytest.fixture
def make_desk(store_redis: redis.Redis, namespace: str) -> Callable[..., Desk]:
    """For a desk of another policy, retention or bound."""

    def make(most: int = 32, keep: Retention = KEEP, **policy: Any) -> Desk:
        given = {"max_batch_size": 512, "max_wait_ms": 0, "max_queue": 10_000, **policy}
        return Desk(Lab(BatchPolicy(**given), keep, store_redis, namespace), most)

    return make


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    """The outbox of a lane with room for thousands of jobs, all of them one batch."""
    return make_desk()


@pytest.fixture
def lab() -> Lab:
    """A lane of batches of 4 that wait up to a second."""
    return Lab(BatchPolicy(max_batch_size=4, max_wait_ms=1_000, max_queue=100))


@pytest.fixture
def make_lab() -> type[Lab]:
    """For lanes of another policy."""
    return Lab
