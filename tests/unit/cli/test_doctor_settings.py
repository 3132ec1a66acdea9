"""Settings of this machine that contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from umbel_cli.doctor.findings import Level
from umbel_cli.doctor.own_settings import judge_celery, judge_settings
from umbel_config.settings import load_settings

URL = "redis://user:geheim@localhost:6400/2"


def test_the_defaults_contradict_nothing() -> None:
    (found,) = judge_settings(load_settings())
    assert (found.check, found.level) == ("settings.umbel", Level.OK)
    (found,) = judge_celery(load_settings(redis_url=URL))
    assert (found.check, found.level) == ("settings.celery", Level.OK)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lease_ms": 500}, "lease_ms is 500"),
        ({"lease_ms": 600_000}, "stand still for 10 min"),
        ({"result_ttl_s": 5}, "result_ttl_s is 5"),
        ({"dead_ttl_s": 60}, "dead_ttl_s (60) is below result_ttl_s (3600)"),
        ({"max_dead_bytes": 1000}, "max_dead_bytes (1000) is below max_payload_bytes"),
        ({"queues": ("gpu", "cpu", "gpu")}, "names gpu twice"),
    ],
)
def test_a_contradiction_is_one_warning_with_advice(given: dict[str, Any], words: str) -> None:
    (found,) = judge_settings(load_settings(**given))
    assert (found.check, found.level) == ("settings.umbel", Level.WARNING)
    assert words in found.summary
    assert found.advice


@pytest.mark.parametrize(
    "given",
    [
        {"lease_ms": 1000},
        {"lease_ms": 300_000},
        {"result_ttl_s": 30},
        {"dead_ttl_s": 3600},
        {"max_dead": 0, "max_dead_bytes": 0},
        {"queues": ("gpu", "cpu")},
    ],
)
def test_what_goes_together_is_left_alone(given: dict[str, Any]) -> None:
    assert [each.level for each in judge_settings(load_settings(**given))] == [Level.OK]


def test_several_contradictions_are_all_told() -> None:
    found = judge_settings(load_settings(lease_ms=300, result_ttl_s=1, queues=("a", "a")))
    assert len(found) == 3


def test_a_drain_longer_than_the_visibility_timeout() -> None:
    (found,) = judge_celery(load_settings(redis_url=URL, drain_budget_ms=900_000))
    assert (found.check, found.level) == ("settings.celery", Level.WARNING)
    assert "drain_budget_ms (900000)" in found.summary
    assert judge_celery(load_settings(redis_url=URL, drain_budget_ms=899_000))[0].level is Level.OK


def test_celery_contradictions_become_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    from umbel_worker import app

    def bad(settings: Any) -> dict[str, Any]:
        config = dict(original(settings))
        return config | {"task_time_limit": 1000, "worker_pool": "prefork", "task_acks_late": False}

    original = app.celery_config
    monkeypatch.setattr(app, "celery_config", bad)
    levels = {each.level: each.summary for each in judge_celery(load_settings(redis_url=URL))}
    assert "task_time_limit (1000 s)" in levels[Level.PROBLEM]
    assert "task_acks_late is off" in levels[Level.WARNING]
