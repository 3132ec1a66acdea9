"""The doctor on real servers: badly set up, closed to it, dead, and with real workers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from umbel_batching.keys import shared_keys
from umbel_cli.doctor.examine import examine
from umbel_cli.doctor.findings import Finding, Level
from umbel_config.connect import connect
from umbel_config.embedded import EmbeddedRedis
from umbel_config.settings import Settings, environment, load_settings
from umbel_worker.app import celery_config

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, OwnRedis, Register, WaitUntil, Worker


def found(settings: Settings, **options: bool) -> dict[str, Finding]:
    findings = examine(settings, **options)
    assert not any("geheim" in each.summary + each.advice for each in findings)
    return {each.check: each for each in findings}


@pytest.fixture
def on(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a Redis of the test's own."""

    def make(server: OwnRedis, **given: Any) -> Settings:
        return load_settings(**{"redis_url": server.url, "state_dir": tmp_path, **given})

    return make


def test_a_server_set_up_badly(own_redis: Callable[..., OwnRedis], on: Any) -> None:
    server = own_redis("--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb")
    seen = found(on(server))
    assert seen["redis.eviction"].level is Level.PROBLEM
    assert seen["redis.persistence"].level is Level.PROBLEM
    assert seen["redis.memory"].level is Level.OK

    with connect(server.url) as client:
        for name, value in (
            ("maxmemory-policy", "noeviction"),
            ("maxmemory", "1"),
            ("save", "900 1"),
        ):
            client.config_set(name, value)
        seen = found(on(server))
        assert seen["redis.eviction"].level is Level.OK
        assert "up to 15 min" in seen["redis.persistence"].summary
        assert seen["redis.memory"].level is Level.PROBLEM
        assert seen["lanes.served"].level is Level.OK

        client.config_set("maxmemory", "0")
        client.config_set("appendonly", "yes")
        client.config_set("appendfsync", "always")
        seen = found(on(server))
        assert seen["redis.persistence"].summary.startswith("AOF always")
        assert seen["redis.memory"].level is Level.WARNING
        assert seen["redis.layout"].level is Level.OK


def test_looking_leaves_an_empty_namespace_empty(
    own_redis: Callable[..., OwnRedis], on: Any
) -> None:
    server = own_redis()
    assert found(on(server))["redis.layout"].summary == "Namespace umbel is empty"
    with connect(server.url) as client:
        keys = [key for key in client.scan_iter() if not key.startswith(b"umbel:celery:")]
        assert keys == [], "all but what Celery needs to ask its workers"


@pytest.mark.parametrize(
    ("credentials", "words"), [("", "asks for a password"), (":geheim@", "refuses the user name")]
)
def test_a_server_that_refuses_us(
    own_redis: Callable[..., OwnRedis], on: Any, credentials: str, words: str
) -> None:
    server = own_redis("--requirepass", "another")
    url = server.url.replace("unix://", f"unix://{credentials}")
    seen = found(on(server, redis_url=url))
    assert seen["redis.reachable"].level is Level.PROBLEM
    assert words in seen["redis.reachable"].summary
    assert seen["lanes.served"].level is Level.SKIPPED


def test_a_user_who_may_not_look_at_everything(own_redis: Callable[..., OwnRedis], on: Any) -> None:
    server = own_redis("--appendonly", "yes")
    with connect(server.url) as client:
        rules = ["~*", "&*", "+@all", "-config", "-client", "+client|setname", "-info"]
        client.execute_command("ACL", "SETUSER", "guest", "on", ">geheim", *rules)
        url = server.url.replace("unix://", "unix://guest:geheim@")
        seen = found(on(server, redis_url=url))
        assert seen["redis.version"].level is Level.SKIPPED
        assert seen["lanes.flusher"].level is Level.SKIPPED
        assert seen["redis.layout"].level is Level.OK

        client.execute_command("ACL", "SETUSER", "guest", "+info")
        seen = found(on(server, redis_url=url))
        assert "cannot be seen (CONFIG GET" in seen["redis.persistence"].summary
        assert seen["redis.eviction"].level is Level.OK


def test_a_replica(own_redis: Callable[..., OwnRedis], on: Any) -> None:
    server = own_redis()
    with connect(server.url) as client:
        client.replicaof("127.0.0.1", "1")
    seen = found(on(server))
    assert seen["redis.version"].level is Level.PROBLEM
    assert "read-only replica" in seen["redis.version"].summary


def test_a_server_that_is_gone(own_redis: Callable[..., OwnRedis], on: Any) -> None:
    server = own_redis()
    server.kill()
    seen = found(on(server))
    assert seen["redis.reachable"].level is Level.PROBLEM
    assert seen["settings.celery"].level is Level.OK


def test_data_of_another_age(settings: MakeSettings, store_redis: redis.Redis) -> None:
    made = settings()
    store_redis.set(shared_keys(made.namespace).store, "1 0123456789abcdef")
    seen = found(made)
    assert seen["redis.layout"].level is Level.PROBLEM
    assert "layout 1" in seen["redis.layout"].summary


def test_the_embedded_redis_is_found_and_may_be_without_a_limit(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path):
        seen = found(load_settings(state_dir=tmp_path))
    assert seen["redis.memory"].level is Level.OK
    assert seen["redis.persistence"].summary.startswith("AOF everysec")
    assert seen["workers.alive"].level is Level.WARNING
    assert seen["lanes.flusher"].level is Level.WARNING


def test_a_worker_at_work_is_all_well(
    settings: MakeSettings, register: Register, start_worker: Callable[..., Worker]
) -> None:
    made = settings()
    register(made)
    start_worker(made)
    seen = found(made, deep=True)
    for check in ("alive", "answer", "models", "settings"):
        assert seen[f"workers.{check}"].level is Level.OK, seen[f"workers.{check}"]
    assert seen["lanes.flusher"].level is Level.OK
    assert "SHA-256 compared" in seen["models.artifacts"].summary


def test_workers_of_two_minds(
    settings: MakeSettings,
    start_worker: Callable[..., Worker],
    tmp_path: Path,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = settings()
    start_worker(made)

    def other(given: Settings) -> dict[str, Any]:
        config = celery_config(given)
        options = config["broker_transport_options"] | {"visibility_timeout": 60}
        return config | {"broker_transport_options": options, "task_acks_late": False}

    monkeypatch.setattr("umbel_worker.app.celery_config", other)
    seen = [each for each in examine(made) if each.check == "workers.settings"]
    assert any("60 s (this machine)" in each.summary for each in seen)
    assert any("task_acks_late differs" in each.summary for each in seen)


def test_a_worker_with_an_unsafe_flag_does_not_start(settings: MakeSettings) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "umbel_worker.app", "worker"]
        + ["--time-limit", "1000", "--pool", "prefork"],
        capture_output=True,
        check=False,
        env={**environment(settings()), "PATH": ""},
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "task_time_limit (1000 s) is not below the visibility timeout" in done.stderr
