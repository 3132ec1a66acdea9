"""Waiting for something to happen, and saying what never did."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.01


class NeverHappened(Exception):
    """A scenario waited in vain; the sentence says for what."""


def until(predicate: Callable[[], T], what: str, timeout_s: float = 60.0) -> T:
    """Asks ``predicate`` again and again until its answer is true, and returns that.

    Args:
        predicate: what to ask.
        what: completes "waited in vain: …".
        timeout_s: seconds of patience.

    Raises:
        NeverHappened: it stayed false.
    """
    end = time.monotonic() + timeout_s
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() >= end:
            raise NeverHappened(f"waited {timeout_s:g} s in vain: {what}")
        time.sleep(POLL_S)
