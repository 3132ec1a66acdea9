"""A process of the pool dies in a batch: taken back at once, with the cause as evidence."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from umbel import Client, Job, JobFailed

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register, Worker

pytestmark = pytest.mark.chaos
QUITTER, WILD = 18.0, 19.0
#: Far beyond the patience of the test: no lease runs out by itself.
LEASE_MS = 600_000
EXIT_CODE, SEGFAULT = "ended by itself with exit code 7", "killed by SIGSEGV"


def test_poison_is_found_without_waiting_for_a_lease(
    settings: MakeSettings,
    register: Register,
    start_worker: Callable[..., Worker],
    witness: Any,
) -> None:
    site = settings(
        allowed_modules=("umbel_test_handlers",),
        lease_ms=LEASE_MS,
        max_attempts=2,
        pool="prefork",
        device="cpu",
    )
    register(site, max_batch_size=64)
    seen = witness(site)
    worker = start_worker(site)
    rows = np.arange(256, dtype=np.float32).reshape(64, 4) + 200
    rows[21, 0], rows[50, 0] = QUITTER, WILD
    with Client(settings=site) as client:
        jobs = client.submit_many("affine", rows)
        quitter, wild = jobs.pop(21), jobs.pop(49)
        good = np.delete(rows, [21, 50], axis=0)
        np.testing.assert_array_equal(
            np.stack([job.result(timeout=100) for job in jobs]), good * 2 + 1
        )
        assert causes(quitter) == [EXIT_CODE] * 2
        assert causes(wild) == [EXIT_CODE, SEGFAULT], "in the first batch it came second"
    lane = seen.lane()
    assert (lane.succeeded, lane.failed, lane.leases_lost) == (62, 2, 3)
    assert (lane.waiting, lane.running, lane.dead) == (0, 0, 2)
    assert seen.look() == 64
    assert seen.changed == []
    log = worker.log.read_text()
    assert "Traceback" not in log
    assert log.count(f"which ran a batch of it, was {SEGFAULT}") == 1
    assert log.count(f"which ran a batch of it, {EXIT_CODE}") == 2
    hints = re.findall(r"umbel\.infer\[(\w+)\] received", log)
    assert len(hints) == len(set(hints)) >= 4, "no hint of the dead comes back under its old token"


def causes(job: Job) -> list[str]:
    """The evidence that a dead letter shows."""
    with pytest.raises(JobFailed, match="WorkerLost"):
        job.result(timeout=60)
    told = job.info()
    assert told.attempts == 2
    assert [event.what for event in told.history] == ["lost"] * 2
    assert len({event.batch_id for event in told.history}) == 2
    return [event.cause for event in told.history]
