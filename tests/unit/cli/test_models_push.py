"""``umbel models push`` says where a new version finds nobody to run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from umbel_batching.calls import Calls
from umbel_batching.scripts import Runner

HANDLERS = Path(__file__).parents[2] / "handlers"
MODULE = "umbel_test_handlers"
HINT = "No worker serves queue gpu yet. Start one: umbel up, or umbel worker --queues gpu"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder of a model for the queue ``gpu``."""
    monkeypatch.syspath_prepend(HANDLERS)
    monkeypatch.setenv("UMBEL_ALLOWED_MODULES", MODULE)
    floats = {"dtype": "float32", "shape": [4]}
    content = {
        "name": "affine",
        "format": "handler",
        "handler": f"{MODULE}:Affine",
        "inputs": {"x": floats},
        "outputs": {"y": floats},
        "queue": "gpu",
    }
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(content))
    return str(tmp_path)


def test_a_queue_without_a_worker_is_named(run_here: Any, folder: str) -> None:
    answer = run_here("models", "push", folder)
    assert answer.code == 0, answer.err
    assert "umbel submit affine --example" in answer.out
    assert HINT in answer.out


def test_where_a_worker_is_there_nothing_is_said(
    run_here: Any, folder: str, store_redis: redis.Redis, namespace: str
) -> None:
    call = Calls(namespace).announce("gpu", "host:1", slots=1, stale_ms=60_000)
    Runner(store_redis).run(call)
    assert "No worker" not in run_here("models", "push", folder).out


def test_json_is_not_spoilt_by_it(run_here: Any, folder: str) -> None:
    answer = run_here("models", "push", folder, "--json")
    assert json.loads(answer.out)["queue"] == "gpu"
