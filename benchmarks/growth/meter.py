"""What Redis and workers spend: CPU time of processes, time inside scripts, batches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from umbel_batching.census import lane_statuses

_PROC, _TICKS = Path("/proc"), slice(11, 13)
_SCRIPT = "cmdstat_evalsha"


@dataclass(frozen=True, slots=True)
class Reading:
    """What was spent so far.

    Attributes:
        cpu_s: seconds of CPU, by role.
        script_us: microseconds of Redis inside scripts.
        script_calls: calls of them.
        batches: that were settled.
        jobs: that were settled.
    """

    cpu_s: dict[str, float]
    script_us: float
    script_calls: int
    batches: int
    jobs: int


class Meter:
    """Reads what processes spend; where there is no ``/proc`` the CPU time of workers is not known.

    Args:
        client: of the Redis.
        namespace: prefix of its keys.
        workers: process ids of the workers.
    """

    def __init__(self, client: redis.Redis, namespace: str, workers: Sequence[int]) -> None:
        self._client, self._namespace, self._workers = client, namespace, workers

    def read(self) -> Reading:
        """What was spent until now."""
        lanes = lane_statuses(self._client, self._namespace)
        script_us, calls = scripts(self._client)
        return Reading(
            {"redis": redis_cpu_s(self._client), "worker": sum(map(cpu_s, self._workers))},
            script_us,
            calls,
            sum(lane.batches for lane in lanes),
            sum(lane.succeeded for lane in lanes),
        )


def scripts(client: redis.Redis) -> tuple[float, int]:
    """Microseconds of Redis inside scripts so far, and calls of them.

    Args:
        client: of the Redis.
    """
    stats: Any = client.info("commandstats")
    found: Any = stats.get(_SCRIPT, {"usec": 0, "calls": 0})
    return float(found["usec"]), int(found["calls"])


def redis_cpu_s(client: redis.Redis) -> float:
    """Seconds of CPU, user and system, that a Redis has used.

    Args:
        client: of it.
    """
    used: Any = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def spent(before: Reading, after: Reading) -> dict[str, float]:
    """What each job took between two readings, by the names of the figures.

    Args:
        before: the earlier one.
        after: the later one.
    """
    jobs = after.jobs - before.jobs
    if not jobs:
        return {}
    found = {
        f"{role}_us": (seconds - before.cpu_s[role]) * 1e6 / jobs
        for role, seconds in after.cpu_s.items()
    }
    found["script_us"] = (after.script_us - before.script_us) / jobs
    found["script_calls"] = (after.script_calls - before.script_calls) / jobs
    if after.batches > before.batches:
        found["batch"] = jobs / (after.batches - before.batches)
    return found


def cpu_s(pid: int) -> float:
    """Seconds of CPU, user and system, that a process has used; 0 if that is not known.

    Args:
        pid: its number.
    """
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[_TICKS])) / os.sysconf("SC_CLK_TCK")
