"""The body of a callback: what it tells, what a thin one leaves out, and how it stays small."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel_batching import record, wire
from umbel_batching.record import Failure, State
from umbel_callbacks.body import Composer, Event, event_of
from umbel_config.callback_settings import CallbackSettings
from umbel_config.errors import ConfigError
from umbel_registry.manifest import OutputEncoding

CREATED = 1_700_000_000_007
LINK = "https://app.example.com/results/{id}?from=umbel"
BATCH = {
    b"started": str(CREATED + 4).encode(),
    b"settled": str(CREATED + 993).encode(),
    b"compute_us": b"1250",
    b"size": b"7",
    b"reason": b"size",
    b"worker": b"host:12",
}


def stored(state: State, body: bytes = b"", metadata: Any = None, **fields: int) -> bytes:
    """A terminal record, as the scripts write it."""
    values = {"state": state.letter, "batch": "b" * 32, "priority": "n", "reply": " " * 16}
    meta = record.encode_meta(metadata)
    numbers = {"created": CREATED, "attempts": 1, "meta": len(meta)} | fields
    head = "".join(
        values.get(name) or f"{numbers.get(name, 0):0{width}d}"
        for name, width in record.FIELDS.items()
    )
    return head.encode() + meta + body


def ended(
    state: State = State.SUCCEEDED,
    body: bytes = b"",
    *,
    job_id: str = "k3f9x2ab-0193",
    metadata: Any = None,
    batch: dict[bytes, bytes] = BATCH,
    encoding: OutputEncoding = "list",
    **fields: int,
) -> Event:
    parsed = record.parse(stored(state, body, metadata, **fields))
    return event_of(job_id, "digits@3", parsed, batch, encoding)


def succeeded(output: Any, **options: Any) -> Event:
    return ended(State.SUCCEEDED, wire.encode(output), **options)


def failed(kind: str, message: str) -> Event:
    return ended(State.FAILED, msgspec.msgpack.encode(Failure(kind, message)))


def test_a_success() -> None:
    event = succeeded(np.array([0.5, np.nan], np.float32), metadata={"order": 7, "raw": b"\xff"})
    assert json.loads(Composer(link=LINK).single(event)) == {
        "type": "job.succeeded",
        "timestamp": "2023-11-14T22:13:21.000Z",
        "data": {
            "id": "k3f9x2ab-0193",
            "model": "digits",
            "version": "3",
            "state": "succeeded",
            "output": [0.5, None],
            "metadata": {"order": 7, "raw": {"base64": "/w=="}},
            "timing": {
                "created_at": "2023-11-14T22:13:20.007Z",
                "started_at": "2023-11-14T22:13:20.011Z",
                "finished_at": "2023-11-14T22:13:21.000Z",
                "wait_ms": 4,
                "compute_ms": 1.25,
                "batch_size": 7,
                "attempts": 1,
            },
        },
    }


def test_a_failure_tells_kind_and_message() -> None:
    event = json.loads(Composer().single(failed("ValueError", 'no "cat"')))
    assert event["type"] == "job.failed"
    assert event["data"]["error"] == {"kind": "ValueError", "message": 'no "cat"'}
    assert not {"output", "metadata", "link"} & event["data"].keys()


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        (State.EXPIRED, "JobExpired", "timeout passed"),
        (State.CANCELLED, "JobCancelled", "was cancelled"),
    ],
)
def test_a_job_that_never_ran(state: State, kind: str, words: str) -> None:
    event = json.loads(
        Composer().single(ended(state, batch={}, finished=CREATED + 1000, attempts=0))
    )
    assert (event["type"], event["timestamp"]) == (f"job.{state}", "2023-11-14T22:13:21.007Z")
    error = event["data"]["error"]
    assert error["kind"] == kind
    assert words in error["message"]
    assert event["data"]["timing"] == {
        "created_at": "2023-11-14T22:13:20.007Z",
        "started_at": None,
        "finished_at": "2023-11-14T22:13:21.007Z",
        "wait_ms": None,
        "compute_ms": None,
        "batch_size": None,
        "attempts": 0,
    }


@pytest.mark.parametrize("output", [None, [], {}, False, 0, ""])
def test_an_empty_output_is_an_output(output: Any) -> None:
    assert json.loads(Composer().single(succeeded(output)))["data"]["output"] == output


def test_several_outputs_in_the_encoding_of_the_model() -> None:
    event = succeeded({"a": np.zeros(2, np.int8), "b": "cat"}, encoding="base64")
    assert json.loads(Composer().single(event))["data"]["output"] == {
        "a": {"dtype": "int8", "shape": [2], "base64": "AAA="},
        "b": "cat",
    }


def test_a_job_whose_batch_is_forgotten_has_a_timestamp_still() -> None:
    event = json.loads(Composer().single(succeeded(1, batch={})))
    assert event["timestamp"] == event["data"]["timing"]["created_at"]
    assert event["data"]["timing"]["finished_at"] is None


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_a_job_that_has_not_ended_has_no_event(state: State) -> None:
    with pytest.raises(ValueError, match="has no end to tell of"):
        ended(state)


@pytest.mark.parametrize("link", ["", LINK])
def test_a_thin_event_holds_nothing_of_the_job(link: str) -> None:
    composer = Composer("thin", link=link)
    for event in (succeeded("secret", metadata={"secret": 1}), failed("Secret", "secret")):
        body = composer.single(event)
        assert b"secret" not in body.lower()
        data = json.loads(body)["data"]
        assert data.pop("link", "") == link.replace("{id}", "k3f9x2ab-0193")
        assert data.keys() == {"id", "model", "version", "state", "timing"}


def test_a_body_that_is_too_large_is_thin() -> None:
    event = succeeded(["x" * 2000])
    full = Composer().single(event)
    assert b"xxx" in full
    assert Composer(max_bytes=len(full)).single(event) == full
    thin = Composer(max_bytes=len(full) - 1, link=LINK).single(event)
    assert thin == Composer("thin", link=LINK).single(event)


def test_what_cannot_fit_is_not_even_decoded() -> None:
    huge = succeeded(np.zeros(100_000))
    broken = Event(huge.info, b"\xc1" * len(huge.body))
    assert json.loads(Composer().single(broken))["type"] == "job.succeeded"
    assert Composer(max_bytes=1024).single(broken) == Composer(max_bytes=1024).single(huge)


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED])
@pytest.mark.parametrize("body", [b"", b"\xc1", b"\xc7\x00\x07", b"\x91" * 450 + b"\x01"])
def test_a_damaged_outcome_is_told_thin(state: State, body: bytes) -> None:
    event = json.loads(Composer().single(ended(state, body)))
    assert event["type"] == f"job.{state}"
    assert "error" not in event["data"]


def test_bodies_are_the_same_for_every_attempt() -> None:
    raw = stored(State.SUCCEEDED, wire.encode({"b": 1.1, "a": [np.float32(0.1)]}), {"z": 1, "y": 2})
    bodies = set()
    for _ in range(3):
        event = event_of("k3f9x2ab-0193", "digits@3", record.parse(raw), dict(BATCH))
        composer = Composer()
        bodies |= {composer.single(event), composer.single(event)}
    assert len(bodies) == 1


def test_a_batch_holds_whole_events_in_their_order() -> None:
    events = [
        ended(State.EXPIRED, batch={}, finished=CREATED + 5000, job_id="a-1"),
        succeeded(1.5, job_id="a-2"),
        ended(State.CANCELLED, batch={}, finished=CREATED + 10, job_id="a-3"),
    ]
    composer = Composer(link=LINK)
    body = json.loads(composer.batch(events))
    assert (body["type"], body["timestamp"]) == ("job.batch", "2023-11-14T22:13:25.007Z")
    assert body["data"] == [json.loads(composer.single(event)) for event in events]


def test_the_largest_of_a_batch_become_thin_until_it_fits() -> None:
    sizes = [10, 3000, 20, 5000, 1000]
    events = [succeeded("x" * size, job_id=f"a-{size}") for size in sizes]
    full = len(Composer().batch(events))
    for max_bytes, kept in [
        (full, sizes),
        (full - 1, [10, 3000, 20, 1000]),
        (full - 6000, [10, 20, 1000]),
        (3000, [10, 20, 1000]),
        (2000, [10, 20]),
    ]:
        body = Composer(max_bytes=max_bytes).batch(events)
        assert len(body) <= max_bytes
        assert [len(each["data"]["output"]) for each in json.loads(body)["data"]
                if "output" in each["data"]] == kept  # fmt: skip


def test_a_batch_of_thin_events_is_as_small_as_it_gets() -> None:
    events = [succeeded("x", job_id=f"a-{number}") for number in range(20)]
    thin = Composer("thin").batch(events)
    assert Composer(max_bytes=1024).batch(events) == thin
    assert len(thin) > 1024


@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=12),
    max_bytes=st.integers(1024, 20_000),
)
def test_a_batch_fits_wherever_it_can(sizes: list[int], max_bytes: int) -> None:
    events = [succeeded("x" * size, job_id=f"a-{place}") for place, size in enumerate(sizes)]
    composer = Composer(max_bytes=max_bytes, link=LINK)
    body = composer.batch(events)
    told = json.loads(body)["data"]
    assert [each["data"]["id"] for each in told] == [event.info.id for event in events]
    # A short output takes less than the link of a thin event, and stays.
    assert len(body) <= max_bytes or all(
        "output" not in each["data"] or len(each["data"]["output"]) < len(LINK) for each in told
    )


@pytest.mark.parametrize(
    "link",
    [
        "https://app.example.com/results",
        "https://app.example.com/{job_id}",
        "app.example.com/{id}",
        "/results/{id}",
        "ftp://app.example.com/{id}",
        "https:///{id}",
        "https://[/{id}",
        "{id}",
    ],
)
def test_a_link_is_an_address_with_a_place_for_the_id(link: str) -> None:
    settings = CallbackSettings(callback_link=link)
    with pytest.raises(ConfigError, match="callback_link is no http or https address"):
        Composer.of(settings)


def test_settings_decide() -> None:
    settings = CallbackSettings(callback_payload="thin", callback_link=LINK)
    assert Composer.of(settings).single(succeeded(1)) == Composer("thin", link=LINK).single(
        succeeded(1)
    )
    small = CallbackSettings(callback_max_bytes=1024)
    assert b"xxx" not in Composer.of(small).single(succeeded("x" * 1024))
