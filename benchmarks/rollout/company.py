"""How much of the machine other programs used while something was measured on it."""

from __future__ import annotations

import os
import time
from pathlib import Path

_PROC = Path("/proc")
#: In ``/proc/stat``: user, nice and system time; in that of a process: user and system time, and
#: its parent.
_BUSY, _OWN, _PARENT = slice(1, 4), slice(11, 13), 1


class Company:
    """Counts cores that were busy, less those that were busy with this process and its children.

    Where there is no ``/proc`` it knows nothing.
    """

    def __init__(self) -> None:
        self._before = _now()

    def cores(self) -> float | None:
        """Cores that others used since it was made, on average; ``None`` if that is not known."""
        then, now = self._before, _now()
        if then is None or now is None or now[0] <= then[0]:
            return None
        ticks = (now[1] - then[1]) - (now[2] - then[2])
        return max(0.0, ticks / os.sysconf("SC_CLK_TCK") / (now[0] - then[0]))


def _now() -> tuple[float, int, int] | None:
    """The time, and the ticks of all programs and of ours."""
    try:
        total = (_PROC / "stat").read_text().split("\n", 1)[0].split()
        stats = {int(each.name): _stat(each) for each in _PROC.iterdir() if each.name.isdigit()}
    except OSError:
        return None
    known = {pid: stat for pid, stat in stats.items() if stat}
    ours, found = {os.getpid()}, 0
    while len(ours) > found:
        found = len(ours)
        ours |= {pid for pid, stat in known.items() if int(stat[_PARENT]) in ours}
    own = sum(sum(map(int, known[pid][_OWN])) for pid in ours if pid in known)
    return time.monotonic(), sum(map(int, total[_BUSY])), own


def _stat(folder: Path) -> list[str]:
    """The fields of a process behind its name, which may hold anything; empty once it has ended."""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
