"""Versions change while whoever drives it dies: it goes on where it was, and jobs see nothing."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from umbel import Client
from umbel_batching.lanes import slot_of, split_id
from umbel_config.connect import connect
from umbel_config.settings import Settings
from umbel_registry import ArtifactStore, Catalog, TrafficControl, promotion, push
from umbel_registry.fleet import Fleet
from umbel_registry.keepsake import Keepsake
from umbel_registry.traffic import Canary, Traffic

if TYPE_CHECKING:  # the fixtures of the tests' root
    from faults.feed import Feed
    from tests.conftest import MakeSettings, Register, WaitUntil, Worker

pytestmark = pytest.mark.chaos
Start = Callable[..., "Worker"]
MODULES = ("umbel_test_handlers", "only_here")
HANDLERS = Path(__file__).parents[1] / "handlers"
LACKING = {"PYTHONPATH": str(HANDLERS)}


class Site:
    """A registry, and what it says of model ``affine``."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.client = settings, connect(settings)
        self.control = TrafficControl(self.client, settings.namespace, who="test")
        self.fleet = Fleet(self.client, settings.namespace)

    @property
    def traffic(self) -> Traffic:
        return self.control.read("affine").traffic

    @property
    def weights(self) -> dict[str, float]:
        route = self.control.read("affine").route
        assert route is not None
        return route.weights

    @property
    def canary(self) -> Canary:
        found = self.traffic.canary
        assert found is not None
        return found

    def reaches(self, step: int) -> Callable[[], bool]:
        """Whether the canary has come so far, or is at its end."""
        return lambda: self.canary.step >= step or not self.canary.under_way

    def promote(self, version: str) -> None:
        promotion.promote(self.control, self.fleet, "affine", version, timeout_s=30)


def start_all(start_worker: Start, *sites: Settings, **environment: str) -> list[Worker]:
    """Starts workers side by side."""
    with ThreadPoolExecutor(len(sites)) as pool:
        return [*pool.map(lambda site: start_worker(site, **environment), sites)]


def test_a_canary_goes_on_whoever_dies_and_its_route_outlives_the_data_of_redis(
    settings: MakeSettings,
    register: Register,
    start_worker: Start,
    own_redis: Callable[..., Any],
    umbel: Callable[..., Any],
    feed: Callable[..., Feed],
    wait_until: WaitUntil,
) -> None:
    server = own_redis("--appendonly", "yes", "--appendfsync", "always")
    made = settings(redis_url=server.url, lease_ms=1000, torch_threads=1, allowed_modules=MODULES)
    register(made)
    site = Site(made)
    site.control.route("affine", {"1": 1})
    site.control.alias("affine", {"stable": "1"})
    register(made, max_wait_ms=3)
    workers = start_all(start_worker, made, made)
    jobs = feed(made)
    steps = ("--steps", "10,20,40,60,100", "--every", "1s", "--min-jobs", "10")
    command = umbel(made, "models", "canary", "affine", "2", *steps)
    wait_until(lambda: "stepping at 10 %" in command.text, "the first step", 40)

    command.kill()
    workers[0].kill()
    wait_until(site.reaches(1), "one worker is enough for the next step", 40)
    server.kill()
    server.start()
    wait_until(site.reaches(site.canary.step + 1), "Redis came back with its data", 40)
    workers[1].kill()
    before = site.canary
    assert before.under_way
    start_worker(made)
    wait_until(lambda: not site.canary.under_way, "a new worker goes on to the end", 60)
    assert (site.canary.state, site.canary.started_ms) == ("promoted", before.started_ms)
    assert {end for counts in jobs.stop().values() for end in counts} == {"succeeded"}

    comes_back_without_data(site, wait_until)


def comes_back_without_data(site: Site, wait_until: WaitUntil) -> None:
    """Has Redis lose all that it holds: jobs go the same way as soon as models are known again."""
    made, traffic = site.settings, site.traffic
    kept = Keepsake(ArtifactStore(made.artifacts), site.control)
    wait_until(lambda: (found := kept.read("affine")) and found.state == traffic, "it is kept")
    site.client.flushall()
    wait_until(lambda: Catalog(site.client, made.namespace).names(), "models are known again", 40)
    wait_until(lambda: site.traffic.route is not None, "routes are known again")
    assert (site.weights, site.traffic.aliases) == ({"2": 1}, {"stable": "1"})
    assert site.control.history("affine")[0].what == "restore"
    row = np.full(4, 200, np.float32)
    with Client(settings=made) as client:
        for version, chosen in ((None, "2"), ("stable", "1")):
            job = client.submit("affine", row, version=version)
            assert job.result(timeout=30)[0] == 401
            assert job.id.startswith(slot_of(f"affine@{chosen}"))


