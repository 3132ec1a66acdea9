"""From the outcome of a job to what its caller gets: a value, or the typed error."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from umbel_batching import record, wire
from umbel_batching.lanes import split_id
from umbel_batching.record import Failure, State
from umbel_batching.replies import Outcome
from umbel_batching.retention import Retention
from umbel_batching.values import Fate
from umbel_config.errors import (
    JobCancelled,
    JobExpired,
    JobFailed,
    JobLost,
    JobNotFound,
    ResultExpired,
    ResultTimeout,
    StoreUnavailable,
)

_ENDED = {State.CANCELLED: "was cancelled"}


class Handle(Protocol):
    """What is known of a job on the caller's side.

    Attributes:
        id: the job's id.
        store: identity of the store when the job was submitted or asked for; empty if unknown.
        inbox: where its outcome is pushed to, if this client submitted it.
    """

    id: str
    store: str
    inbox: Any


def value_of(job_id: str, outcome: Outcome) -> Any:
    """The output of a job that succeeded.

    Args:
        job_id: named in the error.
        outcome: how the job ended.

    Raises:
        JobFailed: the model or its worker failed on it.
        JobExpired: its timeout passed first.
        JobCancelled: it was cancelled.
    """
    if outcome.state is State.SUCCEEDED:
        return wire.decode(outcome.body)
    raise error_of(job_id, outcome)


def error_of(job_id: str, outcome: Outcome) -> JobFailed | JobExpired | JobCancelled:
    """The error that tells how a job ended, if it did not succeed."""
    if outcome.state is State.FAILED:
        failure = msgspec.msgpack.decode(outcome.body, type=Failure)
        text = f"Job {job_id} failed with {failure.kind}: {failure.message}"
        return JobFailed(text, job_id=job_id, kind=failure.kind)
    if outcome.state is State.EXPIRED:
        return JobExpired(
            f"Job {job_id} expired: its timeout passed before a worker could start it. "
            "Give it more time, or add workers.",
            job_id=job_id,
        )
    return JobCancelled(f"Job {job_id} was cancelled.", job_id=job_id)


def outcome_in(raw: bytes) -> Outcome | None:
    """The outcome in a record as ``Calls.outcomes`` reads it; ``None`` while the job lives."""
    parsed = record.parse(raw)
    return Outcome(parsed.state, bytes(parsed.body)) if parsed.state.terminal else None


def missing(job: Handle, fate: Fate | None, store: str, keep: Retention) -> JobNotFound:
    """The error for a job of which the store has no record.

    Args:
        job: the job.
        fate: what its tombstone tells, if there is one.
        store: identity of the store now.
        keep: how long what is kept of ended jobs stays.
    """
    if fate is not None:
        return _expired(job.id, fate, keep)
    if job.store and job.store != store:
        return _lost(job.id, "lost its data (FLUSHALL, or a restart without persistence)")
    if job.inbox is not None and _younger(job.id, keep.tombstone_ttl_s):
        return _lost(
            job.id,
            "lost its latest writes (a crash or a fail-over; see `umbel doctor`)",
            " But if workers have a shorter tombstone_ttl_s than this client's "
            f"{keep.tombstone_ttl_s}, it may have ended long ago.",
        )
    return JobNotFound(
        f"No job {job.id} is known: it was never submitted here, or it ended so long ago that "
        "nothing is left of it.",
        job_id=job.id,
    )


def _expired(job_id: str, fate: Fate, keep: Retention) -> ResultExpired:
    moment = datetime.fromtimestamp(fate.finished_ms / 1000, UTC)
    kept_s = keep.result_ttl_s
    if fate.state is State.FAILED and keep.max_dead:
        kept_s = max(kept_s, keep.dead_ttl_s)
    return ResultExpired(
        f"Job {job_id} {_ENDED.get(fate.state, fate.state.value)} at {moment:%H:%M:%S} UTC on "
        f"{moment:%Y-%m-%d}; its result was kept for {kept_s} s, or until it was forgotten, and "
        "is gone. Submit it again if you need it.",
        job_id=job_id,
        state=fate.state.value,
        finished_at=fate.finished_ms,
    )


def _lost(job_id: str, what: str, unless: str = "") -> JobLost:
    text = f"Redis {what} after it accepted job {job_id}: submit it again.{unless}"
    return JobLost(text, job_id=job_id)


def _younger(job_id: str, seconds: float) -> bool:
    """Whether the job's uid, a UUIDv7, is younger than that; one of a key does not tell."""
    _, uid = split_id(job_id)
    return uid[12] == "7" and time.time() - int(uid[:12], 16) / 1000 < seconds


def timed_out(job_id: str, timeout: float, outage: StoreUnavailable | None = None) -> ResultTimeout:
    """The error for a caller that stops waiting.

    Args:
        job_id: the job.
        timeout: seconds that it waited.
        outage: why the store could not be asked at the end, if so.
    """
    if outage is not None:
        return ResultTimeout(
            f"Job {job_id} has no result after {timeout:g} s, and Redis does not answer: {outage} "
            "The job is untouched; ask again with result() once Redis is back.",
            job_id=job_id,
        )
    return ResultTimeout(
        f"Job {job_id} has no result after {timeout:g} s. It goes on; ask again with "
        "result(), or look at `umbel lanes` whether a worker serves its lane.",
        job_id=job_id,
    )
