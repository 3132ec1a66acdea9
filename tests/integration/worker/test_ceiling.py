"""The largest batch that fits: found by one worker, kept for all, tried anew later."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from umbel import Client, Job
from umbel_batching.lanes import new_uid
from umbel_config.settings import Settings
from umbel_worker.drain import Drainer
from umbel_worker.rounds import Tally
from umbel_worker.runtime import make_drainer

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register

LANE = "affine@1"


@pytest.fixture
def site(settings: MakeSettings, register: Register) -> Settings:
    made = settings(allowed_modules=("umbel_test_handlers",), device="cpu")
    register(made, handler="Narrow", max_batch_size=16)
    return made


@pytest.fixture
def drainers(site: Settings) -> Iterator[tuple[Drainer, Drainer]]:
    """Two workers of the same kind."""
    made = make_drainer(site, threading.Event()), make_drainer(site, threading.Event())
    yield made
    for each in made:
        each.leases.stop()
        each.runner.client.close()


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many rows fit into memory."""
    return lambda rows: monkeypatch.setenv("TEST_ROOM", str(rows))


@pytest.fixture
def run(client: Client) -> Callable[[Drainer, int], Tally]:
    """Has a worker drain the lane of so many jobs, and looks at each result."""

    def run(drainer: Drainer, count: int) -> Tally:
        rows = np.arange(4 * count, dtype=np.float32).reshape(count, 4)
        jobs: list[Job] = client.submit_many("affine", rows)
        tally = drainer.drain(LANE, new_uid())
        np.testing.assert_array_equal(np.stack([job.result(timeout=5) for job in jobs]), rows)
        return tally

    return run


def ceiling(lab: Any) -> int:
    return int(lab.client.hget(lab.keys.lane, "ceiling:cpu") or 0)


def test_ceiling_is_shared_and_tried_upwards(
    drainers: tuple[Drainer, Drainer], room: Any, run: Any, lab: Any, aged: Any
) -> None:
    first, second = drainers
    room(5)
    assert run(first, 32).batches == 1 + 16 / 4, "one too large, then fours"
    assert ceiling(lab) == 4
    assert run(second, 16).batches == 4, "the other worker knows without trying"

    aged()
    assert run(second, 16).batches == 1 + 8 / 4, "a probe of eight still fails"
    assert ceiling(lab) == 4

    room(8)
    aged()
    assert run(first, 24).batches == 4, "a probe of eight fits; four were claimed meanwhile"
    assert ceiling(lab) == 8

    room(100)
    aged()
    assert run(second, 48).batches == 4, "a full batch fits: no ceiling behind that of meanwhile"
    assert ceiling(lab) == 0
    assert run(first, 32).batches == 2


def test_ceiling_holds_for_one_kind_of_device(room: Any, run: Any, lab: Any, drainers: Any) -> None:
    lab.client.hset(lab.keys.lane, "ceiling:cuda:X", 2)
    room(16)
    assert run(drainers[0], 16).batches == 1


def test_new_ceiling_is_told_once(
    drainers: Any, room: Any, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    room(4)
    run(drainers[0], 32)
    told = [line for line in caplog.messages if "at once fit into the memory of cpu" in line]
    assert len(told) == 1
    assert "of 16 jobs, 4 at once" in told[0]
