"""Celery loses and doubles messages, Redis dies and comes back; jobs are late at most."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from umbel import Client, StoreUnavailable

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register, WaitUntil, Worker

pytestmark = pytest.mark.chaos
Start = Callable[..., "Worker"]


def rows(count: int) -> Any:
    return np.arange(4 * count, dtype=np.float32).reshape(count, 4) + 100


def test_hints_dropped_and_doubled_delay_at_most(
    settings: MakeSettings, register: Register, serve: Callable[..., Any], witness: Any
) -> None:
    site = settings(allowed_modules=("umbel_test_handlers",), drain_budget_ms=10)
    register(site, max_batch_size=16)
    seen = witness(site)
    dice = random.Random(11)
    serve(site, threads=3, deliver=lambda: dice.choices([0, 1, 2], [20, 60, 20])[0])
    with Client(settings=site) as client:
        jobs = client.submit_many("affine", rows(1500))
        outs = [job.result(timeout=60) for job in jobs]
        np.testing.assert_array_equal(np.stack(outs), rows(1500) * 2 + 1)
        assert seen.look() == 1500
    assert set(seen.published.values()) == {1}
    assert seen.changed == []
    assert seen.lane().succeeded == 1500


def test_redis_killed_and_restarted_while_jobs_flow(
    settings: MakeSettings,
    register: Register,
    own_redis: Callable[..., Any],
    start_worker: Start,
    witness: Any,
    wait_until: WaitUntil,
) -> None:
    """With ``appendfsync always`` no answered call is lost; all come back by themselves.

    Who waits for results sees nothing of the outage.
    """
    server = own_redis("--appendonly", "yes", "--appendfsync", "always")
    site = settings(redis_url=server.url, allowed_modules=("umbel_test_handlers",), lease_ms=1000)
    register(site, max_batch_size=16)
    seen = witness(site)
    worker = start_worker(site, TEST_PAUSE_MS="10")
    with Client(settings=site) as client, ThreadPoolExecutor(1) as pool:
        jobs = client.submit_many("affine", rows(3000))
        waiting = pool.submit(lambda: [job.result() for job in jobs])
        wait_until(lambda: seen.look() >= 300, "jobs flow")
        server.kill()
        assert not waiting.done()
        with pytest.raises(StoreUnavailable) as caught:
            client.submit("affine", rows(1)[0])
        assert caught.value.retryable
        server.start()
        np.testing.assert_array_equal(np.stack(waiting.result(timeout=90)), rows(3000) * 2 + 1)
        late = client.submit("affine", rows(1)[0])
        np.testing.assert_array_equal(late.result(timeout=60), rows(1)[0] * 2 + 1)
    assert seen.look() == 3001
    assert seen.changed == []
    assert seen.lane().succeeded == 3001
    assert "Traceback" not in worker.log.read_text().partition("Connection to broker lost")[0]
