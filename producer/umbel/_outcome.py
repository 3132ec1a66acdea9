"""From the outcome of a job to what its caller gets: a value, or the typed error."""

from __future__ import annotations

from typing import Any

import msgspec

from umbel_batching import record, wire
from umbel_batching.record import Failure, State
from umbel_batching.replies import Outcome
from umbel_config.errors import JobCancelled, JobExpired, JobFailed, JobNotFound, ResultTimeout


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


def not_found(job_id: str) -> JobNotFound:
    """The error for a job that the store does not know."""
    return JobNotFound(
        f"No job {job_id} is known: it was never submitted here, or its result has expired.",
        job_id=job_id,
    )


def timed_out(job_id: str, timeout: float) -> ResultTimeout:
    """The error for a caller that stops waiting."""
    return ResultTimeout(
        f"Job {job_id} has no result after {timeout:g} s. It goes on; ask again with "
        "result(), or look at `umbel lanes` whether a worker serves its lane.",
        job_id=job_id,
    )
