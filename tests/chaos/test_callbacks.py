"""Receivers misbehave, senders and workers are killed: no callback is lost, none has two ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from deliveries import bad, killed

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(300)]


def test_five_bad_receivers_cost_the_good_one_nothing(own_redis: Callable[..., Any]) -> None:
    seen = bad.play(own_redis().url, bad.BAD, 600, 1.0)
    assert seen.missing == 0
    assert seen.taken == {"flaky": 100, "busy": 100, "good": 100}
    assert (seen.invalid, seen.wrong_ids, seen.twice) == (0, 0, 0)
    assert set(seen.states) == {"delivered", "dead", "pending"}


@pytest.mark.parametrize("shared", [False, True])
def test_killed_senders_and_workers_lose_no_callback(
    shared: bool, own_redis: Callable[..., Any]
) -> None:
    seen = killed.play(own_redis().url, count=300, kills=1, shared=shared)
    assert seen.kills == 2
    assert (seen.jobs, seen.lost, seen.undelivered) == (300, 0, 0)
    assert (seen.invalid, seen.wrong_ids) == (0, 0)
