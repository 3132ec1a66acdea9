"""The record of a job: fixed widths, read alike by Python and Lua."""

from __future__ import annotations

from typing import Any

import fakeredis
import msgspec
import numpy as np
import pytest

from umbel_batching import record
from umbel_batching.record import FIELDS, HEAD, NO_REPLY, State
from umbel_config.errors import InvalidInput

STATE, ATTEMPTS, CAP, BATCH = b"r", b"02", b"00007", b"b" * 32
TIMES = b"1700000000001" + b"1700000000002" + b"0000000000000"
HEAD_TEXT = STATE + ATTEMPTS + CAP + BATCH + TIMES
REPLY = "c" * 16
META = msgspec.msgpack.encode({"user": 7})
RAW = HEAD_TEXT + record.tail(REPLY, META) + b"payload"


def test_a_record_is_read_field_by_field() -> None:
    parsed = record.parse(RAW)
    assert parsed.state is State.RUNNING
    assert (parsed.attempts, parsed.cap, parsed.batch) == (2, 7, "b" * 32)
    assert (parsed.created_ms, parsed.deadline_ms, parsed.finished_ms) == (
        1_700_000_000_001,
        1_700_000_000_002,
        0,
    )
    assert (parsed.reply, parsed.metadata, bytes(parsed.body)) == (REPLY, {"user": 7}, b"payload")


def test_the_head_alone_can_be_read() -> None:
    parsed = record.parse(HEAD_TEXT + record.tail(NO_REPLY, b""))
    assert (parsed.metadata, bytes(parsed.body), parsed.reply.strip()) == ({}, b"", "")


def test_shortcuts_agree_with_the_parser() -> None:
    assert RAW[record.body_offset(RAW) :] == b"payload"
    assert record.reply_of(RAW) == REPLY.encode()


def test_a_settled_record_keeps_head_and_meta() -> None:
    before, after = record.parse(RAW), record.parse(record.settled(RAW, State.SUCCEEDED, b"out"))
    assert (after.state, bytes(after.body)) == (State.SUCCEEDED, b"out")
    for name in ("attempts", "cap", "batch", "created_ms", "deadline_ms", "reply", "meta"):
        assert getattr(after, name) == getattr(before, name)


@pytest.mark.parametrize("raw", [b"", b"r", RAW[:-40], b"x" + RAW[1:], b"\xff" * HEAD])
def test_what_is_no_record_is_not_read(raw: bytes) -> None:
    with pytest.raises((ValueError, KeyError)):
        record.parse(raw)


def test_states_have_letters_of_their_own() -> None:
    assert [record.state_of(state.letter) for state in State] == list(State)
    assert {state for state in State if not state.terminal} == {State.QUEUED, State.RUNNING}


def test_lua_reads_the_same_layout() -> None:
    names = [name.upper() for name in FIELDS]
    pairs = ", ".join(f"{name}_FROM, {name}_TO" for name in names)
    reply = fakeredis.FakeRedis().eval(f"{record.lua_layout()} return {{HEAD, {pairs}}}", 0)
    assert isinstance(reply, list)
    assert reply[0] == HEAD
    slices = dict(zip(names, zip(reply[1::2], reply[2::2], strict=True), strict=True))
    for name, width in FIELDS.items():
        first, last = slices[name.upper()]
        assert last - first + 1 == width
        assert (first - 1, last) == record._SPANS[name]


@pytest.mark.parametrize("metadata", [None, {}])
def test_no_metadata_takes_no_room(metadata: dict[str, Any] | None) -> None:
    assert record.encode_meta(metadata) == b""


def test_metadata_comes_back() -> None:
    metadata = {"user": "å", "tags": [1, 2.5, None, True], "nested": {"raw": b"\x00"}}
    raw = HEAD_TEXT + record.tail(NO_REPLY, record.encode_meta(metadata)) + b"payload"
    parsed = record.parse(raw)
    assert (parsed.metadata, bytes(parsed.body)) == (metadata, b"payload")


@pytest.mark.parametrize(
    "metadata",
    [
        ["no", "dict"],
        "text",
        {1: "key is no text"},
        {"x": object()},
        {"x": 2**64},
        {"x": "\ud800"},
        np.zeros(2),
        0,
        {"x": "y" * record.MAX_META},
    ],
    ids=lambda value: repr(value)[:20],
)
def test_bad_metadata_is_refused(metadata: Any) -> None:
    with pytest.raises(InvalidInput, match="metadata"):
        record.encode_meta(metadata)


def test_metadata_that_holds_itself_is_refused() -> None:
    metadata: dict[str, Any] = {}
    metadata["again"] = metadata
    with pytest.raises(InvalidInput):
        record.encode_meta(metadata)


def test_the_largest_metadata_fits_its_field() -> None:
    assert len(str(record.MAX_META)) <= FIELDS["meta"]
    metadata = {"x": "y" * (record.MAX_META - 6)}
    assert len(record.encode_meta(metadata)) == record.MAX_META


@pytest.mark.parametrize(
    ("url", "receiver"),
    [
        ("https://a.example/hook?x=/y", b"a.example"),
        ("HTTPS://a.example:8443", b"a.example:8443"),
        ("https://a.example#part", b"a.example"),
        ("", b""),
    ],
)
def test_receiver_of_a_new_job_is_that_of_its_callback(url: str, receiver: bytes) -> None:
    callback = record.encode_callback(url) if url else b""
    meta = record.encode_meta({"url": "https://other.example/"})
    new = record.tail(REPLY, meta, callback=callback) + b"1https://third.example/"
    assert record.receiver_of(new) == receiver
