"""The error tree: complete, drawn as it is, and clear about what may be tried again."""

from __future__ import annotations

import inspect
import re

import pytest

from umbel_config import errors


def tree() -> list[type[errors.UmbelError]]:
    return [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.UmbelError)
    ]


def test_every_error_stands_in_the_drawing_under_its_parent() -> None:
    rows = re.findall(r"^([ │├└─]*)([A-Z]\w+)", errors.__doc__ or "", flags=re.MULTILINE)
    parents: list[str] = []
    drawn = {}
    for indent, name in rows:
        if name not in vars(errors):
            continue
        depth = len(indent) // 4 - 1  # the drawing is an indented block
        parents[depth:] = [name]
        drawn[name] = parents[depth - 1] if depth else "Exception"
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in tree()}


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_every_error_says_what_it_is(kind: type[errors.UmbelError]) -> None:
    assert kind.__doc__


def test_only_what_waiting_can_cure_is_retryable() -> None:
    retryable = {kind.__name__ for kind in tree() if kind.retryable}
    assert retryable == {
        "LaneFull",
        "ModelUnavailable",
        "NotReady",
        "ReceiverFull",
        "ResultTimeout",
        "StoreFull",
        "StoreUnavailable",
        "TrafficContended",
    }


def test_job_errors_carry_their_job() -> None:
    error = errors.JobFailed("it broke", job_id="s-1", kind="ValueError")
    assert (str(error), error.job_id, error.kind) == ("it broke", "s-1", "ValueError")


def test_result_timeout_is_a_timeout_error() -> None:
    assert issubclass(errors.ResultTimeout, TimeoutError)


def test_lane_full_says_when_to_come_back() -> None:
    error = errors.LaneFull("full", retry_after=0.5)
    assert (error.retry_after, error.accepted) == (0.5, 0)
