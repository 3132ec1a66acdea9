"""How much of the machine other programs use while something is measured on it."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from faults.closing import Closing

_PROC = Path("/proc")
#: In ``/proc/stat``: user, nice and system time. In that of a process, behind its name: its parent,
#: and user and system time.
_BUSY, _PARENT, _OWN = slice(1, 4), 1, slice(11, 13)
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Span:
    """What other programs used for a while.

    Attributes:
        begin: in seconds of the monotonic clock.
        end: the same.
        cores: that they used on average.
    """

    begin: float
    end: float
    cores: float


@dataclass(frozen=True, slots=True)
class Reading:
    """The clock ticks used so far: by all programs, and by this process and its children.

    Attributes:
        at: when, in seconds of the monotonic clock.
        all: of all programs.
        own: by process id.
    """

    at: float
    all: int
    own: dict[int, int]


class Company(Closing):
    """Looks twice a second; where there is no ``/proc`` it sees nothing."""

    def __init__(self) -> None:
        self._readings: list[Reading] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="company", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends it."""
        self._stop.set()
        self._thread.join()

    def spans(self) -> list[Span]:
        """What was seen so far."""
        return [between(before, after) for before, after in pairwise(list(self._readings))]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._readings.append(read())
            except OSError:
                return
            self._stop.wait(_PAUSE_S)


def between(before: Reading, after: Reading) -> Span:
    """What others used between two readings; a child that ended meanwhile counts as another.

    Args:
        before: the earlier one.
        after: the later one.
    """
    own = sum(ticks - before.own.get(pid, 0) for pid, ticks in after.own.items())
    ticks = max(0, after.all - before.all - own)
    cores = ticks / os.sysconf("SC_CLK_TCK") / (after.at - before.at)
    return Span(before.at, after.at, cores)


def mean(spans: list[Span], begin: float, end: float) -> float | None:
    """Cores that others used in a time, on average; ``None`` if nothing is known of it.

    Args:
        spans: that were seen.
        begin: of the time, in seconds of the monotonic clock.
        end: of it.
    """
    parts = [(max(0.0, min(end, s.end) - max(begin, s.begin)), s.cores) for s in spans]
    length = sum(part for part, _ in parts)
    return sum(part * cores for part, cores in parts) / length if length else None


def read() -> Reading:
    """Reads the ticks of now.

    Raises:
        OSError: there is no ``/proc``.
    """
    total = (_PROC / "stat").read_text().split("\n", 1)[0].split()
    stats = {int(each.name): _stat(each) for each in _PROC.iterdir() if each.name.isdigit()}
    known = {pid: stat for pid, stat in stats.items() if stat}
    ours, found = {os.getpid()}, 0
    while len(ours) > found:
        found = len(ours)
        ours |= {pid for pid, stat in known.items() if int(stat[_PARENT]) in ours}
    own = {pid: sum(map(int, known[pid][_OWN])) for pid in ours if pid in known}
    return Reading(time.monotonic(), sum(map(int, total[_BUSY])), own)


def _stat(folder: Path) -> list[str]:
    """The fields of a process behind its name, which may hold anything; empty once it has ended."""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
