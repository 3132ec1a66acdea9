"""The verbs of the micro-batcher, one script call each: typed arguments in, values out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from umbel_batching.keys import lane_keys, reply_channel, shared_keys, workers_key
from umbel_batching.lanes import Lane
from umbel_batching.record import Failure, State, state_of
from umbel_batching.scripts import Call
from umbel_config.errors import ConfigError, LaneFull

#: The outcome of a job whose workers died on it ``max_attempts`` times.
LOST = Failure("WorkerLost", "Every worker that ran this job died or fell silent while it did.")

#: Seconds to suggest to a refused caller while no rate has been measured, and at most.
_FIRST_RETRY_S, _LONGEST_RETRY_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job about to be submitted.

    Attributes:
        uid: from ``lanes.new_uid``; submitting the same uid again changes nothing.
        tail: ``record.tail`` followed by the encoded payload.
        timeout_ms: milliseconds from arrival after which it must not be computed; 0: none.
    """

    uid: str
    tail: bytes
    timeout_ms: int = 0


@dataclass(frozen=True, slots=True)
class Claimed:
    """What one claim took out of a lane.

    Attributes:
        batch: id of the batch, and the fence for settling it; the empty batch has no jobs.
        reason: why it was flushed: ``size``, ``timeout`` or ``drain``.
        oldest_ms: arrival of its oldest job.
        started_ms: when it was claimed.
        left: jobs that still wait in the lane; 0 with no jobs here means that the drain ended.
        uids: the jobs, oldest first.
        records: their records, in the same order.
    """

    batch: str
    reason: str
    oldest_ms: int
    started_ms: int
    left: int
    uids: list[str]
    records: list[bytes]


class Settlement(msgspec.Struct, frozen=True):
    """The outcomes of one batch.

    Attributes:
        uids: its jobs.
        records: their terminal records, in the same order.
        succeeded: how many of them succeeded; the others failed.
        messages: what to push: one encoded message per waiting client, by client id.
        compute_us: microseconds the model took.
    """

    uids: list[str]
    records: list[bytes]
    succeeded: int
    messages: dict[str, bytes]
    compute_us: int


@dataclass(frozen=True, slots=True)
class Due:
    """The lanes that need a flusher: ``slots`` now, the next one at ``next_ms`` (0: none)."""

    now_ms: int
    next_ms: int
    slots: list[str]


@dataclass(frozen=True, slots=True)
class Flush:
    """The decision about one lane: ``sent`` drains are needed now, ``expired`` leases ran out."""

    sent: int
    expired: int
    lane: str
    queue: str


@dataclass(frozen=True, slots=True)
class Reaped:
    """What a reaper did: batches taken back, jobs that wait again, jobs that failed for good."""

    batches: int
    again: int
    failed: int


