"""A worker that must stop: what still runs when its time is up goes back, and it is gone."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery.worker import state

from umbel_batching.lanes import new_uid
from umbel_batching.record import State
from umbel_config.settings import Settings
from umbel_worker.grace import Grace
from umbel_worker.shutdown import Stopping

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, WaitUntil


@pytest.fixture
def running() -> Iterator[Callable[[str, str], None]]:
    """Makes Celery's list of requests hold one for a drain."""

    def add(lane: str, token: str) -> None:
        state.requests[token] = SimpleNamespace(id=token, args=[lane])

    yield add
    state.requests.clear()


class Exits:
    """Stands where the end of the process does."""

    def __init__(self) -> None:
        self.codes: list[int] = []

    def __call__(self, code: int) -> None:
        self.codes.append(code)


@pytest.fixture
def make() -> Iterator[Callable[[Settings], tuple[Grace, Stopping, Exits]]]:
    made: list[Grace] = []

    def start(site: Settings) -> tuple[Grace, Stopping, Exits]:
        flag, exits = Stopping(), Exits()
        made.append(Grace(site, flag, exits))
        return made[-1], flag, exits

    yield start
    for grace in made:
        grace.call_off()


def test_what_runs_when_the_time_is_up_goes_back_without_penalty(
    settings: MakeSettings,
    lab: Any,
    running: Any,
    make: Any,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    uids, token = lab.submit(3), new_uid()
    running(lab.lane.name, token)
    claimed = lab.claim(token)
    assert lab.record(uids[0]).attempts == 1
    grace, flag, exits = make(settings(grace_s=0.05))
    with caplog.at_level(logging.WARNING):
        grace.begin(exitcode=3)
        wait_until(lambda: exits.codes, "the process leaves")
    assert exits.codes == [3]
    assert flag.is_set()
    assert "handed back 3 jobs; they wait for another worker" in caplog.text
    assert [lab.record(uid).state for uid in uids] == [State.QUEUED] * 3
    assert [lab.record(uid).attempts for uid in uids] == [0] * 3
    assert not lab.settle(claimed), "the thread that still runs must write nothing"
    assert lab.claim(new_uid()).uids == uids


def test_drains_of_others_keep_running(
    settings: MakeSettings, lab: Any, running: Any, make: Any, wait_until: WaitUntil
) -> None:
    lab.submit(3)
    claimed = lab.claim(new_uid())
    running(lab.lane.name, new_uid())
    grace, _, exits = make(settings(grace_s=0))
    grace.begin()
    wait_until(lambda: exits.codes == [0], "the process leaves")
    assert lab.settle(claimed)


def test_a_worker_whose_drains_end_in_time_just_ends(
    settings: MakeSettings, make: Any, wait_until: WaitUntil
) -> None:
    grace, flag, exits = make(settings(grace_s=60))
    grace.begin()
    wait_until(flag.is_set, "drains are told")
    grace.call_off()
    assert exits.codes == []


def test_redis_that_does_not_answer_keeps_nobody_from_leaving(
    settings: MakeSettings,
    running: Any,
    make: Any,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running("affine@1", new_uid())
    grace, _, exits = make(settings(grace_s=0, redis_url="redis://127.0.0.1:1/0"))
    grace.begin()
    wait_until(lambda: exits.codes == [0], "the process leaves", timeout=5)
    assert "what ran waits again when its lease runs out" in caplog.text


def test_it_begins_in_a_handler_whatever_is_interrupted(
    settings: MakeSettings, make: Any, wait_until: WaitUntil
) -> None:
    """Signals come while the main thread holds locks; the handler must not wait for one."""
    grace, flag, exits = make(settings(grace_s=60))
    before = signal.signal(signal.SIGUSR2, lambda *_: grace.begin(exitcode=1))
    try:
        with flag._event._cond, logging._lock:  # type: ignore[attr-defined]
            for _ in range(100_000):  # more than a pipe holds, if every byte had to be read
                grace.begin()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
        wait_until(flag.is_set, "drains are told")
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert exits.codes == []
