"""How fast Redis answers, and whether its clock and ours agree."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import redis

from umbel_cli.doctor.findings import Finding, ok, warning

_PINGS, _LONGEST_S = 100, 2.0
_SLOW_MS, _STALL_MS, _DRIFT_S = 5.0, 100.0, 1.0


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured.

    Attributes:
        pings_ms: round trips, in milliseconds.
        drift_s: seconds that this machine's clock is ahead of the server's; negative: behind.
    """

    pings_ms: Sequence[float]
    drift_s: float


def measure(client: redis.Redis) -> Timing:
    """Measures round trips for at most two seconds, then the clocks.

    Args:
        client: of the server.

    Raises:
        RedisError: it does not answer, or does not let us ask.
    """
    client.ping()  # the first one pays for the connection
    pings: list[float] = []
    end = time.monotonic() + _LONGEST_S
    while len(pings) < _PINGS and (not pings or time.monotonic() < end):
        began = time.perf_counter()
        client.ping()
        pings.append((time.perf_counter() - began) * 1000)
    before = time.time()
    seconds, micros = client.time()
    ours = (before + time.time()) / 2
    return Timing(pings, ours - (seconds + micros / 1e6))


def judge_timing(timing: Timing) -> Iterator[Finding]:
    """What the measurements mean.

    Args:
        timing: from ``measure``.
    """
    yield _latency(timing.pings_ms)
    yield _clock(timing.drift_s)


def _latency(pings_ms: Sequence[float]) -> Finding:
    middle, longest = median(pings_ms), max(pings_ms)
    summary = f"{middle:.2f} ms median, {longest:.1f} ms longest of {len(pings_ms)} round trips"
    if middle > _SLOW_MS:
        return warning(
            "redis.latency",
            f"{summary}: each batch waits for several of them",
            "Run workers and producers closer to Redis, in the same zone or rack",
        )
    if longest > _STALL_MS:
        return warning(
            "redis.latency",
            f"{summary}: something holds Redis or the network up now and then",
            "Look at redis-cli SLOWLOG GET, at swapping, and at other users of this Redis",
        )
    return ok("redis.latency", summary)


def _clock(drift_s: float) -> Finding:
    apart = f"{abs(drift_s):.3g} s {'ahead of' if drift_s > 0 else 'behind'} the clock of Redis"
    if abs(drift_s) <= _DRIFT_S:
        return ok("redis.clock", f"{abs(drift_s) * 1000:.0f} ms apart from this machine's")
    return warning(
        "redis.clock",
        f"This machine is {apart}: times in its logs do not fit those of jobs",
        "Run an NTP service on both. Leases and timeouts are safe: they go by the clock of Redis",
    )
