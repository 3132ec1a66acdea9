"""A version is pushed, promoted, rolled back and retired while jobs come in, and none is harmed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

from umbel import Client, Job
from umbel_batching.lanes import slot_of
from umbel_config.settings import Settings
from umbel_registry import ArtifactStore, Catalog, TrafficControl, export_model, push

#: Seconds between two jobs.
PAUSE_S = 0.02


class Trickle:
    """Submits one job after the other, and keeps them with what they gave.

    Args:
        settings: of the store.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.jobs: list[Job] = []
        self.outputs: list[float] = []
        self._stop = threading.Event()

    def run(self) -> None:
        with Client(settings=self._settings) as client:
            while not self._stop.wait(PAUSE_S):
                self.jobs.append(client.submit("sum", [1.0, 2.0, 3.0, 4.0]))
                self.outputs.append(float(self.jobs[-1].result(timeout=30)[0]))

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()


@pytest.fixture
def second_folder(tmp_path: Path) -> Path:
    """A version that gives twice what the first one does."""
    module = torch.nn.Linear(4, 2)
    with torch.no_grad():
        module.weight.fill_(2.0)
        module.bias.zero_()
    return export_model(module, [0.0] * 4, tmp_path / "second", name="sum")


def test_versions_come_and_go_under_load_and_no_job_is_harmed(
    shared: Any,
    store_redis: Any,
    push_model: Any,
    second_folder: Path,
    wait_until: Callable[..., None],
) -> None:
    push_model(shared)
    settings = shared.settings()
    traffic = TrafficControl(store_redis, settings.namespace)
    traffic.route("sum", {"1": 1})
    trickle = Trickle(settings)
    with shared.running("worker") as worker:
        wait_until(lambda: "ready." in worker.text, "the worker is ready", 60)
        with trickle.running():
            wait_until(lambda: 10.0 in trickle.outputs, "version 1 answers")
            catalog = Catalog(store_redis, settings.namespace)
            push(second_folder, catalog=catalog, store=ArtifactStore(settings.artifacts))
            for word, answer in (("promote", 20.0), ("rollback", 10.0), ("promote", 20.0)):
                shared.run("models", word, "sum", *(["2"] if word == "promote" else []))
                wait_until(lambda a=answer: trickle.outputs[-1] == a, f"{word} is felt")
            shared.run("models", "retire", "sum", "1")
            told = len(trickle.outputs)
            wait_until(lambda: len(trickle.outputs) > told + 5, "jobs go on")
    assert len(trickle.outputs) == len(trickle.jobs)
    with Client(settings=settings) as client:
        versions = [client.job(job.id).info().version for job in trickle.jobs]
    assert [float(version) * 10 for version in versions] == trickle.outputs
    slots = [job.id.partition("-")[0] for job in trickle.jobs]
    assert slots == [slot_of(f"sum@{version}") for version in versions]
    assert [version for version, _ in groupby(versions)] == ["1", "2", "1", "2"]
    whats = [change.what for change in traffic.history("sum") if change.what != "warm"]
    assert whats == ["retire", "promote", "roll back", "promote", "route"]
    assert "lease lost" not in worker.text
