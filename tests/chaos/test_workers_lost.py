"""Workers are killed and frozen in the middle of their work; every job has exactly one result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from umbel import Client, State
from umbel_config.settings import Settings

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register, WaitUntil, Worker

pytestmark = pytest.mark.chaos
Start = Callable[..., "Worker"]

PRODUCER = """
    import sys
    import numpy as np
    from umbel import Client
    rows = np.random.default_rng(int(sys.argv[1])).random((2500, 4), dtype=np.float32) + 200
    with Client() as client:
        jobs = client.submit_many("affine", rows)
        outs = np.stack([job.result(timeout=60) for job in jobs])
    assert (outs == rows * 2 + 1).all()
    print(*(job.id for job in jobs))
"""


def produce(site: Settings, seed: int) -> subprocess.Popen[str]:
    assert site.redis_url is not None
    own = {
        "UMBEL_REDIS_URL": site.redis_url.get_secret_value(),
        "UMBEL_NAMESPACE": site.namespace,
    }
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PRODUCER), str(seed)],
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def site(settings: MakeSettings, register: Register) -> Settings:
    made = settings(allowed_modules=("umbel_test_handlers",), lease_ms=1000, drain_budget_ms=300)
    register(made, max_batch_size=64, max_wait_ms=5)
    return made


def test_ten_thousand_jobs_survive_the_death_of_a_worker(
    site: Settings, start_worker: Start, witness: Any, wait_until: WaitUntil
) -> None:
    seen = witness(site)
    workers = [start_worker(site, TEST_PAUSE_MS="20") for _ in range(2)]
    producers = [produce(site, seed) for seed in range(4)]
    wait_until(lambda: seen.look() >= 1000, "a tenth is done")
    wait_until(lambda: seen.freezes_in_a_batch(workers[0].pid), "the victim is inside a batch")
    assert seen.look() < 10_000
    workers[0].kill()
    wait_until(lambda: seen.look() == 10_000, "all jobs are terminal", timeout=60)
    ids: list[str] = []
    for producer in producers:
        printed, _ = producer.communicate(timeout=30)
        assert producer.returncode == 0
        ids += printed.split()
    wait_until(lambda: seen.published.total() >= 10_000, "all outcomes are published")
    assert len(set(ids)) == 10_000
    assert set(seen.published) == set(ids)
    assert set(seen.published.values()) == {1}
    assert seen.look() == 10_000
    assert seen.changed == []
    lane = seen.lane()
    assert (lane.submitted, lane.succeeded, lane.failed) == (10_000, 10_000, 0)
    assert (lane.waiting, lane.running) == (0, 0)
    assert lane.leases_lost >= 1


def test_worker_frozen_beyond_its_lease_writes_nothing(
    site: Settings, start_worker: Start, witness: Any, wait_until: WaitUntil
) -> None:
    seen = witness(site)
    zombie, other = (start_worker(site, TEST_PAUSE_MS="30") for _ in range(2))
    rows = np.arange(8000, dtype=np.float32).reshape(2000, 4) + 100
    with Client(settings=site) as client:
        jobs = client.submit_many("affine", rows)
        wait_until(lambda: seen.freezes_in_a_batch(zombie.pid), "the zombie is inside a batch")
        outs = [job.result(timeout=60) for job in jobs]
        np.testing.assert_array_equal(np.stack(outs), rows * 2 + 1)
        assert seen.look() == 2000
        assert seen.lane().leases_lost >= 1
        zombie.signal(signal.SIGCONT)
        wait_until(lambda: "nothing was written" in zombie.log.read_text(), "the zombie notices")
        more = client.submit_many("affine", rows[:200])
        np.testing.assert_array_equal(
            np.stack([job.result(timeout=60) for job in more]), rows[:200] * 2 + 1
        )
    assert seen.look() == 2200
    assert seen.changed == []
    assert seen.states() == {State.SUCCEEDED: 2200}
    wait_until(lambda: seen.published.total() >= 2200, "all outcomes are published")
    assert set(seen.published.values()) == {1}
    assert seen.lane().succeeded == 2200
    assert "Traceback" not in other.log.read_text()
