"""Runs the command line inside the test process, and gives it models to talk about."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import redis
from typer.testing import CliRunner

from umbel_batching.policy import BatchPolicy
from umbel_cli.main import app
from umbel_registry import Catalog, Manifest, Signature, TensorSpec
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

    def __call__(self, name: str, **inputs: TensorSpec) -> Manifest:
        """Makes a model known that nobody can run."""


@pytest.fixture
def run() -> Run:
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
    def make(name: str, **inputs: TensorSpec) -> Manifest:
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
        manifest = build_manifest(model, files, "1")
        Catalog(store_redis, namespace).register(manifest)
        return manifest

    return make


@pytest.fixture
def signature() -> Signature:
    return Signature(
        inputs={"x": TensorSpec(dtype="float32", shape=(3,))},
        outputs={"y": TensorSpec(dtype="float32", shape=(1,))},
    )
