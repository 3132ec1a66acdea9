"""Round trips and clocks: measured on a real server, judged from figures."""

from __future__ import annotations

import pytest
import redis

from umbel_cli.doctor.findings import Finding, Level
from umbel_cli.doctor.timing import Timing, judge_timing, measure


def judged(check: str, pings_ms: tuple[float, ...] = (0.2,), drift_s: float = 0.0) -> Finding:
    found = {each.check: each for each in judge_timing(Timing(pings_ms, drift_s))}
    return found[f"redis.{check}"]


@pytest.mark.parametrize(
    ("pings", "level", "words"),
    [
        ((0.1, 0.2, 4.0), Level.OK, "0.20 ms median, 4.0 ms longest of 3"),
        ((6.0, 7.0, 8.0), Level.WARNING, "each batch waits"),
        ((0.1, 0.2, 150.0), Level.WARNING, "now and then"),
    ],
)
def test_latency(pings: tuple[float, ...], level: Level, words: str) -> None:
    found = judged("latency", pings)
    assert (found.level, words in found.summary) == (level, True)


@pytest.mark.parametrize(
    ("drift", "level", "words"),
    [
        (0.004, Level.OK, "4 ms apart"),
        (-0.9, Level.OK, "900 ms apart"),
        (2.5, Level.WARNING, "2.5 s ahead of"),
        (-90.0, Level.WARNING, "90 s behind"),
    ],
)
def test_clock(drift: float, level: Level, words: str) -> None:
    found = judged("clock", drift_s=drift)
    assert (found.level, words in found.summary) == (level, True)


def test_a_wrong_clock_harms_neither_leases_nor_timeouts_and_says_so() -> None:
    assert "Leases and timeouts are safe" in judged("clock", drift_s=5.0).advice


def test_measuring_a_server(store_redis: redis.Redis) -> None:
    timing = measure(store_redis)
    assert 1 <= len(timing.pings_ms) <= 100
    assert min(timing.pings_ms) > 0
    assert abs(timing.drift_s) < 60
