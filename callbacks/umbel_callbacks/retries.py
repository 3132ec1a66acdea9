"""What an answer means: delivered, tried again and when, or given up; and how the receiver is."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from umbel_batching.deliveries import Delivery
from umbel_batching.outbox import Health, Post, Report, Verdict
from umbel_config.callback_settings import CallbackSettings

_GONE, _TOO_MANY, _UNAVAILABLE = 410, 429, 503
#: What speaks of the server, or of what stands before it; 500 speaks of this message.
_DOWN = frozenset({502, 503, 504})
#: Each pause is made longer or shorter by up to this part, lest many come back at one moment.
_JITTER = 0.2
#: Longest time for which a busy receiver gets nothing at all, and that one message waits for it.
_LONGEST_ALONE_S, _LONGEST_WAIT_S = 60.0, 86_400.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one attempt.

    Attributes:
        status: the HTTP status; 0 where there was no answer.
        took_ms: milliseconds that it took.
        note: what happened, in words.
        retry_after_s: seconds after which the receiver wants to be asked again; ``None``: not said.
        at_fault: whether no answer came because of the receiver: it was not reached, or too slow.
        hopeless: whether it will be no different the next time.
    """

    status: int = 0
    took_ms: int = 0
    note: str = ""
    retry_after_s: float | None = None
    at_fault: bool = False
    hopeless: bool = False


#: What comes of a callback whose time is over before it is sent.
TOO_LATE = Answer(note="not sent: callback_ttl_s is over", hopeless=True)


class Retries:
    """The schedule of attempts.

    Args:
        schedule_s: seconds before each new attempt.
        ttl_s: seconds after the end of a job, or its replay, in which its callback is tried.
        rand: numbers from 0 to 1.
    """

    def __init__(
        self,
        schedule_s: Sequence[float],
        ttl_s: float,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._schedule_s, self._ttl_s, self._rand = tuple(schedule_s), ttl_s, rand

    @classmethod
    def of(cls, settings: CallbackSettings) -> Self:
        """The schedule that the settings ask for."""
        return cls(settings.callback_schedule_s, settings.callback_ttl_s)

    def over(self, delivery: Delivery, now_ms: int) -> bool:
        """Whether the time of a callback is over.

        Args:
            delivery: how it fared before.
            now_ms: the server's time, in ms since 1970.
        """
        return now_ms > delivery.since + self._ttl_s * 1000

    def report(self, post: Post, answer: Answer, delivery: Delivery, now_ms: int) -> Report:
        """What to write of an attempt.

        Args:
            post: what was sent.
            answer: what came of it.
            delivery: how it fared before.
            now_ms: the server's time, in ms since 1970.
        """
        pause_s = self._pause_s(answer, delivery.attempts)
        verdict, why = self._verdict(answer, delivery, pause_s, now_ms)
        return Report(
            post=post,
            verdict=verdict,
            health=_health(answer),
            status=answer.status,
            took_ms=answer.took_ms,
            note="; ".join(filter(None, (answer.note, why))),
            pause_ms=round(pause_s * 1000),
            alone_ms=round(min(_LONGEST_ALONE_S, answer.retry_after_s or pause_s) * 1000),
        )

    def _pause_s(self, answer: Answer, attempts: int) -> float:
        if attempts >= len(self._schedule_s):
            return 0.0
        spread = 1 + _JITTER * (2 * self._rand() - 1)
        asked = min(answer.retry_after_s or 0.0, _LONGEST_WAIT_S)
        return max(self._schedule_s[attempts] * spread, asked)

    def _verdict(
        self, answer: Answer, delivery: Delivery, pause_s: float, now_ms: int
    ) -> tuple[Verdict, str]:
        if 200 <= answer.status < 300:  # noqa: PLR2004  (success, RFC 9110)
            return "delivered", ""
        if answer.hopeless or answer.status == _GONE:
            return "dead", "given up: another attempt would end no differently"
        if delivery.attempts >= len(self._schedule_s):
            return "dead", f"given up after {delivery.attempts + 1} attempts"
        if now_ms + pause_s * 1000 > delivery.since + self._ttl_s * 1000:
            return "dead", f"given up: callback_ttl_s ({self._ttl_s:g} s) is over before the next"
        return "again", ""


def _health(answer: Answer) -> Health:
    """What an answer tells of the receiver; one that refuses a message is there all the same."""
    if answer.status == 0:
        return "sick" if answer.at_fault else "unknown"
    asks_for_time = answer.status == _UNAVAILABLE and answer.retry_after_s is not None
    if answer.status == _TOO_MANY or asks_for_time:
        return "busy"
    if answer.status in _DOWN:
        return "sick"
    if answer.status == _GONE:
        return "unknown"
    if answer.status >= 500:  # noqa: PLR2004  (server errors, RFC 9110)
        return "failing"
    return "well" if 200 <= answer.status < 300 else "there"  # noqa: PLR2004