class Calls:
    """Makes the calls of one namespace.

    Args:
        namespace: prefix of every key.
    """

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._shared = shared_keys(namespace)
        self._channels = reply_channel(namespace, "")

    def submit(self, lane: Lane, jobs: Sequence[NewJob]) -> Call[int]:
        """Puts ``jobs`` into ``lane``, all or none; returns how many wait there then.

        Raises (when run):
            LaneFull: the lane's ``max_queue`` or ``max_queue_bytes`` would be exceeded.
        """
        keys, policy = lane_keys(self.namespace, lane.slot), lane.policy
        shared = self._shared
        args: list[Any] = [lane.slot, lane.name, lane.queue, policy.max_batch_size]
        args += [policy.max_wait_ms, policy.max_queue, policy.max_queue_bytes]
        for job in jobs:
            args += (job.uid, job.timeout_ms, job.tail)
        return Call(
            "submit",
            (keys.lane, keys.waiting, keys.sent, keys.drains)
            + (shared.wake, shared.signal, shared.lanes, keys.job),
            args,
            lambda reply: _accepted(lane, reply),
        )

    def claim(
        self, slot: str, *, batch: str, token: str, worker: str, lease_ms: int, ttl_s: int
    ) -> Call[Claimed]:
        """Takes up to ``max_batch_size`` of the oldest jobs under a lease of ``lease_ms``.

        Args:
            slot: the lane.
            batch: a new id for the batch; the same id again returns the same batch.
            token: the drain that claims.
            worker: name of the worker, kept as evidence.
            lease_ms: milliseconds without renewal after which the batch is taken back.
            ttl_s: seconds that jobs found expired stay readable.
        """
        keys = lane_keys(self.namespace, slot)
        return Call(
            "claim",
            (keys.lane, keys.waiting, keys.leases, keys.sent, keys.drains)
            + (self._shared.wake, keys.batch + batch, keys.job),
            (slot, batch, token, worker, lease_ms, ttl_s, self._channels),
            lambda reply: _claimed(batch, reply),
        )

    def renew(self, slot: str, *, batch: str, token: str, lease_ms: int) -> Call[bool]:
        """Extends the lease of a running batch; false when it was lost."""
        keys = lane_keys(self.namespace, slot)
        return Call("renew", (keys.leases, keys.drains), (batch, token, lease_ms), bool)

    def settle(self, slot: str, batch: str, outcome: Settlement, *, ttl_s: int) -> Call[bool]:
        """Writes all outcomes of a batch in one step; false when the fence was lost.

        Args:
            slot: the lane.
            batch: the batch that must still hold its lease.
            outcome: what became of its jobs.
            ttl_s: seconds that the outcomes stay readable.
        """
        keys, count = lane_keys(self.namespace, slot), len(outcome.uids)
        args: list[Any] = [batch, ttl_s, outcome.compute_us, outcome.succeeded]
        args += [count - outcome.succeeded, count, slot]
        for uid, record in zip(outcome.uids, outcome.records, strict=True):
            args += (uid, record)
        for client, message in outcome.messages.items():
            args += (self._channels + client, message)
        return Call("settle", (keys.lane, keys.leases, keys.batch + batch, keys.job), args, bool)

    def reap(self, slot: str, *, limit: int, max_attempts: int, ttl_s: int) -> Call[Reaped]:
        """Takes back up to ``limit`` batches of a lane whose lease ran out."""
        keys, shared = lane_keys(self.namespace, slot), self._shared
        return Call(
            "reap",
            (keys.lane, keys.waiting, keys.leases, shared.wake, shared.signal)
            + (keys.job, keys.batch),
            (slot, limit, max_attempts, ttl_s, self._channels, msgspec.msgpack.encode(LOST)),
            lambda reply: Reaped(*(int(part) for part in reply)),
        )

    def release(self, slot: str, token: str) -> Call[int]:
        """Ends a drain before its lane is empty; returns how many jobs wait."""
        keys, shared = lane_keys(self.namespace, slot), self._shared
        return Call(
            "release",
            (keys.waiting, keys.sent, keys.drains, shared.wake, shared.signal),
            (slot, token),
            int,
        )

    def due(self, limit: int) -> Call[Due]:
        """Lists up to ``limit`` lanes that need a flusher now."""
        return Call("due", (self._shared.wake,), (limit,), _due)

    def flush(self, slot: str, *, slots: int, patience_ms: int, tokens: list[str]) -> Call[Flush]:
        """Decides how many drains a lane needs, at most ``len(tokens)``, and notes them as sent.

        Args:
            slot: the lane.
            slots: batches that the workers of its queue can run side by side.
            patience_ms: milliseconds after which an unanswered hint counts as lost.
            tokens: names for the drains; the first ``sent`` of them are used.
        """
        keys = lane_keys(self.namespace, slot)
        return Call(
            "flush",
            (keys.lane, keys.waiting, keys.leases, keys.sent, keys.drains) + (self._shared.wake,),
            (slot, slots, patience_ms, *tokens),
            lambda reply: Flush(int(reply[0]), int(reply[1]), reply[2].decode(), reply[3].decode()),
        )

    def cancel(self, slot: str, uid: str, *, ttl_s: int) -> Call[tuple[bool, State | None]]:
        """Cancels a job; returns whether this call did it, and the state it found (or ``None``)."""
        keys = lane_keys(self.namespace, slot)
        return Call(
            "cancel",
            (keys.lane, keys.waiting, keys.job + uid, keys.batch),
            (uid, ttl_s, self._channels, slot),
            lambda reply: (reply[0] == 1, state_of(reply[1].decode()) if reply[1] else None),
        )

    def states(self, slot: str, uids: Sequence[str]) -> Call[list[State | None]]:
        """The states of jobs of one lane; ``None`` for one that is unknown. No payload travels."""
        return self._peek(slot, uids, "state", _states)

    def heads(self, slot: str, uids: Sequence[str]) -> Call[list[bytes]]:
        """Head and meta of each job's record; empty for one that is unknown."""
        return self._peek(slot, uids, "head", list)

    def outcomes(self, slot: str, uids: Sequence[str]) -> Call[list[bytes]]:
        """The whole record of each terminal job, head and meta of any other, empty if unknown."""
        return self._peek(slot, uids, "outcome", list)

    def announce(self, queue: str, worker: str, *, slots: int, stale_ms: int) -> Call[int]:
        """Notes that ``worker`` serves ``queue`` with ``slots``, for ``stale_ms``; 0: it leaves."""
        member = f"{worker}|{slots}"
        return Call("announce", (workers_key(self.namespace, queue),), (member, stale_ms), int)

    def rearm(self, slot: str, *, now: bool) -> Call[bool]:
        """Puts a lane with work back on the flushers' list; ``now`` has it looked at at once."""
        keys, shared = lane_keys(self.namespace, slot), self._shared
        return Call(
            "rearm",
            (keys.waiting, keys.leases, shared.wake, shared.signal, keys.lane, keys.sent),
            (slot, int(now)),
            bool,
        )

    def _peek(self, slot: str, uids: Sequence[str], what: str, parse: Any) -> Call[Any]:
        prefix = lane_keys(self.namespace, slot).job
        return Call("peek", [prefix + uid for uid in uids], (what,), parse)


def _accepted(lane: Lane, reply: Any) -> int:
    code, detail = int(reply[0]), reply[1]
    if code == 1:
        return int(detail)
    if code < 0:
        raise ConfigError(
            f"Lanes {lane.name!r} and {detail.decode()!r} share the slot {lane.slot}; "
            "give one of the two versions another name."
        )
    depth, rate = int(detail), float(reply[2])
    wait_s = depth / rate / 10 if rate > 0 else _FIRST_RETRY_S
    raise LaneFull(
        f"Lane {lane.name} has no room for what was sent: {depth} jobs wait there already. Send "
        "less at once, try again later, raise max_queue or max_queue_bytes, or add workers.",
        retry_after=min(max(wait_s, 0.05), _LONGEST_RETRY_S),
    )


def _claimed(batch: str, reply: Any) -> Claimed:
    reason, oldest, now, left, uids, records = reply
    return Claimed(
        batch=batch,
        reason=reason.decode(),
        oldest_ms=int(oldest),
        started_ms=int(now),
        left=int(left),
        uids=[uid.decode() for uid in uids],
        records=records,
    )


def _due(reply: Any) -> Due:
    return Due(int(reply[0]), int(reply[1]), [slot.decode() for slot in reply[2]])


def _states(reply: Any) -> list[State | None]:
    return [state_of(letter.decode()) if letter else None for letter in reply]