GATED = """
from pathlib import Path
from threading import Event

from umbel_test_handlers import Affine


class Gated(Affine):
    def __init__(self, folder: Path, device: str) -> None:
        super().__init__(folder, device)
        while not (Path(__file__).parent / "gate").exists():
            Event().wait(0.01)
"""


@pytest.fixture
def only_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module of its own, whose model loads once a file ``gate`` is there too."""
    folder = tmp_path / "only-here"
    folder.mkdir()
    (folder / "only_here.py").write_text(GATED)
    monkeypatch.syspath_prepend(folder)
    yield folder
    (folder / "gate").touch()
    sys.modules.pop("only_here", None)


def push_gated(site: Site, folder: Path, gate: Path) -> None:
    """Makes the next version of ``affine`` known, which is a model of that module."""
    floats = {"dtype": "float32", "shape": [4]}
    content = {"name": "affine", "format": "handler", "handler": "only_here:Gated"}
    folder.mkdir()
    (folder / "model.yaml").write_text(
        yaml.safe_dump(content | {"inputs": {"x": floats}, "outputs": {"y": floats}})
    )
    gate.touch()
    catalog = Catalog(site.client, site.settings.namespace)
    store = ArtifactStore(site.settings.artifacts)
    push(folder, catalog=catalog, store=store, allowed_modules=MODULES)
    gate.unlink()


def test_a_promotion_that_is_refused_or_killed_leaves_the_route_as_it_was(
    settings: MakeSettings,
    register: Register,
    start_worker: Start,
    umbel: Callable[..., Any],
    feed: Callable[..., Feed],
    only_here: Path,
    tmp_path: Path,
    wait_until: WaitUntil,
) -> None:
    made, gate = settings(torch_threads=1, allowed_modules=MODULES), only_here / "gate"
    register(made)
    site = Site(made)
    site.control.route("affine", {"1": 1})
    push_gated(site, tmp_path / "gated", gate)
    with ThreadPoolExecutor(2) as pool:
        both = {"PYTHONPATH": f"{HANDLERS}:{only_here}", "UMBEL_ALLOWED_MODULES": ",".join(MODULES)}
        here, there = pool.map(lambda path: start_worker(made, **both | path), ({}, LACKING))
    jobs = feed(made)

    refused = umbel(made, "models", "promote", "affine", "2")
    wait_until(lambda: refused.code is not None, "it is refused", 40)
    assert refused.code == 1
    assert re.search(rf"could not be loaded. \S+:{there.pid}: .*No module named", refused.text)
    assert site.weights == {"1": 1}

    there.close()
    killed = umbel(made, "models", "promote", "affine", "2")
    wait_until(lambda: "0 of 1 worker slots have affine 2 loaded" in killed.text, "it waits", 40)
    killed.kill()
    gate.touch()
    manifest = site.control.read("affine").manifests["2"]
    wait_until(lambda: site.fleet.readiness(manifest).ready == 1, "the worker has loaded it")
    assert site.weights == {"1": 1}
    site.promote("2")
    assert site.weights == {"2": 1}
    wait_until(lambda: split_id(jobs.jobs[-1][1].id)[0] == slot_of("affine@2"), "jobs follow")
    assert {end for counts in jobs.stop().values() for end in counts} == {"succeeded"}
    assert "Traceback" not in here.log.read_text()


def test_each_process_of_a_pool_is_waited_for_and_one_that_takes_its_place_loads_as_much(
    settings: MakeSettings, register: Register, start_worker: Start, wait_until: WaitUntil
) -> None:
    made = settings(pool="prefork", concurrency=2, torch_threads=1, allowed_modules=MODULES)
    register(made)
    site = Site(made)
    site.control.route("affine", {"1": 1})
    worker = start_worker(made)
    register(made, max_wait_ms=3)
    site.promote("2")
    reports = site.fleet.reports()
    assert {report.worker.rpartition(":")[2] for report in reports} == {str(worker.pid)}
    loaded = {report.process: report.of("affine", "2") for report in reports}
    assert [held.state for held in loaded.values() if held] == ["ready", "ready"]
    killed = min(loaded)
    os.kill(int(killed.rpartition(":")[2]), signal.SIGKILL)

    def replaced() -> bool:
        others = {report.process: report.of("affine", "2") for report in site.fleet.reports()}
        states = {name: held.state for name, held in others.items() if held and name != killed}
        return [*states.values()] == ["ready", "ready"] and len(states.keys() - loaded.keys()) == 1

    wait_until(replaced, "another process has loaded what is wanted", 40)
    with Client(settings=made) as client:
        assert client.submit("affine", np.full(4, 200, np.float32)).result(timeout=30)[0] == 401
