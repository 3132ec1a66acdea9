"""What happens when little happens: the first job on an idle lane, and what an idle worker uses."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Final

from suite.contestant import Contestant
from suite.pace import Pace
from suite.quantiles import Tail
from suite.truth import Truth

MODEL: Final = "tiny-now"
#: Seconds of silence before each try, between these, so that no timer is always met alike.
_LEAST_S, _MOST_S = 0.7, 1.3
#: Seconds after the last job before the idle system is watched.
_REST_S: Final = 3.0
#: In ``/proc/PID/stat``, behind the name: process group, and user and system time in ticks.
_GROUP, _USED = 2, slice(11, 13)


def first_jobs(contestant: Contestant, pace: Pace, truth: Truth) -> Tail:
    """How long the first job on a lane takes that was idle for a second; in ms.

    Args:
        contestant: umbel.
        pace: how many tries.
        truth: the right answers.

    Raises:
        DriverFailed: the client failed.
        WrongAnswer: an answer is wrong.
    """
    dice = random.Random(0)
    pauses = [dice.uniform(_LEAST_S, _MOST_S) for _ in range(pace.tries)]
    contestant.wake(MODEL, truth)
    return Tail.of(contestant.times_ms(MODEL, pace.tries, truth, pauses))


def idle_cores(group: int, seconds: float) -> float:
    """Cores that a group of processes uses, on average, while nobody asks for anything.

    Args:
        group: its process group.
        seconds: to watch it.

    Raises:
        OSError: there is no ``/proc``.
    """
    time.sleep(_REST_S)
    before, began = _ticks(group), time.monotonic()
    time.sleep(seconds)
    used = (_ticks(group) - before) / os.sysconf("SC_CLK_TCK")
    return used / (time.monotonic() - began)


def _ticks(group: int) -> int:
    found = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            if int(fields[_GROUP]) == group:
                found += sum(map(int, fields[_USED]))
    return found
