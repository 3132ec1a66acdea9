"""Each way a job can end becomes its value or its own error."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from umbel._outcome import not_found, outcome_in, timed_out, value_of
from umbel_batching import wire
from umbel_batching.record import NO_REPLY, Failure, State, settled, tail
from umbel_batching.replies import Outcome
from umbel_config.errors import JobCancelled, JobExpired, JobFailed, MalformedPayload

JOB = "k3f9x2ab-" + "0" * 32


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


def test_errors_name_the_job_and_what_to_do() -> None:
    assert JOB in str(not_found(JOB))
    error = timed_out(JOB, 2.5)
    assert "2.5 s" in str(error)
    assert isinstance(error, TimeoutError)
    assert error.retryable
