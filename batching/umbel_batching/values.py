"""What goes into the scripts and what comes out of them, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from umbel_batching.record import State


class NewJob(msgspec.Struct, frozen=True, gc=False):  # made for every submit: 6 times as fast
    """A job about to be submitted.

    Attributes:
        uid: from ``lanes.new_uid``, or from ``lanes.keyed_uid`` for one with an idempotency key;
            submitting the same uid again changes nothing.
        tail: ``record.tail`` followed by the encoded payload.
        timeout_ms: milliseconds from arrival after which it must not be computed; 0: none.
        fingerprint: 32 characters that tell inputs apart; only with an idempotency key.
    """

    uid: str
    tail: bytes
    timeout_ms: int = 0
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """An idempotency key that was used before.

    Attributes:
        slot: lane of the job that it belongs to.
        uid: that job.
        same: whether its input is the same.
    """

    slot: str
    uid: str
    same: bool


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a submit.

    Attributes:
        depth: jobs that wait in the lane now.
        known: by place in the call, the jobs whose idempotency key was used before. If the input
            of one of them differs, nothing of the call was queued.
    """

    depth: int
    known: dict[int, Known] = field(default_factory=dict)

    @property
    def conflicts(self) -> bool:
        """Whether an idempotency key was used before with another input."""
        return any(not known.same for known in self.known.values())


@dataclass(frozen=True, slots=True)
class Claimed:
    """What one claim took out of a lane.

    Attributes:
        batch: id of the batch, and the fence for settling it; the empty batch has no jobs.
        reason: why it was flushed: ``size``, ``timeout``, ``deadline``, ``idle`` or ``drain``.
        oldest_ms: arrival of the job that had waited longest.
        started_ms: when it was claimed.
        left: jobs that still wait in the lane; 0 with no jobs here means that the drain ended.
        uids: the jobs, first in line first.
        records: their records, in the same order.
        ceiling: largest batch known to fit into the memory of the device; 0: none known.
        stays: whether the drain, which found nothing, stays to be called for the next job.
    """

    batch: str
    reason: str
    oldest_ms: int
    started_ms: int
    left: int
    uids: list[str]
    records: list[bytes]
    ceiling: int = 0
    stays: bool = False


class Settlement(msgspec.Struct, frozen=True):
    """The outcomes of one batch.

    Attributes:
        uids: its jobs.
        records: their terminal records, in the same order.
        succeeded: how many of them succeeded; the others failed.
        messages: what to push: one encoded message per waiting client, by client id.
        compute_us: microseconds the model took.
        device: what it ran on, the same text as in the claim.
        ceiling: largest batch found to fit into the device's memory; 0: no news, -1: all fit.
    """

    uids: list[str]
    records: list[bytes]
    succeeded: int
    messages: dict[str, bytes]
    compute_us: int
    device: str = "cpu"
    ceiling: int = 0


@dataclass(frozen=True, slots=True)
class Due:
    """The lanes that need a flusher: ``slots`` now, the next one at ``next_ms`` (0: none)."""

    now_ms: int
    next_ms: int
    slots: list[str]


@dataclass(frozen=True, slots=True)
class Flush:
    """The decision about one lane.

    Attributes:
        sent: drains that are needed now.
        expired: leases that ran out.
        lane: name of the lane.
        queue: the Celery queue whose workers serve it.
        overdue: waiting jobs whose deadline has passed.
        in_the_way: slots of the empty lanes of drains that stay for work and hold up what was sent,
            one for each of them.
    """

    sent: int
    expired: int
    lane: str
    queue: str
    overdue: int = 0
    in_the_way: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reaped:
    """What a reaper did: batches taken back, jobs that wait again, jobs that failed for good."""

    batches: int
    again: int
    failed: int


@dataclass(frozen=True, slots=True)
class Fate:
    """What a tombstone tells of a job: its terminal state, and when it reached it."""

    state: State
    finished_ms: int


@dataclass(frozen=True, slots=True)
class Replayed:
    """Whether a dead letter waits again; if not, why: unknown, not dead, not recorded or full."""

    done: bool
    why: str = ""
