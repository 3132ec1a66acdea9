"""A lane on a fake Redis, and the verbs to bring its jobs into any state."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import fakeredis
import msgspec
import pytest

from umbel_batching import replies
from umbel_batching.calls import Calls
from umbel_batching.keys import lane_keys, shared_keys
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import (
    _SPANS,
    NO_REPLY,
    Failure,
    Record,
    State,
    parse,
    reply_of,
    settled,
    tail,
)
from umbel_batching.retention import Retention
from umbel_batching.scripts import Runner
from umbel_batching.values import Claimed, NewJob, Reaped, Settlement

LEASE_MS = 60_000
TTL_S = 100
KEEP = Retention(result_ttl_s=TTL_S)


class Lab:
    """One lane and its scripts; time passes only where a test says so."""

    def __init__(self, policy: BatchPolicy) -> None:
        self.server = fakeredis.FakeServer()
        # redis-py's types offer every reply as text, bytes or awaitable; these are bytes.
        self.client: Any = fakeredis.FakeRedis(server=self.server)
        self.calls = Calls("t", KEEP)
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
    ) -> list[str]:
        jobs = [NewJob(new_uid(), tail(reply, meta) + payload, timeout_ms) for _ in range(count)]
        self.runner.run(self.calls.submit(self.lane, jobs))
        return [job.uid for job in jobs]

    def claim(
        self, batch: str | None = None, *, token: str = "drain", lease_ms: int = LEASE_MS
    ) -> Claimed:
        call = self.calls.claim(
            self.slot,
            batch=batch or new_uid(),
            token=token,
            worker="w1",
            lease_ms=lease_ms,
        )
        return self.runner.run(call)

    def outcome(self, claimed: Claimed, failing: Collection[str] = ()) -> Settlement:
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
        )

    def settle(self, claimed: Claimed, failing: Collection[str] = ()) -> bool:
        outcome = self.outcome(claimed, failing)
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

    def age(self, uid: str, ms: int) -> None:
        """Makes a waiting job ``ms`` older."""
        arrival = self.record(uid).created_ms - ms
        self.client.zadd(self.keys.waiting, {uid: arrival})
        self.client.setrange(self.keys.job + uid, _SPANS["created"][0], str(arrival).encode())

    def past_deadline(self, uid: str) -> None:
        """Moves the deadline of a job into the past."""
        start, end = _SPANS["deadline"]
        self.client.setrange(self.keys.job + uid, start, b"1".rjust(end - start, b"0"))

    def state(self, uid: str) -> State | None:
        return self.runner.run(self.calls.states(self.slot, [uid]))[0]

    def record(self, uid: str) -> Record:
        return parse(self.client.get(self.keys.job + uid))

    def counter(self, name: str) -> int:
        return int(self.client.hget(self.keys.lane, name) or 0)

    def waiting(self) -> list[str]:
        return [member.decode() for member in self.client.zrange(self.keys.waiting, 0, -1)]

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
