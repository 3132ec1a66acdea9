"""Each way a job can end becomes its value or its own error."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest

from umbel._inbox import Inbox
from umbel._outcome import missing, outcome_in, timed_out, value_of
from umbel_batching import wire
from umbel_batching.lanes import keyed_uid, new_uid, slot_of
from umbel_batching.record import NO_REPLY, Failure, State, settled, tail
from umbel_batching.replies import Outcome
from umbel_batching.retention import Retention
from umbel_batching.values import Fate
from umbel_config.errors import (
    JobCancelled,
    JobExpired,
    JobFailed,
    JobLost,
    JobNotFound,
    MalformedPayload,
    ResultExpired,
    StoreUnavailable,
)

JOB = "k3f9x2ab-" + "0" * 32
KEEP = Retention(result_ttl_s=60, tombstone_ttl_s=3600, dead_ttl_s=900)
#: 2026-11-22 14:03:07.250 UTC
ENDED_MS = 1_795_356_187_250


@dataclass
class Asked:
    """The least that is known of a job on the caller's side."""

    id: str = JOB
    store: str = "one"
    inbox: Inbox | None = None


def own(uid: str) -> Asked:
    return Asked(id=f"{slot_of('digits@1')}-{uid}", inbox=Inbox())


def live(state: State) -> bytes:
    head = state.letter + "01" + "00000" + "b" * 32 + "1".zfill(13) + "0" * 26
    return head.encode() + tail(NO_REPLY, b"") + b"payload"


def test_success_is_the_decoded_output() -> None:
    body = wire.encode({"a": np.arange(3), "b": "text"})
    value = value_of(JOB, Outcome(State.SUCCEEDED, body))
    np.testing.assert_array_equal(value["a"], np.arange(3))
    assert value["b"] == "text"


def test_failure_names_kind_message_and_job() -> None:
    body = msgspec.msgpack.encode(Failure("ValueError", "bad row"))
    with pytest.raises(JobFailed, match="ValueError: bad row") as caught:
        value_of(JOB, Outcome(State.FAILED, body))
    assert (caught.value.kind, caught.value.job_id) == ("ValueError", JOB)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("state", "error"), [(State.EXPIRED, JobExpired), (State.CANCELLED, JobCancelled)]
)
def test_expired_and_cancelled_have_errors_of_their_own(
    state: State, error: type[JobExpired | JobCancelled]
) -> None:
    with pytest.raises(error, match=JOB) as caught:
        value_of(JOB, Outcome(state, b""))
    assert caught.value.job_id == JOB


def test_damaged_output_is_a_typed_error() -> None:
    with pytest.raises(MalformedPayload):
        value_of(JOB, Outcome(State.SUCCEEDED, b"\xc1"))


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_live_record_has_no_outcome(state: State) -> None:
    assert outcome_in(live(state)) is None


def test_terminal_record_has_its_outcome() -> None:
    raw = settled(live(State.RUNNING), State.SUCCEEDED, b"\x05")
    assert outcome_in(raw) == Outcome(State.SUCCEEDED, b"\x05")


@pytest.mark.parametrize(
    ("state", "words", "kept_s"),
    [
        (State.SUCCEEDED, "succeeded at 14:03:07 UTC on 2026-11-22", 60),
        (State.FAILED, "failed at 14:03:07 UTC", 900),
        (State.EXPIRED, "expired at 14:03:07 UTC", 60),
        (State.CANCELLED, "was cancelled at 14:03:07 UTC", 60),
    ],
)
def test_tombstone_tells_how_and_when_a_job_ended(state: State, words: str, kept_s: int) -> None:
    error = missing(Asked(store="another"), Fate(state, ENDED_MS), "one", KEEP)
    assert isinstance(error, ResultExpired)
    assert (error.job_id, error.state, error.finished_at) == (JOB, state.value, ENDED_MS)
    for part in (JOB, words, f"kept for {kept_s} s", "forgotten"):
        assert part in str(error)


def test_failed_job_without_dead_letters_is_kept_like_any_other() -> None:
    keep = Retention(result_ttl_s=60, dead_ttl_s=900, max_dead=0)
    assert "kept for 60 s" in str(missing(Asked(), Fate(State.FAILED, ENDED_MS), "one", keep))


def test_job_of_a_store_that_is_gone_is_lost() -> None:
    error = missing(Asked(store="before"), None, "now", KEEP)
    assert type(error) is JobLost
    assert "lost its data" in str(error)
    assert f"{JOB}: submit it again" in str(error)


def test_own_job_that_cannot_have_been_forgotten_yet_is_lost_too() -> None:
    error = missing(own(new_uid()), None, "one", KEEP)
    assert type(error) is JobLost
    assert "latest writes" in str(error)
    assert f"shorter tombstone_ttl_s than this client's {KEEP.tombstone_ttl_s}" in str(error)


@pytest.mark.parametrize(
    "asked",
    [
        Asked(),
        Asked(store=""),
        own(keyed_uid("digits", "key")),
        own(uuid.UUID("01900000-0000-7000-8000-000000000000").hex),
    ],
    ids=["other client's", "asked before the first call", "of a key", "of 2024"],
)
def test_job_that_may_never_have_existed_is_not_found(asked: Asked) -> None:
    error = missing(asked, None, "one", KEEP)
    assert type(error) is JobNotFound
    assert asked.id in str(error)


def test_timeout_during_an_outage_says_that_redis_does_not_answer() -> None:
    error = timed_out(JOB, 3, StoreUnavailable("Redis at x cannot be reached."))
    assert "no result after 3 s, and Redis does not answer: Redis at x" in str(error)


def test_timeout_names_the_job_and_what_to_do() -> None:
    error = timed_out(JOB, 2.5)
    assert JOB in str(error)
    assert "2.5 s" in str(error)
    assert isinstance(error, TimeoutError)
    assert error.retryable
