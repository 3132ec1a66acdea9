"""``umbel models restore``, and the copy that commands keep for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from umbel_batching.keys import workers_key
from umbel_registry import ArtifactStore, Catalog, Manifest, TensorSpec, TrafficControl
from umbel_registry.keys import traffic_key
from umbel_registry.manifest import ModelFile, build_manifest
from umbel_registry.paths import hash_file

Lose = Callable[[], None]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state" / "artifacts"


@pytest.fixture
def control(store_redis: redis.Redis, namespace: str, root: Path, tmp_path: Path) -> TrafficControl:
    """Of a model ``reader`` with two versions that lie in the artifact root."""
    for version in ("1", "2"):
        Catalog(store_redis, namespace).register(stored(root, tmp_path, version))
    return TrafficControl(store_redis, namespace, who="ann@test")


def stored(root: Path, tmp_path: Path, version: str) -> Manifest:
    folder = tmp_path / version
    folder.mkdir()
    (folder / "weights").write_text(version)
    model = ModelFile(
        name="reader",
        format="torch_export",
        weights="weights",
        inputs={"x": TensorSpec(dtype="float32", shape=(3,))},
        outputs={"y": TensorSpec(dtype="float32", shape=(1,))},
    )
    manifest = build_manifest(model, {"weights": hash_file(folder / "weights")}, version)
    return ArtifactStore(root).put(folder, manifest)


@pytest.fixture
def lose(store_redis: redis.Redis, namespace: str) -> Lose:
    def lose() -> None:
        for key in store_redis.scan_iter(match=f"{namespace}*", count=1000):
            store_redis.delete(key)

    return lose


@pytest.fixture
def changed(run_here: Any, control: TrafficControl, root: Path, namespace: str) -> Path:
    """Some traffic, set by commands, and where it is kept."""
    for words in (
        ("alias", "reader", "production=1"),
        ("route", "reader", "1=90", "2=10"),
        ("policy", "reader", "1", "max_wait_ms=2"),
    ):
        assert run_here("models", *words).code == 0
    return root / "reader" / f"traffic-{namespace}.json"


def test_versions_and_what_commands_changed_come_back(
    run_here: Any, control: TrafficControl, changed: Path, lose: Lose
) -> None:
    before = control.read("reader").traffic
    lose()
    answer = run_here("models", "restore")
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[:3] == ["registered reader 1", "registered reader 2", "put back"]
    assert lines[3].startswith("reader  as kept of change 3 by ")
    assert "  route: none -> 1=90 2=10" in lines
    assert control.read("reader").traffic == before
    assert json.loads(changed.read_text())["number"] == 4
    assert run_here("models", "restore").out == "Nothing is missing.\n"
    told = run_here("models", "restore", "--json").json
    assert told == {"versions": [], "traffic": [], "problems": []}


@pytest.mark.parametrize(
    "words",
    [
        ("alias", "reader", "production=1"),
        ("route", "reader", "1=90", "2=10"),
        ("rollback", "reader"),
        ("promote", "reader", "1", "--now"),
        ("retire", "reader", "1"),
        ("policy", "reader", "1", "max_wait_ms=2"),
        ("canary", "reader", "1", "--detach"),
        ("warm", "reader", "1"),
        ("apply", "models.yaml", "--yes"),
    ],
    ids=lambda words: words[0],
)
def test_every_command_that_changes_traffic_keeps_it(
    run_here: Any,
    control: TrafficControl,
    root: Path,
    store_redis: redis.Redis,
    namespace: str,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    control.route("reader", {"2": 1})  # what can be rolled back, and lets 1 be retired
    if words[0] == "canary":
        store_redis.zadd(workers_key(namespace, "umbel"), {"host:1|1": 1e15})
    monkeypatch.chdir(tmp_path)
    Path("models.yaml").write_text("models: {reader: {aliases: {production: 1}}}")
    answer = run_here("models", *words)
    assert answer.code == 0, answer.err
    kept = json.loads((root / "reader" / f"traffic-{namespace}.json").read_text())
    assert kept["number"] == control.read("reader").number


def test_what_is_damaged_is_named_and_does_not_hold_up_the_rest(
    run_here: Any, control: TrafficControl, changed: Path, lose: Lose, root: Path
) -> None:
    changed.write_text("{}")
    (root / "reader" / "2" / "manifest.json").write_text("{}")
    lose()
    answer = run_here("models", "restore")
    assert answer.code == 1
    assert answer.out == "registered reader 1\n"
    assert "manifest.json is not a readable manifest" in answer.err
    assert f"{changed.name}, where the routes of reader are kept, is not readable" in answer.err
    told = run_here("models", "restore", "--json")
    assert told.code == 1
    assert [problem["error"] for problem in told.json["problems"]] == ["ArtifactTampered"] * 2


def test_kept_traffic_takes_the_place_of_what_redis_has_when_asked_for(
    run_here: Any,
    control: TrafficControl,
    changed: Path,
    monkeypatch: pytest.MonkeyPatch,
    store_redis: redis.Redis,
    namespace: str,
) -> None:
    before = control.read("reader").traffic
    control.alias("reader", {"production": "2"})
    assert run_here("models", "restore").out == "Nothing is missing.\n"
    answer = run_here("models", "restore", "--traffic")
    assert answer.code == 2
    assert "  alias production: 2 -> 1" in answer.out.splitlines()
    assert "Say --yes" in answer.err
    monkeypatch.setattr("umbel_cli.models.asking.on_terminal", lambda: True)
    assert run_here("models", "restore", "--traffic", stdin="n\n").code == 1
    assert control.read("reader").traffic.aliases == {"production": "2"}
    assert run_here("models", "restore", "--traffic", stdin="y\n").code == 0
    assert control.read("reader").traffic == before
    store_redis.hset(traffic_key(namespace, "reader"), "state", "{damaged")
    assert "umbel models restore --traffic" in run_here("models", "show", "reader").err
    told = run_here("models", "restore", "--traffic", "--yes", "--json")
    assert (told.code, [each["what"] for each in told.json["traffic"]]) == (0, ["restore"])
    assert control.read("reader").traffic == before


def test_a_change_after_a_loss_warns_of_what_is_kept(
    run_here: Any, control: TrafficControl, changed: Path, lose: Lose, root: Path
) -> None:
    kept = changed.read_text()
    lose()
    Catalog(control._redis, control.namespace).restore(ArtifactStore(root))
    answer = run_here("models", "alias", "reader", "production=2")
    assert answer.code == 0
    assert "warning: " in answer.err
    assert "umbel models restore --traffic" in answer.err
    assert changed.read_text() == kept


def test_a_root_that_cannot_be_written_fails_no_command(
    run_here: Any, control: TrafficControl, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object) -> None:
        raise PermissionError(13, "read-only")

    monkeypatch.setattr(ArtifactStore, "put_traffic", read_only)
    answer = run_here("models", "alias", "reader", "production=2")
    assert answer.code == 0
    assert answer.err.startswith("warning: The routes of reader are not kept under ")
    assert control.read("reader").traffic.aliases == {"production": "2"}


def test_without_the_means_to_reach_artifacts_nothing_is_said(
    run_here: Any, control: TrafficControl, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UMBEL_ARTIFACT_ROOT", "s3://bucket/models")

    def no_driver(self: object, root: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(ArtifactStore, "__init__", no_driver)
    answer = run_here("models", "alias", "reader", "production=2")
    assert (answer.code, answer.err) == (0, "")
