"""Celery settings that do not go together are found, and the unsafe ones keep a worker away."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from umbel_config.errors import ConfigError
from umbel_config.settings import Settings
from umbel_worker.app import celery_config, make_app
from umbel_worker.contradictions import (
    DEFAULT_VISIBILITY_S,
    RefuseUnsafe,
    contradictions,
    refuse_unsafe,
    visibility_timeout,
)

SETTINGS = Settings(redis_url=SecretStr("redis://localhost:6400/2"), queues=("gpu", "cpu"))


def config(**changes: Any) -> dict[str, Any]:
    return celery_config(SETTINGS) | changes


def test_our_own_configuration_is_free_of_them() -> None:
    assert contradictions(config()) == []
    refuse_unsafe(config())


@pytest.mark.parametrize(
    ("changes", "setting", "unsafe", "words"),
    [
        (
            {"task_time_limit": 900, "worker_pool": "prefork"},
            "task_time_limit",
            True,
            "900 s) is not below the visibility",
        ),
        (
            {"task_time_limit": 5000.5, "worker_pool": "prefork"},
            "task_time_limit",
            True,
            "5000.5 s",
        ),
        (
            {"task_soft_time_limit": 901, "worker_pool": "prefork"},
            "task_soft_time_limit",
            True,
            "second worker",
        ),
        (
            {"task_time_limit": 60, "task_soft_time_limit": 60, "worker_pool": "prefork"},
            "task_soft_time_limit",
            False,
            "killed before it is asked",
        ),
        ({"task_time_limit": 60}, "task_time_limit", False, "threads pool cannot enforce"),
        ({"visibility_timeout": 60}, "visibility_timeout", False, "60 s in visibility_timeout"),
        (
            {"result_backend_transport_options": {"visibility_timeout": 3600}},
            "result_backend_transport_options",
            False,
            "The shorter one wins",
        ),
        ({"task_acks_late": False}, "task_acks_late", False, "is lost"),
        ({"task_reject_on_worker_lost": False}, "task_reject_on_worker_lost", False, "killed"),
        ({"worker_prefetch_multiplier": 4}, "worker_prefetch_multiplier", False, "is 4: 4 wake"),
        ({"worker_prefetch_multiplier": 0}, "worker_prefetch_multiplier", False, "any number of"),
        ({"task_serializer": "msgpack"}, "task_serializer", False, "is msgpack"),
        ({"task_serializer": "pickle"}, "task_serializer", True, "is pickle"),
        ({"result_serializer": "yaml"}, "result_serializer", True, "is yaml"),
        ({"event_serializer": "msgpack"}, "event_serializer", False, "is msgpack"),
        ({"accept_content": ["json", "pickle"]}, "accept_content", True, "can run code"),
        (
            {"accept_content": ["json", "application/x-python-serialize"]},
            "accept_content",
            True,
            "can run code",
        ),
        ({"result_accept_content": ["json", "yaml"]}, "result_accept_content", True, "run code"),
        ({"accept_content": ["msgpack"]}, "accept_content", True, "lacks json"),
        ({"result_accept_content": ["msgpack"]}, "result_accept_content", False, "lacks json"),
        ({"task_default_queue": "tpu"}, "task_default_queue", False, "listens on gpu, cpu"),
        (
            {"task_queues": [{"name": "gpu"}, {"name": "cpu"}, {"name": "gpu"}]},
            "task_queues",
            False,
            "twice: gpu",
        ),
    ],
)
def test_contradiction(changes: dict[str, Any], setting: str, unsafe: bool, words: str) -> None:
    (found,) = contradictions(config(**changes))
    assert (found.setting, found.unsafe) == (setting, unsafe)
    assert words in found.sentence
    assert found.advice.endswith(".")


@pytest.mark.parametrize(
    "changes",
    [
        {"task_time_limit": 899, "worker_pool": "prefork"},
        {"task_time_limit": 60, "task_soft_time_limit": 50, "worker_pool": "prefork"},
        {"task_time_limit": None, "task_soft_time_limit": 0},
        {"visibility_timeout": None},
        {"result_backend_transport_options": {}},
        {"accept_content": ["application/json"]},
        {"accept_content": None},
        {"task_queues": None, "task_default_queue": "tpu"},
        {"task_queues": [{"name": "cpu"}, {"name": "gpu"}]},
    ],
)
def test_what_goes_together_is_left_alone(changes: dict[str, Any]) -> None:
    assert contradictions(config(**changes)) == []


def test_what_is_missing_counts_as_the_default_of_celery() -> None:
    assert visibility_timeout({}) == DEFAULT_VISIBILITY_S
    assert {found.setting for found in contradictions({})} == {
        "task_acks_late",
        "worker_prefetch_multiplier",
    }
    assert any(found.unsafe for found in contradictions({"task_time_limit": 3600}))


def test_refusal_names_every_unsafe_setting_and_no_other() -> None:
    with pytest.raises(ConfigError) as refused:
        refuse_unsafe(
            config(task_time_limit=900, accept_content=["json", "pickle"], task_acks_late=False)
        )
    assert "Set task_time_limit below 900" in str(refused.value)
    assert "accept_content has pickle" in str(refused.value)
    assert "task_acks_late" not in str(refused.value)


def parent(**limits: Any) -> Any:
    known = {"time_limit": None, "soft_time_limit": None} | limits
    return SimpleNamespace(app=make_app(SETTINGS), **known)


def test_a_worker_starts_with_what_is_safe() -> None:
    RefuseUnsafe(parent(time_limit=300))


@pytest.mark.parametrize("limit", ["time_limit", "soft_time_limit"])
def test_a_worker_does_not_start_with_an_unsafe_flag(limit: str) -> None:
    with pytest.raises(ConfigError, match=f"task_{limit} .1000 s. is not below"):
        RefuseUnsafe(parent(**{limit: 1000}))


def test_the_app_of_the_workers_refuses() -> None:
    assert RefuseUnsafe in make_app(SETTINGS).steps["worker"]
