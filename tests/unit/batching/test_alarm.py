"""The alarm of a flusher: at once, then once a minute, and word of the end."""

from __future__ import annotations

import logging

import pytest

from umbel_batching.alarm import AGAIN_S, Alarm


class Watch:
    """An alarm with a clock that is turned by hand, and what it said."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.now, self.jobs, self.asked = 1000.0, 3, 0
        self._alarm = Alarm(self._count, lambda: self.now)
        self._caplog = caplog
        caplog.set_level(logging.INFO, "umbel.flusher")

    def look(self, workers: int, lane: str = "digits@3") -> list[tuple[int, str]]:
        """What is said at a look; each is a second after the one before."""
        self.now += 1
        self._caplog.clear()
        self._alarm.look(f"slot of {lane}", lane, "gpu", workers)
        return [(record.levelno, record.getMessage()) for record in self._caplog.records]

    def _count(self, slot: str) -> int:
        self.asked += 1
        return self.jobs


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture) -> Watch:
    return Watch(caplog)


def test_a_lane_with_a_worker_costs_nothing_and_says_nothing(watch: Watch) -> None:
    assert watch.look(2) == []
    assert watch.asked == 0


def test_it_names_lane_jobs_queue_and_what_to_start(watch: Watch) -> None:
    ((level, text),) = watch.look(0)
    assert level == logging.ERROR
    assert text == (
        "lane digits@3: 3 jobs wait, and no worker serves queue gpu. "
        "Start one: umbel worker --queues gpu"
    )


def test_it_is_said_again_each_minute_with_the_jobs_of_then(watch: Watch) -> None:
    assert watch.look(0)
    assert [watch.look(0) for _ in range(50)] == [[]] * 50
    watch.now, watch.jobs = 1001 + AGAIN_S, 1
    ((level, text),) = watch.look(0)
    assert level == logging.ERROR
    assert "lane digits@3: 1 job waits, and" in text
    assert watch.look(0) == []
    assert watch.asked == 2


def test_its_end_is_told_once_and_it_can_begin_anew(watch: Watch) -> None:
    watch.look(0)
    assert watch.look(1) == [(logging.INFO, "lane digits@3: a worker serves queue gpu again")]
    assert watch.look(1) == []
    assert watch.look(0)[0][0] == logging.ERROR


def test_every_lane_has_its_own(watch: Watch) -> None:
    assert "lane digits@3" in watch.look(0)[0][1]
    assert "lane words@1" in watch.look(0, "words@1")[0][1]
    assert watch.look(0) == watch.look(0, "words@1") == []


def test_an_empty_lane_raises_none_and_ends_its_own(watch: Watch) -> None:
    watch.jobs = 0
    assert watch.look(0) == []
    watch.jobs = 2
    assert watch.look(0)
    watch.jobs, watch.now = 0, watch.now + AGAIN_S
    assert watch.look(0) == []
    watch.jobs = 5
    assert "5 jobs wait" in watch.look(0)[0][1]
    watch.jobs, watch.now = 0, watch.now + AGAIN_S
    assert watch.look(0) == watch.look(1) == [], "nobody waited for that worker"
