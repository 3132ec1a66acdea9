from __future__ import annotations
import time
from collections import Counter
import numpy as np
import pytest
from umbel import Client
from umbel_registry import TrafficControl
from umbel_batching.census import lane_statuses
pytestmark = pytest.mark.chaos

@pytest.mark.timeout(200)
def test_probe_shadow(settings, register, start_worker, store_redis, namespace, wait_until, tmp_path):
    site = settings(concurrency=1, torch_threads=1, lease_ms=2000)
    register(site); register(site, handler="Mine")
    control = TrafficControl(store_redis, namespace)
    control.route("affine", {"1": 1}, {"2": 1.0})
    deaths = []
    worker = start_worker(site)
    t0 = time.monotonic()
    kinds = Counter()
    with Client(settings=site) as client:
        jobs = []
        while time.monotonic() < t0 + 60:
            jobs += client.submit_many("affine", np.full((8, 4), 200, np.float32))
            if worker._process.poll() is not None:
                deaths.append(round(time.monotonic() - t0, 1))
                worker = type(worker)(site, f"x{len(deaths)}", tmp_path/f"x{len(deaths)}.log", {})
            time.sleep(0.1)
        for job in jobs:
            try:
                job.result(timeout=5); kinds["ok"] += 1
            except Exception as e:
                kinds[getattr(e, "kind", type(e).__name__)] += 1
    worker.close()
    print("deaths", deaths, kinds)
    for s in lane_statuses(store_redis, namespace): print(s)

@pytest.mark.timeout(200)
def test_probe_load(settings, register, start_worker, store_redis, namespace, wait_until, tmp_path):
    site = settings(concurrency=1, torch_threads=1, lease_ms=2000)
    register(site); register(site, handler="Bomb")
    control = TrafficControl(store_redis, namespace)
    control.route("affine", {"1": 1})
    deaths = []
    worker = start_worker(site, TEST_FUSE="1")
    t0 = time.monotonic()
    kinds = Counter()
    control.want("affine", "2", 100)
    with Client(settings=site) as client:
        jobs = []
        while time.monotonic() < t0 + 60:
            jobs += client.submit_many("affine", np.full((8, 4), 200, np.float32))
            if worker._process.poll() is not None:
                deaths.append(round(time.monotonic() - t0, 1))
                worker = type(worker)(site, f"x{len(deaths)}", tmp_path/f"x{len(deaths)}.log", {"TEST_FUSE": "1"})
            time.sleep(0.1)
        for job in jobs:
            try:
                job.result(timeout=5); kinds["ok"] += 1
            except Exception as e:
                kinds[getattr(e, "kind", type(e).__name__)] += 1
    worker.close()
    print("deaths", deaths, kinds)
    for s in lane_statuses(store_redis, namespace): print(s)
