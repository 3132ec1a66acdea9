"""A sender looks after routes as every worker does, but loads no torch and serves no model."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from umbel_callbacks import new_secret
from umbel_registry import ArtifactStore, TrafficControl
from umbel_registry.fleet import Fleet
from umbel_registry.keepsake import Keepsake

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register, WaitUntil

#: Found and run by each Python process that starts with its folder in the path.
AT_ITS_END = """
import atexit, json, os, sys

def tell():
    found = [name in sys.modules for name in ("umbel_worker.conductor", "torch")]
    with open(os.environ["TEST_MODULES"], "a") as told:
        told.write(json.dumps(found))

atexit.register(tell)
"""


def test_a_sender_keeps_routes_but_neither_loads_torch_nor_reports_itself(
    settings: MakeSettings,
    register: Register,
    shared: Any,
    store_redis: redis.Redis,
    tmp_path: Path,
    wait_until: WaitUntil,
) -> None:
    site, told = settings(), tmp_path / "modules.json"
    manifest = register(site)
    control = TrafficControl(store_redis, site.namespace)
    control.route("affine", {"1": 1})
    control.want("affine", "1", 60)
    (tmp_path / "sitecustomize.py").write_text(AT_ITS_END)
    shared.variables |= {"PYTHONPATH": str(tmp_path), "TEST_MODULES": str(told)}
    shared.variables["UMBEL_CALLBACK_SECRETS"] = new_secret()
    kept = Keepsake(ArtifactStore(site.artifacts), control)
    with shared.running("sender") as sender:
        wait_until(lambda: kept.read("affine"), "it keeps the routes", 40)
        fleet = Fleet(store_redis, site.namespace)
        assert fleet.reports() == []
        assert fleet.readiness(manifest).slots == 0
        sender.send(signal.SIGTERM)
        assert sender.wait() == 0, sender.text
    assert json.loads(told.read_text()) == [True, False]
    assert "Traceback" not in sender.text
