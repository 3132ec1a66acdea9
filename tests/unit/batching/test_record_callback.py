"""The callback in the record of a job: its place, its length, and the runs that each have one."""

from __future__ import annotations

import msgspec
import pytest

from umbel_batching import record
from umbel_batching.record import FIELDS, HEAD, NO_REPLY, State

URL = "https://shop.example:8443/done?order=7#top"
META = msgspec.msgpack.encode({"user": 7})
START = b"r" + b"02" + b"00007" + b"b" * 32 + b"1700000000001" + b"0" * 13 + b"0" * 13
LONGEST_URL = 2_048


def made(callback: bytes = b"", meta: bytes = b"", body: bytes = b"payload") -> bytes:
    return START + record.tail(NO_REPLY, meta, callback=callback) + body


def with_history(raw: bytes, history: bytes) -> bytes:
    start, end = record._SPANS["history"]
    at = HEAD + int(raw[slice(*record._SPANS["meta"])])
    return raw[:start] + b"%05d" % len(history) + raw[end:at] + history + raw[at:]


@pytest.mark.parametrize("meta", [b"", META])
@pytest.mark.parametrize("shared", [False, True])
def test_url_metadata_and_payload_come_back(meta: bytes, shared: bool) -> None:
    parsed = record.parse(made(record.encode_callback(URL, shared=shared), meta))
    assert parsed.callback_url == URL
    assert parsed.callback[0] == (record.SHARED if shared else record.ALONE)
    assert (parsed.meta, bytes(parsed.body)) == (meta, b"payload")


def test_a_job_without_a_callback_has_no_url() -> None:
    parsed = record.parse(made(meta=META))
    assert (parsed.callback, parsed.callback_url, parsed.metadata) == ("", None, {"user": 7})


def test_the_length_of_the_metadata_counts_the_callback() -> None:
    callback = record.encode_callback(URL)
    raw = made(callback, META)
    assert int(raw[slice(*record._SPANS["meta"])]) == len(callback) + len(META)
    assert int(raw[slice(*record._SPANS["callback"])]) == len(callback)
    assert raw[record.body_offset(raw) :] == b"payload"


def test_the_head_and_what_follows_are_read_without_the_body() -> None:
    raw = made(record.encode_callback(URL), META)
    assert record.parse(raw[: record.body_offset(raw)]).callback_url == URL


def test_a_settled_record_keeps_its_callback() -> None:
    raw = record.settled(made(record.encode_callback(URL), META), State.SUCCEEDED, b"out")
    parsed = record.parse(raw)
    assert (parsed.callback_url, parsed.meta, bytes(parsed.body)) == (URL, META, b"out")


def test_the_longest_url_fits_its_field() -> None:
    url = "https://shop.example/".ljust(LONGEST_URL, "x")
    callback = record.encode_callback(url)
    assert len(str(len(callback))) <= FIELDS["callback"]
    assert record.parse(made(callback, META)).callback_url == url


def test_only_ascii_is_an_url() -> None:
    with pytest.raises(UnicodeEncodeError):
        record.encode_callback("https://bücher.example/")


@pytest.mark.parametrize("callback", [b"", record.encode_callback(URL)])
def test_each_replay_is_a_run_of_its_own(callback: bytes) -> None:
    lost, replayed = b"lost|1700000000001|b|w|c\n", b"replayed|1700000000002|b||\n"
    raw = with_history(made(callback, META), lost + replayed + lost + replayed)
    parsed = record.parse(raw)
    assert (parsed.replays, len(parsed.history)) == (2, 4)
    assert (parsed.callback.encode(), parsed.meta) == (callback, META)
    assert record.parse(made(callback)).replays == 0


def test_a_replay_is_told_by_its_own_field_alone() -> None:
    raw = with_history(made(), b"lost|1700000000001|b|replayed|replayed\n")
    assert record.parse(raw).replays == 0
