"""Celery is set up as a carrier of hints: late acks, JSON, no results, one at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from umbel_batching.flusher import Drain
from umbel_batching.summoner import Summons
from umbel_config.errors import ConfigError, StoreUnavailable
from umbel_config.settings import Settings
from umbel_worker import runtime
from umbel_worker.app import VISIBILITY_TIMEOUT_S, celery_config, make_app
from umbel_worker.dispatch import DELIVER, INFER, CeleryDispatch, CelerySummons
from umbel_worker.runtime import threads_per_batch
from umbel_worker.tasks import infer

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings

URL = SecretStr("redis://user:secret@localhost:6400/2")


@pytest.fixture
def config() -> dict[str, Any]:
    return celery_config(Settings(redis_url=URL, namespace="shop", queues=("gpu", "cpu")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_acks_late", True),
        ("task_reject_on_worker_lost", True),
        ("task_ignore_result", True),
        ("task_serializer", "json"),
        ("result_serializer", "json"),
        ("accept_content", ["json"]),
        ("task_track_started", True),
        ("task_send_sent_event", True),
        ("worker_send_task_events", True),
        ("worker_prefetch_multiplier", 1),
        ("worker_cancel_long_running_tasks_on_connection_loss", False),
        ("worker_pool_start_method", "spawn"),
        ("worker_proc_alive_timeout", 60.0),
        ("worker_pool", "threads"),
        ("worker_concurrency", 1),
        ("broker_connection_retry_on_startup", True),
        ("broker_connection_max_retries", None),
        ("task_default_queue", "gpu"),
        ("task_create_missing_queues", True),
        ("visibility_timeout", VISIBILITY_TIMEOUT_S),
        ("worker_hijack_root_logger", False),
    ],
)
def test_setting(config: dict[str, Any], name: str, value: Any) -> None:
    assert config[name] == value


def test_transport_prefixes_and_keeps_no_book(config: dict[str, Any]) -> None:
    options = config["broker_transport_options"]
    assert options["visibility_timeout"] == VISIBILITY_TIMEOUT_S
    assert options["ack_emulation"] is False
    assert options["global_keyprefix"] == "shop:celery:"
    assert options["queue_order_strategy"] == "priority"
    assert options["socket_keepalive"]
    assert 0 < options["health_check_interval"] < VISIBILITY_TIMEOUT_S


def test_worker_serves_the_queues_it_was_given(config: dict[str, Any]) -> None:
    assert [queue.name for queue in config["task_queues"]] == ["gpu", "cpu"]


def test_broker_is_our_redis(config: dict[str, Any]) -> None:
    assert config["broker_url"].startswith("redis://")
    assert "localhost:6400/2" in config["broker_url"]


def test_app_has_its_task_and_hides_the_password() -> None:
    app = make_app(Settings(redis_url=URL))
    app.loader.import_default_modules()
    task = app.tasks[INFER]
    assert (task.acks_late, task.reject_on_worker_lost, task.ignore_result) == (True,) * 3
    assert "secret" not in app.conf.humanize(with_defaults=False)


# In a process of its own, as tasks are known to all apps of a process.
@pytest.mark.parametrize(
    ("queue", "task", "torch"), [("umbel", INFER, True), ("umbel-callbacks", DELIVER, False)]
)
def test_app_has_one_task_alone_and_a_sender_needs_no_torch(
    queue: str, task: str, *, torch: bool
) -> None:
    script = (
        "import json, sys, umbel_worker.app as a; a.app.loader.import_default_modules(); "
        "own = [name for name in a.app.tasks if not name.startswith('celery.')]; "
        "print(json.dumps([own, 'torch' in sys.modules]))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=True,
        env={**os.environ, "UMBEL_REDIS_URL": URL.get_secret_value(), "UMBEL_QUEUES": queue},
    )
    assert json.loads(answer.stdout) == [[task], torch]


def test_task_of_a_sender_may_be_lost_and_doubled() -> None:
    app = make_app(Settings(redis_url=URL, queues=("umbel-callbacks",)))
    app.loader.import_default_modules()
    task = app.tasks[DELIVER]
    assert (task.acks_late, task.reject_on_worker_lost, task.ignore_result) == (True,) * 3


@pytest.mark.parametrize("queues", [("umbel", "post"), ("post", "gpu", "cpu")])
def test_callbacks_share_no_worker_with_batches(queues: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"queues holds post, .* Run `umbel sender`"):
        make_app(Settings(redis_url=URL, queues=queues, callback_queue="post"))


def test_app_without_a_redis_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match="UMBEL_REDIS_URL"):
        make_app(Settings())


def test_module_makes_its_app_on_demand_only() -> None:
    import umbel_worker.app as module

    with pytest.raises(AttributeError, match="nonsense"):
        _ = module.nonsense


def test_hint_carries_the_lane_and_no_data() -> None:
    sent: list[tuple[Any, Any]] = []

    class App:
        def send_task(self, name: str, **options: Any) -> None:
            sent.append((name, options))

    CeleryDispatch(App())(Drain("digits@3", "gpu", "token"))
    assert sent == [
        (
            "umbel.infer",
            {"args": ("digits@3",), "task_id": "token", "queue": "gpu", "ignore_result": True},
        )
    ]


def test_call_for_a_sender_carries_nothing() -> None:
    sent: list[tuple[Any, Any]] = []

    class App:
        def send_task(self, name: str, **options: Any) -> None:
            sent.append((name, options))

    CelerySummons(App())(Summons("umbel-callbacks", "token"))
    assert sent == [
        (
            "umbel.deliver",
            {"task_id": "token", "queue": "umbel-callbacks", "ignore_result": True},
        )
    ]


@pytest.mark.parametrize(
    "error", [StoreUnavailable("Redis is away."), OSError("share"), ConnectionError("reset")]
)
def test_outage_ends_the_task_quietly(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def away() -> Any:
        raise error

    monkeypatch.setattr(runtime, "drainer", away)
    assert infer.run("digits@3") == {"jobs": 0, "error": type(error).__name__}


def test_app_is_made_without_torch(settings: MakeSettings, redis_url: str) -> None:
    """The parent of a prefork pool starts quickly, and its children load torch themselves."""
    script = (
        "import json, sys, umbel_worker.app as a; a.app; print(json.dumps('torch' in sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=True,
        env={**os.environ, "UMBEL_REDIS_URL": redis_url},
    )
    assert json.loads(answer.stdout) is False


@pytest.mark.parametrize(
    ("given", "cores", "expected"),
    [
        ({"torch_threads": 3}, 8, 3),
        ({"concurrency": 1}, 8, 7),
        ({"concurrency": 2}, 8, 3),
        ({"concurrency": 16}, 8, 1),
        ({}, 1, 1),
    ],
)
def test_torch_threads_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, int], cores: int, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert threads_per_batch(Settings(**given)) == expected  # type: ignore[arg-type]
