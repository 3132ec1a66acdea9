"""The bounds of a batching policy."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from umbel_batching.policy import BatchPolicy


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"max_batch_size": 1, "max_wait_ms": 0, "max_queue": 1, "max_queue_bytes": 1},
        {"max_batch_size": 4096, "max_wait_ms": 3_600_000},
        {"look_ahead": 1, "max_batch_cost": 1},
        {"look_ahead": 64, "max_batch_cost": 2**40},
        {"mode": "adaptive", "latency_objective_ms": 50, "max_batch_size": 1},
        {"mode": "static", "latency_objective_ms": 50},
    ],
)
def test_sensible_policies_are_taken(given: dict[str, Any]) -> None:
    policy = BatchPolicy(**given)
    assert given.items() <= policy.model_dump().items()


@pytest.mark.parametrize(
    "given",
    [
        {"max_batch_size": 0},
        {"max_batch_size": 4097},
        {"max_wait_ms": -1},
        {"max_wait_ms": 3_600_001},
        {"max_queue": 0},
        {"max_queue_bytes": 0},
        {"max_batch_size": "many"},
        {"max_batch_size": 1.5},
        {"max_delay_ms": 5},
        {"look_ahead": 0},
        {"look_ahead": 65},
        {"max_batch_cost": -1},
        {"mode": "adaptive"},
        {"mode": "adaptive", "latency_objective_ms": 0},
        {"mode": "adaptive", "latency_objective_ms": -1},
        {"mode": "clever"},
    ],
)
def test_other_policies_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BatchPolicy(**given)


def test_a_policy_does_not_change() -> None:
    with pytest.raises(ValidationError):
        BatchPolicy().max_batch_size = 8  # type: ignore[misc]


def test_a_changed_copy_says_to_the_scripts_what_it_is() -> None:
    policy = BatchPolicy(max_batch_size=8)
    assert policy.text.startswith("8 ")
    assert policy.model_copy(update={"max_batch_size": 9}).text.startswith("9 ")


def test_what_came_later_is_stored_only_where_it_is_no_default() -> None:
    later = {"look_ahead", "max_batch_cost", "mode", "latency_objective_ms"}
    assert not later & BatchPolicy().model_dump(mode="json").keys()
    assert later <= BatchPolicy().model_dump().keys()
    chosen = BatchPolicy(look_ahead=1, max_batch_cost=9, mode="adaptive", latency_objective_ms=5)
    assert later <= chosen.model_dump(mode="json").keys()
    assert BatchPolicy.model_validate_json(chosen.model_dump_json()) == chosen
    assert BatchPolicy.model_validate_json(BatchPolicy().model_dump_json()) == BatchPolicy()


def test_an_adaptive_policy_without_an_aim_says_what_it_lacks() -> None:
    with pytest.raises(ValidationError, match="needs latency_objective_ms"):
        BatchPolicy(mode="adaptive")


def test_scripts_read_the_objective_of_an_adaptive_policy_alone() -> None:
    assert BatchPolicy(mode="adaptive", latency_objective_ms=50).text.endswith(" 50")
    assert BatchPolicy(latency_objective_ms=50).text.endswith(" 0")
    assert len(BatchPolicy().text.split()) == 11
