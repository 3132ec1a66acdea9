"""Adaptive lanes: what workers choose holds for claims, flushes and submits, within the policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from umbel_batching.calls import CHOICE_HOLDS_MS
from umbel_batching.census import lane_status, tuned_of
from umbel_batching.lines import Point
from umbel_batching.policy import BatchPolicy
from umbel_batching.tuning import Tuned

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

ADAPTIVE = BatchPolicy(
    max_batch_size=8, max_wait_ms=1_000_000, mode="adaptive", latency_objective_ms=50
)


@pytest.fixture
def adaptive(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(ADAPTIVE)


def tuned(size: int, wait_ms: int = 10, kind: str = "cpu/1") -> Tuned:
    return Tuned(
        kind=kind,
        objective_ms=50,
        size=size,
        wait_ms=wait_ms,
        why="objective",
        fixed_ms=1.5,
        per_job_ms=0.25,
        cost_ms=2.5,
        latency_ms=5.0,
        points=(Point(4.0, 2.5, 3.0),),
    )


def tune(lab: Lab, told: Tuned) -> bool:
    return lab.runner.run(lab.calls.tune(lab.slot, lab.lane.name, told))


def in_force(lab: Lab) -> tuple[int, int]:
    status = lane_status(lab.client, lab.namespace, lab.lane.name)
    assert status is not None
    return status.size_now, status.wait_now_ms


def pass_time(lab: Lab, ms: int) -> None:
    """Makes every choice that was told ``ms`` older."""
    at = int(lab.client.hget(lab.keys.lane, "tuned").split()[0]) - ms
    rest = lab.client.hget(lab.keys.lane, "tuned").split(b" ", 1)[1]
    lab.client.hset(lab.keys.lane, "tuned", b"%d %s" % (at, rest))
    for kind, value in lab.client.hgetall(lab.keys.costs).items():
        till, rest = value.split(b" ", 1)
        lab.client.hset(lab.keys.costs, kind, b"%013d %s" % (int(till) - ms, rest))


def test_a_claim_takes_no_more_than_its_worker_chose(adaptive: Lab) -> None:
    adaptive.submit(20)
    assert len(adaptive.claim(size=3).uids) == 3
    assert len(adaptive.claim(size=100).uids) == 8, "max_batch_size bounds it"
    assert len(adaptive.claim().uids) == 8, "nothing was chosen"


def test_a_choice_means_nothing_to_a_static_lane(lab: Lab) -> None:
    lab.submit(10)
    assert len(lab.claim(size=1).uids) == lab.lane.policy.max_batch_size
    assert tune(lab, tuned(2)) is False
    assert lab.client.exists(lab.keys.costs) == 0


def test_a_claim_at_the_chosen_size_is_full(adaptive: Lab) -> None:
    adaptive.submit(3)
    assert adaptive.claim(size=3).reason == "size"


def test_a_lane_is_due_as_soon_as_it_has_a_chosen_batch(adaptive: Lab) -> None:
    adaptive.submit()
    assert tune(adaptive, tuned(2, wait_ms=900_000)) is True
    assert adaptive.flush().sent == 0
    adaptive.submit()
    assert adaptive.next_look() is not None
    assert adaptive.flush(slots=4).sent == 1
    adaptive.submit(3)
    assert adaptive.flush(slots=4).sent == 1, "two batches of two, one of which was sent for"


def test_a_chosen_wait_is_the_one_that_counts(adaptive: Lab) -> None:
    (uid,) = adaptive.submit()
    tune(adaptive, tuned(8, wait_ms=900_000))
    assert adaptive.flush().sent == 0
    adaptive.age(uid, 900_001)
    assert adaptive.flush().sent == 1


def test_a_submit_arms_the_lane_by_the_chosen_wait(adaptive: Lab) -> None:
    adaptive.submit()
    adaptive.claim()
    tune(adaptive, tuned(8, wait_ms=10))
    adaptive.client.zrem(adaptive.shared.wake, adaptive.slot)
    adaptive.client.delete(adaptive.keys.drains)
    adaptive.submit()
    look = adaptive.next_look()
    assert look is not None
    assert look <= adaptive.now() + 10, "and not after a thousand seconds"


def test_the_most_modest_kind_says_when_a_lane_is_due(adaptive: Lab) -> None:
    adaptive.submit()
    tune(adaptive, tuned(6, 20, "cuda:x/1"))
    tune(adaptive, tuned(2, 40, "cpu/1"))
    assert in_force(adaptive) == (2, 20)
    tune(adaptive, tuned(4, 40, "cpu/1"))
    assert in_force(adaptive) == (4, 20)


def test_what_dead_workers_chose_is_not_in_force_for_long(adaptive: Lab) -> None:
    adaptive.submit(3)
    tune(adaptive, tuned(2, 0))
    pass_time(adaptive, CHOICE_HOLDS_MS + 1)
    assert in_force(adaptive) == (8, 1_000_000)
    assert adaptive.flush().sent == 0
    tune(adaptive, tuned(5, 30, "cuda:x/1"))
    assert in_force(adaptive) == (5, 30), "nor does it bind the living"


def test_kinds_are_bounded_and_their_costs_forgotten_in_time(adaptive: Lab) -> None:
    adaptive.submit()
    for number in range(20):
        tune(adaptive, tuned(2, kind=f"cpu/{number}"))
    assert adaptive.client.hlen(adaptive.keys.costs) == 16
    assert 0 < adaptive.client.ttl(adaptive.keys.costs) <= 86_400


@pytest.mark.parametrize("broken", ["", "nonsense", "9999999999999 x 1", "9999999999999 0 0"])
def test_broken_choices_break_nothing(adaptive: Lab, broken: str) -> None:
    adaptive.submit(2)
    adaptive.client.hset(adaptive.keys.lane, "tuned", broken)
    adaptive.client.hset(adaptive.keys.costs, "cpu/9", broken)
    adaptive.flush()
    adaptive.submit()
    assert tune(adaptive, tuned(2)) is True
    assert len(adaptive.claim(size=2).uids) == 2


def test_another_policy_puts_the_choice_out_of_force(adaptive: Lab) -> None:
    adaptive.submit()
    tune(adaptive, tuned(2))
    static = BatchPolicy(max_batch_size=8, max_wait_ms=1_000_000)
    govern = adaptive.calls.govern(adaptive.slot, adaptive.lane.name, static)
    assert adaptive.runner.run(govern) is True
    assert adaptive.client.hget(adaptive.keys.lane, "tuned") is None
    assert in_force(adaptive) == (8, 1_000_000)
    assert tune(adaptive, tuned(2)) is False, "a worker that has not heard of it"
    adaptive.submit(8)
    assert len(adaptive.claim(size=2).uids) == 8


def test_the_learned_ceiling_holds_for_chosen_sizes_too(adaptive: Lab) -> None:
    adaptive.submit(20)
    adaptive.settle(adaptive.claim(), ceiling=2)
    assert len(adaptive.claim(size=6).uids) == 2


def test_a_lane_tells_what_was_chosen(adaptive: Lab) -> None:
    adaptive.submit()
    tune(adaptive, tuned(2))
    status: Any = lane_status(adaptive.client, adaptive.namespace, adaptive.lane.name)
    assert (status.mode, status.latency_objective_ms) == ("adaptive", 50)
    assert status.tuned == [tuned(2)]
    assert lane_status(adaptive.client, adaptive.namespace, "digits@9") is None


def test_what_another_release_told_is_left_alone() -> None:
    assert tuned_of(b"1 2 3 {}") is None
    assert tuned_of(b"\xff") is None
