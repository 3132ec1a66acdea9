"""Reading and writing moments: ages and times from the command line, and times to come."""

from __future__ import annotations

import math
import re
import time
from datetime import datetime

import typer

from umbel_cli.dead.tables import moment

_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


def moment_ms(text: str) -> int:
    """A moment in ms since 1970.

    Args:
        text: an age such as ``90s``, ``15m``, ``2h`` or ``7d``, or an ISO 8601 time, which is
            local without an offset.

    Raises:
        BadParameter: it is neither.
    """
    age = _AGE.fullmatch(text)
    if age:
        return round((time.time() - float(age[1]) * _SECONDS[age[2]]) * 1000)
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        raise typer.BadParameter(
            f"{text!r} is no time: give an age such as 90s, 15m, 2h or 7d, or a time such as "
            "2026-03-01T12:00 (local) or 2026-03-01T12:00Z."
        ) from None


def now_ms() -> int:
    """This machine's clock, in ms since 1970."""
    return int(time.time() * 1000)


def ahead(then_ms: int, current_ms: int) -> str:
    """When something is due: a moment and how far it is, or ``now``.

    Args:
        then_ms: when, in ms since 1970.
        current_ms: the time, in ms since 1970.
    """
    if then_ms <= current_ms:
        return "now"
    return f"{moment(then_ms, current_ms)} (in {_length(then_ms - current_ms)})"


def _length(milliseconds: int) -> str:
    seconds = math.ceil(milliseconds / 1000)
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
