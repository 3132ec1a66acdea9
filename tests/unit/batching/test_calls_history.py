"""The history of a job: one line for each thing that befell it, readable whatever it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from umbel_batching.census import job_info
from umbel_batching.record import FIELDS, HEAD, State, parse

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

LONGEST = 16_000


def test_most_jobs_have_no_history(lab: Lab) -> None:
    (uid,) = lab.submit()
    lab.settle(lab.claim())
    assert lab.record(uid).history == []


def test_each_loss_is_an_event(lab: Lab) -> None:
    (uid,) = lab.submit(meta=b"\x81\xa1a\x01")
    first = lab.claim(worker="host:1")
    lab.orphan("host:1", "killed by SIGKILL")
    lab.reap()
    second = lab.claim(worker="host:2")
    lab.lose(second)
    record = lab.record(uid)
    lost = [(event.what, event.batch_id, event.worker) for event in record.history]
    assert lost == [("lost", first.batch, "host:1"), ("lost", second.batch, "host:2")]
    assert record.history[0].cause == "killed by SIGKILL"
    assert "lease" in record.history[1].cause
    assert all(first.started_ms <= event.at <= lab.now() for event in record.history)
    assert (record.metadata, bytes(record.body)) == ({"a": 1}, b"payload")
    assert lab.counter("bytes") == lab.client.strlen(lab.keys.job + uid)


def test_the_history_outlives_the_end_of_the_job(lab: Lab) -> None:
    good, bad = lab.submit(2)
    lab.lose(lab.claim())
    lab.settle(lab.claim(), failing=[bad])
    lab.settle(lab.claim(), failing=[bad])
    for uid, state in ((good, State.SUCCEEDED), (bad, State.FAILED)):
        record = lab.record(uid)
        assert (record.state, len(record.history)) == (state, 1)
    told = job_info(f"{lab.slot}-{good}", "digits@1", lab.record(good), {})
    assert [event.what for event in told.history] == ["lost"]


def test_cancelled_and_expired_jobs_keep_their_history(lab: Lab) -> None:
    gone, late = lab.submit(2, meta=b"\x80", timeout_ms=60_000)
    lab.lose(lab.claim())
    lab.cancel(gone)
    lab.past_deadline(late)
    lab.expire()
    for uid, state in ((gone, State.CANCELLED), (late, State.EXPIRED)):
        record = lab.record(uid)
        assert (record.state, bytes(record.body), record.meta) == (state, b"", b"\x80")
        assert len(record.history) == 1


def test_peeking_tells_the_history(lab: Lab) -> None:
    (uid,) = lab.submit(meta=b"\x80")
    lab.lose(lab.claim())
    for call in (lab.calls.heads(lab.slot, [uid]), lab.calls.outcomes(lab.slot, [uid])):
        (raw,) = lab.runner.run(call)
        assert (parse(raw).history, bytes(parse(raw).body)) == (lab.record(uid).history, b"")


@pytest.mark.parametrize(
    "text",
    [
        "a|b|c",
        "two\nlines",
        "carriage\rreturn",
        "\x0b\x0c\x1c\x1d\x1e",
        "\x85\u2028\u2029",
        "||||\n\n\n",
        "ünïcode ✓",
        "",
        "\x00 nul",
        "100%s %d",
    ],
    ids=repr,
)
def test_a_history_can_be_read_whatever_worker_and_cause_say(lab: Lab, text: str) -> None:
    (uid,) = lab.submit(payload=b"\n|payload|\n")
    for _ in range(2):
        lab.claim(token="a", worker=f"host {text}")
        lab.orphan("a", f"killed {text}")
        lab.reap(max_attempts=5)
    record = lab.record(uid)
    assert bytes(record.body) == b"\n|payload|\n"
    assert [event.what for event in record.history] == ["lost", "lost"]
    for event in record.history:
        assert event.worker.startswith("host ")
        assert event.cause.startswith("killed ")
        assert not set("|\n\r") & set(event.worker + event.cause)


def test_bytes_that_are_no_text_do_not_break_a_record(lab: Lab) -> None:
    (uid,) = lab.submit()
    claimed = lab.claim()
    lab.client.hset(lab.keys.batch + claimed.batch, "cause", b"\xff\xfe broken")
    lab.lose(claimed)
    (event,) = lab.record(uid).history
    assert event.cause.endswith(" broken")


def test_a_long_cause_is_cut_and_not_forgotten(lab: Lab) -> None:
    (uid,) = lab.submit()
    lab.claim(token="a", worker="w" * 50_000)
    lab.orphan("a", "killed " + "é" * 50_000)
    lab.reap()
    (event,) = lab.record(uid).history
    assert event.cause.startswith("killed éé")
    assert event.worker.startswith("www")
    assert len(event.cause) < 5_000


def test_a_history_is_bounded_and_the_oldest_events_go_first(lab: Lab) -> None:
    (uid,) = lab.submit()
    for attempt in range(60):
        lab.claim(token="a")
        lab.orphan("a", f"{attempt} " + "x" * 900)
        lab.reap(max_attempts=99)
    history = lab.record(uid).history
    assert 10 ** FIELDS["history"] > LONGEST
    assert 10 < len(history) < 60
    assert [int(event.cause.split()[0]) for event in history] == list(range(60))[-len(history) :]
    assert lab.client.strlen(lab.keys.job + uid) <= HEAD + LONGEST + len(b"payload")
    assert bytes(lab.record(uid).body) == b"payload"


def test_attempts_beyond_two_digits_do_not_break_a_record(lab: Lab) -> None:
    (uid,) = lab.submit()
    lab.client.setrange(lab.keys.job + uid, 1, b"99")
    lab.claim()
    record = lab.record(uid)
    assert (record.attempts, bytes(record.body)) == (99, b"payload")
