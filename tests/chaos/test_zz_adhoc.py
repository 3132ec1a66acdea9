from __future__ import annotations
import time
import numpy as np
import pytest
from umbel import Client
from umbel_registry import TrafficControl
from umbel_registry.fleet import Fleet
pytestmark = pytest.mark.chaos

@pytest.mark.timeout(200)
def test_probe(settings, register, start_worker, store_redis, namespace, wait_until, feed):
    site = settings(pool="prefork", concurrency=2, torch_threads=1, lease_ms=1000)
    register(site)
    control = TrafficControl(store_redis, namespace)
    control.route("affine", {"1": 1})
    worker = start_worker(site, TEST_FUSE="1")
    register(site, handler="Bomb")
    jobs = feed(site)
    control.want("affine", "2", 100)
    t0 = time.monotonic()
    seen = set()
    while time.monotonic() < t0 + 50:
        for r in Fleet(store_redis, namespace).reports():
            h = r.of("affine", "2")
            key = (r.process, h.state if h else None)
            if key not in seen:
                seen.add(key); print(round(time.monotonic()-t0,1), key, (h.error[:60] if h else ""))
        time.sleep(0.1)
    print("alive", worker.alive, "done", sum(j.done() for _, j in jobs.jobs[::50]), len(jobs.jobs[::50]))
    print(jobs.stop())
    print(worker.log.read_text()[-6000:])
