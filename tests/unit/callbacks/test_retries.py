"""What each answer leads to: a verdict, news of the receiver's health, a pause, an end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel_batching.deliveries import Delivery, DeliveryState
from umbel_batching.outbox import Entry, Post, Report
from umbel_callbacks.posting import retry_after_s
from umbel_callbacks.retries import TOO_LATE, Answer, Retries
from umbel_config.callback_settings import CallbackSettings

NOW = 1_700_000_000_000
DAY_S = 86_400
SCHEDULE = (5.0, 30.0, 120.0)
POST = Post("hooks.example", "k" * 42, str(NOW), (Entry("k" * 8, "0" * 32, 0),))


def judged(
    *,
    schedule: tuple[float, ...] = SCHEDULE,
    ttl_s: float = 2 * DAY_S,
    attempts: int = 0,
    age_s: float = 1.0,
    rand: float = 0.5,
    **answer: Any,
) -> Report:
    """What becomes of an attempt; without jitter, unless ``rand`` is another number."""
    since = NOW - round(age_s * 1000)
    fares = Delivery(state=DeliveryState.PENDING, attempts=attempts, since=since, due=NOW, log=[])
    retries = Retries(schedule, ttl_s, lambda: rand)
    return retries.report(POST, Answer(took_ms=7, **answer), fares, NOW)


@pytest.mark.parametrize(
    ("answer", "verdict", "health", "pause_s", "alone_s"),
    [
        ({"status": 200}, "delivered", "well", 5, 5),
        ({"status": 204}, "delivered", "well", 5, 5),
        ({"status": 299}, "delivered", "well", 5, 5),
        ({"status": 101}, "again", "there", 5, 5),
        ({"status": 301}, "again", "there", 5, 5),
        ({"status": 308}, "again", "there", 5, 5),
        ({"status": 400}, "again", "there", 5, 5),
        ({"status": 401}, "again", "there", 5, 5),
        ({"status": 404}, "again", "there", 5, 5),
        ({"status": 409, "retry_after_s": 20.0}, "again", "there", 20, 20),
        ({"status": 499}, "again", "there", 5, 5),
        ({"status": 410}, "dead", "unknown", 5, 5),
        ({"status": 429}, "again", "busy", 5, 5),
        ({"status": 429, "retry_after_s": 2.0}, "again", "busy", 5, 2),
        ({"status": 429, "retry_after_s": 20.0}, "again", "busy", 20, 20),
        ({"status": 429, "retry_after_s": 600.0}, "again", "busy", 600, 60),
        ({"status": 500}, "again", "failing", 5, 5),
        ({"status": 500, "retry_after_s": 20.0}, "again", "failing", 20, 20),
        ({"status": 502}, "again", "sick", 5, 5),
        ({"status": 503}, "again", "sick", 5, 5),
        ({"status": 503, "retry_after_s": 20.0}, "again", "busy", 20, 20),
        ({"status": 501}, "again", "failing", 5, 5),
        ({"status": 504}, "again", "sick", 5, 5),
        ({"status": 599}, "again", "failing", 5, 5),
        ({"status": 999}, "again", "failing", 5, 5),
        ({"at_fault": True, "note": "not reached in time"}, "again", "sick", 5, 5),
        ({"note": "leads to an address that callbacks do not go to"}, "again", "unknown", 5, 5),
        ({"hopeless": True, "note": "no URL"}, "dead", "unknown", 5, 5),
    ],
)
def test_answer(
    answer: dict[str, Any], verdict: str, health: str, pause_s: float, alone_s: float
) -> None:
    report = judged(**answer)
    assert (report.verdict, report.health) == (verdict, health)
    assert (report.pause_ms, report.alone_ms) == (pause_s * 1000, alone_s * 1000)
    assert (report.post, report.status, report.took_ms) == (POST, answer.get("status", 0), 7)
    assert report.note.startswith(answer.get("note", ""))


@pytest.mark.parametrize(("attempts", "pause_s"), [(0, 5), (1, 30), (2, 120)])
def test_pauses_follow_the_schedule(attempts: int, pause_s: float) -> None:
    assert judged(status=500, attempts=attempts).pause_ms == pause_s * 1000


def test_the_last_attempt_of_the_schedule_is_the_end() -> None:
    report = judged(status=500, note="Oh no", attempts=3)
    assert (report.verdict, report.note) == ("dead", "Oh no; given up after 4 attempts")
    assert report.pause_ms == 0
    assert judged(status=200, attempts=3).verdict == "delivered"
    assert judged(status=500, schedule=()).note == "given up after 1 attempts"


def test_the_last_attempt_still_tells_that_a_receiver_is_busy() -> None:
    report = judged(status=429, retry_after_s=7.0, attempts=3)
    assert (report.verdict, report.health, report.alone_ms) == ("dead", "busy", 7000)


@pytest.mark.parametrize(("age_s", "verdict"), [(94, "again"), (95, "again"), (95.001, "dead")])
def test_no_attempt_is_made_after_the_ttl(age_s: float, verdict: str) -> None:
    report = judged(status=500, ttl_s=100, age_s=age_s)
    assert report.verdict == verdict
    if verdict == "dead":
        assert report.note == "given up: callback_ttl_s (100 s) is over before the next"
    assert judged(status=200, ttl_s=100, age_s=age_s).verdict == "delivered"


def test_a_receiver_cannot_ask_for_more_time_than_the_ttl() -> None:
    assert judged(status=429, retry_after_s=99.0, ttl_s=100, age_s=0.5).verdict == "again"
    assert judged(status=429, retry_after_s=101.0, ttl_s=100, age_s=0.5).verdict == "dead"


@pytest.mark.parametrize(("age_ms", "over"), [(0, False), (100_000, False), (100_001, True)])
def test_the_time_of_a_callback_is_over_after_the_ttl(age_ms: int, over: bool) -> None:
    fares = Delivery(state=DeliveryState.PENDING, attempts=3, since=NOW, due=NOW, log=[])
    assert Retries(SCHEDULE, 100).over(fares, NOW + age_ms) is over


@pytest.mark.parametrize("attempts", [0, 9])
def test_what_is_too_late_is_given_up_and_its_receiver_not_to_blame(attempts: int) -> None:
    report = judged(ttl_s=100, age_s=101, attempts=attempts, note=TOO_LATE.note, hopeless=True)
    assert report.note.startswith("not sent: callback_ttl_s is over; given up")
    assert (report.verdict, report.health, report.status) == ("dead", "unknown", 0)
    assert Answer(note=TOO_LATE.note, hopeless=True) == TOO_LATE


def test_gone_says_why_no_other_attempt_is_made() -> None:
    report = judged(status=410, note="Gone")
    assert report.note == "Gone; given up: another attempt would end no differently"


@given(
    st.floats(0, 1),
    st.integers(0, len(SCHEDULE) - 1),
    st.none() | st.floats(0, allow_infinity=True),
    st.sampled_from([0, 400, 429, 500, 503]),
)
def test_pauses_stay_within_their_bounds(
    rand: float, attempts: int, asked: float | None, status: int
) -> None:
    report = judged(status=status, rand=rand, attempts=attempts, retry_after_s=asked)
    least = max(SCHEDULE[attempts] * 0.8, min(asked or 0, DAY_S))
    most = max(SCHEDULE[attempts] * 1.2, min(asked or 0, DAY_S))
    assert least * 1000 - 1 <= report.pause_ms <= most * 1000 + 1
    assert 0 <= report.alone_ms <= 60_000


@given(st.text() | st.from_regex(r"\A\s*[0-9]{1,400}\s*\Z"), st.floats(0, 4e9))
def test_any_retry_after_is_read_or_left(text: str, now: float) -> None:
    seconds = retry_after_s(text, now)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0),
        (" 120 ", 120),
        ("0\x1f", 0),
        ("9" * 400, float("inf")),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("soon", None),
        ("\u0663", None),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10),
        ("Tue, 14 Nov 2023 22:13:10 GMT", 0),
        ("Tue, 14 Nov 2023 23:13:30 +0100", 10),
        ("Tue, 99 Nov 2023 22:13:30 GMT", None),
        ("Mon, 1 Jan 1 00:00:00 +99999999999999999999", None),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert retry_after_s(text, NOW / 1000) == seconds


def test_settings_decide() -> None:
    settings = CallbackSettings(callback_schedule_s=(1.0,), callback_ttl_s=10)
    retries = Retries.of(settings)
    fares = Delivery(state=DeliveryState.PENDING, attempts=0, since=NOW, due=NOW, log=[])
    report = retries.report(POST, Answer(status=500), fares, NOW)
    assert report.verdict == "again"
    assert 800 <= report.pause_ms <= 1200
    assert retries.report(POST, Answer(status=500), fares, NOW + 10_000).verdict == "dead"
