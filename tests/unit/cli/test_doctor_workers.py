"""Workers: alive, answering, one for each model, and of one mind about Celery."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from umbel_cli.doctor.findings import Finding, Level
from umbel_cli.doctor.workers import judge_configurations, judge_presence
from umbel_config.settings import Settings
from umbel_worker.app import celery_config

OWN = celery_config(Settings(redis_url=SecretStr("redis://user:geheim@localhost:6400/2")))
#: What a remote worker tells differs in form only.
LIKE_OWN = OWN | {"task_queues": [{"name": "umbel"}], "broker_url": "redis://localhost:6400/2"}
ONE = {"umbel": {"host:1": 2}}


def presence(
    workers: dict[str, dict[str, int]], answers: dict[str, Any] | None, *manifests: Any
) -> dict[str, Finding]:
    found = judge_presence(manifests, workers, answers)
    return {each.check.removeprefix("workers."): each for each in found}


def test_workers_and_their_room_are_counted_once_each() -> None:
    found = presence({"a": {"h:1": 2, "h:2": 1}, "b": {"h:1": 2}}, {"x": {}, "y": {}})
    assert found["alive"].summary == "2 workers, with room for 3 batches at a time"
    assert {each.level for each in found.values()} == {Level.OK}


def test_no_worker_is_a_warning() -> None:
    found = presence({"umbel": {}}, {})
    assert found["alive"].level is Level.WARNING
    assert found["answer"].level is Level.SKIPPED


@pytest.mark.parametrize(
    ("workers", "answers", "words"),
    [
        (ONE, {}, "1 worker alive, none answered"),
        ({"umbel": {"h:1": 1, "h:2": 1}}, {"x": {}}, "2 workers alive, 1 answered"),
        ({"umbel": {}}, {"x": {}}, "told no flusher that it is alive"),
    ],
)
def test_workers_that_are_half_there(
    workers: dict[str, dict[str, int]], answers: dict[str, Any], words: str
) -> None:
    found = presence(workers, answers)["answer"]
    assert (found.level, words in found.summary) == (Level.WARNING, True)


def test_where_nobody_could_be_asked_nothing_is_said_of_answers() -> None:
    assert "answer" not in presence(ONE, None)


def test_models_without_a_worker_are_named(register: Any) -> None:
    digits = register("digits")
    assert presence(ONE, None, digits)["models"].level is Level.OK
    found = presence(ONE, None, digits.model_copy(update={"queue": "gpu"}))["models"]
    assert found.level is Level.WARNING
    assert found.summary == "No worker serves digits 1 (queue gpu)"
    assert found.advice.endswith("--queues gpu")


def test_no_model_yet_is_well() -> None:
    assert "No model" in presence(ONE, None)["models"].summary


def test_workers_of_one_mind() -> None:
    (found,) = judge_configurations(OWN, {"a": LIKE_OWN, "b": LIKE_OWN})
    assert (found.check, found.level) == ("workers.settings", Level.OK)


def test_nobody_answered_nothing_is_said() -> None:
    assert judge_configurations(OWN, {}) == []


def test_two_visibility_timeouts_are_a_problem() -> None:
    options = OWN["broker_transport_options"] | {"visibility_timeout": 60}
    other = LIKE_OWN | {"broker_transport_options": options, "visibility_timeout": 60}
    (found,) = judge_configurations(OWN, {"a": LIKE_OWN, "b": other})
    assert found.level is Level.PROBLEM
    assert "900 s (this machine, a), 60 s (b)" in found.summary


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"task_acks_late": False}, Level.WARNING, "task_acks_late differs: on (this machine, a)"),
        (
            {"accept_content": ["json", "msgpack"]},
            Level.WARNING,
            "accept_content differs: json (this machine, a), json msgpack (b)",
        ),
        ({"task_time_limit": 1000}, Level.PROBLEM, "task_time_limit (1000 s) is not below"),
    ],
)
def test_a_worker_of_another_mind_is_named(
    changes: dict[str, Any], level: Level, words: str
) -> None:
    found = judge_configurations(OWN, {"a": LIKE_OWN, "b": LIKE_OWN | changes})
    assert any(words in each.summary and each.level is level for each in found)
    assert all("(b)" in each.summary for each in found)


def test_what_several_workers_share_is_told_once() -> None:
    bad = LIKE_OWN | {"worker_prefetch_multiplier": 4}
    (found,) = judge_configurations(OWN, {"a": bad, "b": bad})
    assert found.summary.endswith("(a, b)")
    assert found.advice == "Set worker_prefetch_multiplier to 1. Then start the worker again"
