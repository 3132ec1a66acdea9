"""Leases are renewed while a batch runs, not longer, and through outages of Redis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from umbel_batching.calls import Calls
from umbel_worker.leases import LeaseKeeper

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import WaitUntil


class Renewals:
    """Stands where the runner does, and notes the batches that were renewed."""

    def __init__(self) -> None:
        self.batches: list[str] = []
        self.answer: Any = True

    def run(self, call: Any) -> Any:
        self.batches.append(call.args[0])
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def renewals() -> Renewals:
    return Renewals()


@pytest.fixture
def keeper(renewals: Renewals) -> Iterator[LeaseKeeper]:
    made = LeaseKeeper(renewals, Calls("t"), 200)  # type: ignore[arg-type]
    yield made
    made.stop()


def test_held_batches_are_renewed_until_they_are_let_go(
    keeper: LeaseKeeper, renewals: Renewals, wait_until: WaitUntil
) -> None:
    with keeper.hold("slot", "one", "token"):
        with keeper.hold("slot", "two", "token"):
            wait_until(lambda: renewals.batches.count("two") >= 2, "both are renewed twice")
        seen = renewals.batches.count("two")
        wait_until(lambda: renewals.batches.count("one") >= 5, "the other is renewed on")
    assert renewals.batches.count("two") <= seen + 1
    assert keeper._held == {}


def test_batch_is_let_go_when_its_computation_raises(keeper: LeaseKeeper) -> None:
    with pytest.raises(ValueError, match="bad"), keeper.hold("slot", "one", "token"):
        raise ValueError("bad")
    assert keeper._held == {}


def test_outage_does_not_end_the_renewing(
    keeper: LeaseKeeper, renewals: Renewals, wait_until: WaitUntil
) -> None:
    renewals.answer = RedisConnectionError("away")
    with keeper.hold("slot", "one", "token"):
        wait_until(lambda: len(renewals.batches) >= 2, "it goes on trying")
        renewals.answer = True
        before = len(renewals.batches)
        wait_until(lambda: len(renewals.batches) > before, "and renews again")


def test_lost_lease_is_told(
    keeper: LeaseKeeper,
    renewals: Renewals,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    renewals.answer = False
    with keeper.hold("slot", "one", "token"):
        wait_until(lambda: "lease lost" in caplog.text, "the loss is logged")


def test_stop_ends_the_thread(renewals: Renewals) -> None:
    keeper = LeaseKeeper(renewals, Calls("t"), 200)  # type: ignore[arg-type]
    keeper.stop()
    assert not keeper._thread.is_alive()
