"""Runs the command line inside the test process, and gives it models to talk about."""

from __future__ import annotations

import functools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import redis
import typer.main
import typer.testing
from typer.testing import CliRunner

from umbel_batching.calls import Calls
from umbel_batching.policy import BatchPolicy
from umbel_batching.scripts import Runner
from umbel_cli.main import app
from umbel_registry import Catalog, Manifest, Signature, TensorSpec
from umbel_registry.fleet import Fleet, Held, Report
from umbel_registry.manifest import ModelFile, build_manifest
from umbel_registry.paths import FileInfo


@dataclass(frozen=True)
class Answer:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Run(Protocol):
    """The ``run`` fixture."""

    def __call__(self, *words: str, stdin: str | None = None) -> Answer:
        """Runs ``umbel`` with these words."""


class Register(Protocol):
    """The ``register`` fixture."""

    def __call__(self, name: str, version: str = "1", /, **inputs: TensorSpec) -> Manifest:
        """Makes a version of a model known that nobody can run."""


class Serve(Protocol):
    """The ``serve`` fixture."""

    def __call__(self, worker: str, *held: Held, slots: int = 1) -> None:
        """Tells what a worker of the queue ``umbel`` has loaded, as if it lived."""


#: Typer makes all commands anew for each call, which takes longer than most of them do.
_command_of = functools.cache(typer.main.get_command)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(typer.testing, "_get_command", _command_of)

    def call(*words: str, stdin: str | None = None) -> Answer:
        result = CliRunner().invoke(app, list(words), input=stdin, prog_name="umbel")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return Answer(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture
def run_here(
    run: Run, redis_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """``run`` on this test's Redis and namespace."""
    monkeypatch.setenv("UMBEL_REDIS_URL", redis_url)
    monkeypatch.setenv("UMBEL_NAMESPACE", namespace)
    monkeypatch.setenv("UMBEL_STATE_DIR", str(tmp_path / "state"))
    return run


@pytest.fixture
def register(store_redis: redis.Redis, namespace: str) -> Register:
    def make(name: str, version: str = "1", /, **inputs: TensorSpec) -> Manifest:
        model = ModelFile(
            name=name,
            format="torch_export",
            weights="model.pt2",
            inputs=inputs or {"x": TensorSpec(dtype="float32", shape=(3,))},
            outputs={"y": TensorSpec(dtype="float32", shape=(1,))},
            batching=BatchPolicy(max_batch_size=8),
            description="made up [for a test]",
        )
        files = {"model.pt2": FileInfo(sha256="0" * 64, bytes=2048)}
        manifest = build_manifest(model, files, version)
        Catalog(store_redis, namespace).register(manifest)
        return manifest

    return make


@pytest.fixture
def serve(store_redis: redis.Redis, namespace: str) -> Serve:
    def tell(worker: str, *held: Held, slots: int = 1) -> None:
        announced = Calls(namespace).announce("umbel", worker, slots=slots, stale_ms=10_000)
        Runner(store_redis).run(announced)
        report = Report(worker, worker, slots, ("umbel",), held)
        Fleet(store_redis, namespace).tell(report, int(time.time() * 1000))

    return tell


@pytest.fixture
def signature() -> Signature:
    return Signature(
        inputs={"x": TensorSpec(dtype="float32", shape=(3,))},
        outputs={"y": TensorSpec(dtype="float32", shape=(1,))},
    )
