"""A process of the pool dies in a batch: taken back at once, with the cause as evidence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from umbel import Client, Job, JobFailed
from umbel_batching.census import JobInfo

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register, Worker

pytestmark = pytest.mark.chaos
QUITTER, WILD = 18.0, 19.0
#: Far beyond the patience of the test: no lease runs out by itself.
LEASE_MS = 600_000


def poisoned(value: float) -> Any:
    rows = np.arange(256, dtype=np.float32).reshape(64, 4) + 200
    rows[21, 0] = value
    return rows


def settled(jobs: list[Job], rows: Any, guilty: int) -> JobInfo:
    """Looks at 63 outcomes, and returns the story of the job at fault."""
    for place, job in enumerate(jobs):
        if place != guilty:
            np.testing.assert_array_equal(job.result(timeout=60), rows[place] * 2 + 1)
    with pytest.raises(JobFailed, match="WorkerLost"):
        jobs[guilty].result(timeout=60)
    return jobs[guilty].info()


def test_poison_is_found_without_waiting_for_a_lease(
    settings: MakeSettings,
    register: Register,
    start_worker: Callable[..., Worker],
    witness: Any,
) -> None:
    site = settings(
        allowed_modules=("umbel_test_handlers",), lease_ms=LEASE_MS, pool="prefork", device="cpu"
    )
    register(site, max_batch_size=64)
    seen = witness(site)
    worker = start_worker(site)
    with Client(settings=site) as client:
        for value, cause in (
            (QUITTER, "ended by itself with exit code 7"),
            (WILD, "killed by SIGSEGV"),
        ):
            rows = poisoned(value)
            told = settled(client.submit_many("affine", rows), rows, 21)
            assert told.attempts == 3
            assert [event.what for event in told.history] == ["lost"] * 3
            assert {event.cause for event in told.history} == {cause}
            assert len({event.batch_id for event in told.history}) == 3
    lane = seen.lane()
    assert (lane.succeeded, lane.failed, lane.leases_lost) == (126, 2, 6)
    assert (lane.waiting, lane.running, lane.dead) == (0, 0, 2)
    assert seen.look() == 128
    assert seen.changed == []
    log = worker.log.read_text()
    assert "Traceback" not in log
    assert log.count("which ran a batch of it, was killed by SIGSEGV") == 3
    assert log.count("which ran a batch of it, ended by itself with exit code 7") == 3
