"""The verbs of the micro-batcher, one script call each: typed arguments in, values out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Self, TypeVar

import msgspec

from umbel_batching import answers
from umbel_batching.keys import lane_keys, reply_channel, shared_keys, workers_key
from umbel_batching.lanes import Lane
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import Failure, State, has_callback
from umbel_batching.retention import Retention
from umbel_batching.scripts import Call, source
from umbel_batching.tuning import Tuned
from umbel_batching.values import (
    Accepted,
    Claimed,
    Due,
    Fate,
    Flush,
    NewJob,
    Reaped,
    Replayed,
    Settlement,
)
from umbel_config.settings import Settings

T = TypeVar("T")

#: The outcome of a job whose workers died on it ``max_attempts`` times.
LOST = Failure("WorkerLost", "Every worker that ran this job died or fell silent while it did.")
_LOST = msgspec.msgpack.encode(LOST)
#: How long flushers go by what a worker chose for an adaptive lane, unless it says so again.
CHOICE_HOLDS_MS = 10_000


class Calls:
    """Makes the calls of one namespace.

    Args:
        namespace: prefix of every key.
        keep: how long what is kept of ended jobs stays.
        max_callbacks: callbacks that may wait for one receiver before it gets no new jobs.
        max_callback_bytes: bytes of their records that may.
    """

    def __init__(
        self,
        namespace: str,
        keep: Retention | None = None,
        max_callbacks: int = 100_000,
        max_callback_bytes: int = 2**30,
    ) -> None:
        self.namespace = namespace
        self.keep = keep or Retention()
        self._max_callbacks, self._max_callback_bytes = max_callbacks, max_callback_bytes
        self._kept = self.keep.text
        self._channels = reply_channel(namespace, "")

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The calls for the namespace and retention of ``settings``."""
        return cls(
            settings.namespace,
            Retention.of(settings),
            settings.max_callbacks,
            settings.max_callback_bytes,
        )

    def submit(self, lane: Lane, jobs: Sequence[NewJob]) -> Call[Accepted]:
        """Puts ``jobs`` into ``lane``, all or none.

        Raises (when run):
            LaneFull: the lane's ``max_queue`` or ``max_queue_bytes`` would be exceeded.
            ReceiverFull: too many callbacks wait for the receiver of one of them.
        """
        args: list[Any] = [lane.slot, lane.name, lane.queue, lane.policy.text]
        called = any(has_callback(job.tail) for job in jobs)
        args += (self._kept, self._channels)
        args += (self._max_callbacks if called else 0, self._max_callback_bytes)
        for job in jobs:
            tail = job.fingerprint.encode() + job.tail if job.fingerprint else job.tail
            args += (job.uid, job.timeout_ms, tail)
        return self._call("submit", lane.slot, args, lambda reply: answers.accepted(lane, reply))

    def claim(
        self,
        slot: str,
        *,
        batch: str,
        token: str,
        worker: str,
        lease_ms: int,
        device: str = "cpu",
        ran: str = "",
        stay_ms: int = 0,
        ahead: bool = False,
        was_idle: bool = False,
        size: int = 0,
    ) -> Call[Claimed]:
        """Takes up to ``max_batch_size`` of the jobs that run next, under a lease.

        Higher classes run before lower ones, and jobs of a class in the order of their arrival;
        one batch of four takes the oldest jobs of all classes, so that none starves.

        Args:
            slot: the lane.
            batch: a new id for the batch; the same id again returns the same batch.
            token: the drain that claims.
            worker: name of the worker, kept as evidence.
            lease_ms: milliseconds without renewal after which the batch is taken back.
            device: what the batch will run on; a remembered ceiling holds for one kind of device.
            ran: the version that runs it, where that is not the one that the lane is named after.
            stay_ms: milliseconds for which the drain stays, to be called for the next job, where
                it finds nothing; it does not where others wait for its slot.
            ahead: take a full batch or nothing, while the drain still runs another: until a
                ``settle`` tells that it begins, it goes back without penalty if its worker dies.
            was_idle: whether the drain had nothing to do when the first of these jobs came.
            size: most jobs to take, as the worker chose it; it holds within ``max_batch_size``, and
                if the lane is adaptive. 0: none chosen.
        """
        args: list[Any] = [slot, batch, token, worker, lease_ms, device, self._kept, self._channels]
        args += (ran, stay_ms, int(ahead), int(was_idle), size)
        return self._call("claim", slot, args, lambda reply: answers.claimed(batch, reply))

    def govern(self, slot: str, lane: str, policy: BatchPolicy) -> Call[bool]:
        """Gives a lane another batching policy, from its next claim on; false if it has it already.

        Args:
            slot: the lane.
            lane: its name; a lane that does not exist is left alone.
            policy: the policy.
        """
        return self._call("govern", slot, (slot, lane, policy.text), bool)

    def tune(self, slot: str, lane: str, told: Tuned) -> Call[bool]:
        """Notes what a worker has learned of an adaptive lane; false if the lane is none.

        Args:
            slot: the lane.
            lane: its name.
            told: by the worker.
        """
        story = msgspec.json.encode(told)
        args = (lane, told.kind, told.size, told.wait_ms, CHOICE_HOLDS_MS, story)
        return self._call("tune", slot, args, bool)

    def renew(self, slot: str, *, batch: str, token: str, lease_ms: int) -> Call[bool]:
        """Extends the lease of a running batch; false when it was lost."""
        return self._call("renew", slot, (batch, token, lease_ms), bool)

    def settle(self, slot: str, batch: str, outcome: Settlement, begins: str = "") -> Call[bool]:
        """Writes all outcomes of a batch in one step; false when the fence was lost.

        Args:
            slot: the lane.
            batch: the batch that must still hold its lease.
            outcome: what became of its jobs.
            begins: the batch, claimed ahead by the same drain, that begins to run now.
        """
        count = len(outcome.uids)
        args: list[Any] = [batch, self._kept, self._channels, slot, outcome.compute_us]
        args += [outcome.succeeded, count - outcome.succeeded, count]
        args += [outcome.device, outcome.ceiling, begins]
        for uid, record in zip(outcome.uids, outcome.records, strict=True):
            args += (uid, record)
        for client, message in outcome.messages.items():
            args += (self._channels + client, message)
        return self._call("settle", slot, args, bool)

    def reap(self, slot: str, *, limit: int, max_attempts: int) -> Call[Reaped]:
        """Takes back up to ``limit`` batches of a lane whose lease ran out."""
        args = (slot, limit, max_attempts, self._kept, self._channels, _LOST)
        return self._call("reap", slot, args, answers.reaped)

    def hand_back(self, slot: str, token: str) -> Call[int]:
        """Gives the running batches of a drain back without penalty; their fence is void then.

        Returns (when run): the number of jobs that wait again.
        """
        return self._call("hand_back", slot, (slot, token, self.keep.result_ttl_s), int)

    def orphan(self, slot: str, *, owner: str, cause: str) -> Call[int]:
        """Ends the leases of a process that has died, so that its batches are taken back at once.

        Args:
            slot: the lane.
            owner: the token of its drain, or its name as a worker.
            cause: what became of it, kept as evidence.

        Returns (when run): the number of its batches.
        """
        return self._call("orphan", slot, (slot, owner, cause), int)

    def expire(self, slot: str, limit: int) -> Call[int]:
        """Ends up to ``limit`` waiting jobs whose deadline has passed; returns how many."""
        return self._call("expire", slot, (slot, limit, self._kept, self._channels), int)

    def release(self, slot: str, token: str) -> Call[int]:
        """Ends a drain before its lane is empty; returns how many jobs wait."""
        return self._call("release", slot, (slot, token), int)

    def due(self, limit: int) -> Call[Due]:
        """Lists up to ``limit`` lanes that need a flusher now."""
        return self._call("due", "", (limit,), answers.due)

    def flush(self, slot: str, *, slots: int, patience_ms: int, tokens: list[str]) -> Call[Flush]:
        """Decides how many drains a lane needs, at most ``len(tokens)``, and notes them as sent.

        Args:
            slot: the lane.
            slots: batches that the workers of its queue can run side by side.
            patience_ms: milliseconds after which an unanswered hint counts as lost.
            tokens: names for the drains; the first ``sent`` of them are used.
        """
        return self._call("flush", slot, (slot, slots, patience_ms, *tokens), answers.flush)

    def cancel(self, slot: str, uid: str) -> Call[tuple[bool, State | None]]:
        """Cancels a job; returns whether this call did it, and the state it found (or ``None``)."""
        args = (slot, uid, self._kept, self._channels)
        return self._call("cancel", slot, args, answers.cancelled)

    def forget(self, slot: str, uid: str) -> Call[State | None]:
        """Deletes all that is kept of a job but its tombstone; cancels it first if it lives.

        Returns (when run): the state it had before, ``None`` if it is unknown.
        """
        args = (slot, uid, self._kept, self._channels)
        return self._call("forget", slot, args, answers.state)

    def replay(self, slot: str, uid: str) -> Call[Replayed]:
        """Puts a dead letter back into its lane under its id, alone in its batch.

        Done too (when run) if an earlier call put it back and it has not ended since.
        """
        return self._call("replay", slot, (slot, uid), answers.replayed)

    def drop(self, slot: str, uid: str) -> Call[bool]:
        """Removes a dead letter; its record stays as long as any other result."""
        return self._call("drop", slot, (uid, self._kept), bool)

    def fates(self, slot: str, uids: Sequence[str]) -> Call[list[Fate | None]]:
        """What the tombstones know of jobs without a record; ``None``: it never ended here."""
        return self._call("fates", slot, list(uids), answers.fates)

    def states(self, slot: str, uids: Sequence[str]) -> Call[list[State | None]]:
        """The states of jobs of one lane; ``None`` for one that is unknown. No payload travels."""
        return self._peek(slot, uids, "state", answers.states)

    def heads(self, slot: str, uids: Sequence[str]) -> Call[list[bytes]]:
        """All but the body of each job's record; empty for one that is unknown."""
        return self._peek(slot, uids, "head", list)

    def outcomes(self, slot: str, uids: Sequence[str]) -> Call[list[bytes]]:
        """The whole record of each terminal job, all but the body of others, empty if unknown."""
        return self._peek(slot, uids, "outcome", list)

    def announce(self, queue: str, worker: str, *, slots: int, stale_ms: int) -> Call[int]:
        """Notes that ``worker`` serves ``queue`` with ``slots``, for ``stale_ms``; 0: it leaves."""
        member = f"{worker}|{slots}"
        keys = (
            workers_key(self.namespace, queue),
            shared_keys(self.namespace).slots + queue,
        )
        return Call("announce", keys, (member, stale_ms), int)

    def stir(self, slot: str) -> Call[bool]:
        """Calls a drain that stays at an empty lane, so that it gives up its slot."""
        return self._call("stir", slot, (slot,), bool)

    def rearm(self, slot: str, *, now: bool) -> Call[bool]:
        """Puts a lane with work back on the flushers' list; ``now`` has it looked at at once."""
        return self._call("rearm", slot, (slot, int(now)), bool)

    def _call(
        self, script: str, slot: str, args: Sequence[Any], parse: Callable[[Any], T]
    ) -> Call[T]:
        """A call whose keys are those that the script itself names."""
        return Call(script, keys_of(self.namespace, slot, script), args, parse)

    def _peek(
        self, slot: str, uids: Sequence[str], what: str, parse: Callable[[Any], T]
    ) -> Call[T]:
        prefix = lane_keys(self.namespace, slot).job
        return Call("peek", [prefix + uid for uid in uids], (what,), parse)


@lru_cache(maxsize=4096)
def keys_of(namespace: str, slot: str, script: str) -> tuple[str, ...]:
    """The keys that a script names, in its order.

    Args:
        namespace: prefix of every key.
        slot: the lane; any text for a script that touches none.
        script: its name.
    """
    lane, shared = lane_keys(namespace, slot), shared_keys(namespace)
    return tuple(
        getattr(lane if hasattr(lane, name) else shared, name) for name in source(script).keys
    )
