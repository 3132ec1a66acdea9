"""Workers are told to stop: what they finish in time is kept, the rest goes on elsewhere."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from umbel import Client, UmbelError
from umbel_config.connect import connect

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register, WaitUntil, Worker

pytestmark = pytest.mark.chaos
Start = Callable[..., "Worker"]
MODULES = ("umbel_test_handlers",)
#: Far beyond the patience of a test: no lease runs out by itself.
LEASE_MS = 600_000
GRACE_S = 1.0


def rows(count: int) -> Any:
    return np.arange(4 * count, dtype=np.float32).reshape(count, 4) + 100


def ended(worker: Worker) -> bool:
    return worker._process.poll() is not None


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_batch_that_outlasts_the_grace_time_is_handed_back(
    settings: MakeSettings,
    register: Register,
    start_worker: Start,
    serve: Callable[..., Any],
    witness: Any,
    wait_until: WaitUntil,
    tmp_path: Path,
    pool: str,
) -> None:
    site = settings(
        allowed_modules=MODULES, lease_ms=LEASE_MS, grace_s=GRACE_S, pool=pool, device="cpu"
    )
    register(site, max_batch_size=64)
    seen = witness(site)
    stuck = start_worker(site, TEST_GATE=str(tmp_path / "never"))
    with Client(settings=site) as client:
        jobs = client.submit_many("affine", rows(64))
        wait_until(lambda: seen.lane().running == 1, "the batch runs")
        asked = time.monotonic()
        stuck._process.send_signal(signal.SIGTERM)  # the parent alone, as a supervisor may
        wait_until(lambda: ended(stuck), "the worker is gone", timeout=GRACE_S + 4)
        assert time.monotonic() - asked >= GRACE_S
        assert stuck._process.returncode == 0
        assert (seen.lane().waiting, seen.lane().running) == (64, 0)
        assert seen.lane().slots == 0, "flushers must not count on it any more"

        serve(site)
        outs = [job.result(timeout=30) for job in jobs]
        np.testing.assert_array_equal(np.stack(outs), rows(64) * 2 + 1)
        assert {job.info().attempts for job in jobs} == {1}
    log = stuck.log.read_text()
    assert log.count("handed back 64 jobs; they wait for another worker") == 1
    assert "Traceback" not in log
    assert seen.look() == 64
    assert seen.lane().leases_lost == 0


def test_drain_in_a_pool_process_ends_with_its_batch(
    settings: MakeSettings,
    register: Register,
    start_worker: Start,
    witness: Any,
    wait_until: WaitUntil,
) -> None:
    """Neither its budget nor the grace time would end it before the test gives up."""
    site = settings(
        allowed_modules=MODULES,
        lease_ms=LEASE_MS,
        grace_s=600,
        drain_budget_ms=600_000,
        pool="prefork",
        device="cpu",
    )
    register(site, max_batch_size=4)
    seen = witness(site)
    worker = start_worker(site, TEST_PAUSE_MS="150")
    with Client(settings=site) as client:
        client.submit_many("affine", rows(2000))
        wait_until(lambda: seen.lane().succeeded >= 8, "batches flow")
        worker._process.send_signal(signal.SIGTERM)
        wait_until(lambda: ended(worker), "the worker is gone", timeout=15)
        assert worker._process.returncode == 0
    lane = seen.lane()
    assert lane.running == 0, "the batch that ran is settled"
    assert lane.succeeded % 4 == 0
    assert lane.succeeded + lane.waiting == 2000
    assert lane.waiting > 1000
    log = worker.log.read_text()
    assert "handed back" not in log
    assert "Traceback" not in log


def test_workers_put_the_models_back_after_a_loss_of_data(
    settings: MakeSettings,
    register: Register,
    start_worker: Start,
    own_redis: Callable[..., Any],
    wait_until: WaitUntil,
) -> None:
    site = settings(redis_url=own_redis().url, allowed_modules=MODULES, device="cpu")
    register(site)
    worker = start_worker(site)
    with Client(settings=site) as client:
        assert client.submit("affine", rows(1)[0]).result(timeout=30) is not None
    with connect(site) as redis:
        redis.flushall()

    def serves() -> bool:
        try:
            with Client(settings=site) as fresh:
                out = fresh.submit("affine", rows(1)[0]).result(timeout=10)
        except UmbelError:
            return False
        return bool((out == rows(1)[0] * 2 + 1).all())

    wait_until(serves, "jobs are accepted and computed again", timeout=30)
    log = worker.log.read_text()
    assert log.count("Redis lost its data: re-registered 1 model") == 1
    assert "Traceback" not in log
