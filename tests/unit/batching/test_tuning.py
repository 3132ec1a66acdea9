"""The choice of batch sizes: by figures alone, and in a simulation with noise and turns."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable

import pytest

from umbel_batching.lines import Fit, Line, Point
from umbel_batching.policy import BatchPolicy
from umbel_batching.tuning import Choice, Tuned, Tuner, choose

Cost = Callable[[int], float]
POLICY = BatchPolicy(mode="adaptive", latency_objective_ms=50, max_batch_size=1024, max_wait_ms=20)
#: Of the simulation: standard deviation of the logarithm, and share of batches that have a pause.
NOISE, PAUSES = 0.05, 0.02


def fit(line: Line, *points: Point, slow: float = 1.0, largest: float = 1024) -> Fit:
    return Fit(line, slow, largest, points, points)


def test_the_largest_size_within_the_objective_is_chosen() -> None:
    choice = choose(fit(Line(5.0, 0.2)), POLICY)
    assert (choice.why, choice.wait_ms) == ("objective", 1)
    assert 95 <= choice.size <= 100, "of sizes that are about as good the smallest"
    assert choice.latency_ms == pytest.approx(2 * choice.cost_ms)


def test_batches_that_vary_leave_room_for_the_slow_ones() -> None:
    assert choose(fit(Line(5.0, 0.2), slow=1.5), POLICY).size == 73


def test_the_smallest_of_sizes_that_are_as_good_is_chosen() -> None:
    choice = choose(fit(Line(0.1, 0.02)), POLICY)
    assert choice.why == "efficient"
    assert 300 < choice.size < 500
    assert choice.wait_ms == 20, "the objective leaves more room than max_wait_ms"


def test_bounds_are_kept() -> None:
    bounded = POLICY.model_copy(update={"max_batch_size": 7})
    assert choose(fit(Line(5.0, 0.2)), bounded).size == 7
    assert choose(fit(Line(5.0, 0.2)), bounded).why == "bound"
    alone = POLICY.model_copy(update={"max_batch_size": 1})
    assert choose(fit(Line(5.0, 0.2)), alone).size == 1


def test_a_size_far_beyond_all_that_was_seen_is_not_chosen() -> None:
    choice = choose(fit(Line(5.0, 0.0), largest=4), POLICY)
    assert (choice.size, choice.why) == (16, "learning")


def test_what_was_seen_counts_more_than_the_line() -> None:
    seen = (Point(32, 9.0, 9.0), Point(64, 12.0, 9.0), Point(90, 40.0, 9.0))
    choice = choose(fit(Line(5.0, 0.1), *seen, largest=128), POLICY)
    assert 60 <= choice.size < 85


def test_an_objective_out_of_reach_leaves_batches_that_cost_little_more_than_one_job() -> None:
    choice = choose(fit(Line(60.0, 0.1)), POLICY)
    assert (choice.size, choice.why, choice.wait_ms) == (301, "unattainable", 0)
    before = Choice(4, 0, "objective")
    assert choose(fit(Line(60.0, 0.1)), POLICY, before).size == 8, "in steps"


def test_a_choice_stays_unless_another_one_is_clearly_better() -> None:
    before = Choice(96, 1, "objective")
    assert choose(fit(Line(5.0, 0.2)), POLICY, before).size == 96
    assert choose(fit(Line(5.0, 0.17)), POLICY, before).size == 112
    assert choose(fit(Line(5.0, 0.23)), POLICY, before).size == 82


def test_a_wait_that_is_near_stays() -> None:
    told = choose(fit(Line(5.0, 0.1)), POLICY.model_copy(update={"max_batch_size": 100}))
    assert told.wait_ms == 20
    before = Choice(100, 18, "bound")
    policy = POLICY.model_copy(update={"max_batch_size": 100})
    assert choose(fit(Line(5.0, 0.1)), policy, before).wait_ms == 18
    assert choose(fit(Line(5.0, 0.17)), policy, before).wait_ms == 6


class Machine:
    """A lane that is always full, on a machine whose batches cost what a function says."""

    def __init__(self, cost: Cost, seed: int, known: tuple[Point, ...] = ()) -> None:
        self.now, self.cost, self.largest = 0.0, cost, 0
        self._random = random.Random(seed)
        self.tuner = Tuner(known, lambda: self.now)

    def run(self, seconds: float, policy: BatchPolicy = POLICY) -> int:
        """Runs batches for a while; returns the size in force then."""
        end = self.now + seconds
        while self.now < end:
            size = self.tuner.limit(policy)
            self.largest = max(self.largest, size)
            ms = self.cost(size) * math.exp(self._random.gauss(0, NOISE))
            if self._random.random() < PAUSES:
                ms *= 3 + self._random.expovariate(0.2)
            self.now += ms / 1000
            self.tuner.note(size, ms)
        return self.told().size

    def told(self) -> Tuned:
        told = self.tuner.told("cpu/1")
        assert told is not None
        return told


def jobs_per_ms(cost: Cost, size: int) -> float:
    return size / cost(size)


def best(cost: Cost, slow: float = math.exp(1.28 * NOISE)) -> float:
    """Most jobs per ms within the objective, by trying all sizes."""
    held = [size for size in range(1, 1025) if cost(size) * (1 + slow) <= 50]
    return max(jobs_per_ms(cost, size) for size in held)


COSTS: dict[str, Cost] = {
    "cheap": lambda n: 0.7 + 0.01 * n,
    "middling": lambda n: 1 + 0.1 * n,
    "fixed": lambda n: 8 + 0.05 * n,
    "dear": lambda n: 0.5 + 2 * n,
    "spills": lambda n: 2 + 0.05 * n * (1 + 0.6 * min(1, max(0, n / 128 - 1))),
}


def seeds(cost: Cost) -> tuple[Point, ...]:
    """What warming up tells: the forward alone, without what settling costs."""
    return Point(1, 0.7 * cost(1), 1.0), Point(1024, 0.9 * cost(1024), 1.0)


#: What the size in force must reach of the best one. Slow sizes are found by looking, which takes
#: longer than to draw a line.
FLOORS = dict.fromkeys(COSTS, 0.95) | {"spills": 0.9}


def median_of_three(reached: Callable[[int], float]) -> float:
    return statistics.median(reached(seed) for seed in range(3))


@pytest.mark.parametrize("name", COSTS)
def test_the_best_size_is_found_within_ten_seconds(name: str) -> None:
    cost = COSTS[name]

    def reached(seed: int) -> float:
        machine = Machine(cost, seed, seeds(cost))
        size = machine.run(10)
        assert machine.told().latency_ms <= 1.03 * 50
        return jobs_per_ms(cost, size) / best(cost)

    assert median_of_three(reached) >= FLOORS[name]


@pytest.mark.parametrize("name", COSTS)
def test_it_is_found_from_nothing_too(name: str) -> None:
    cost = COSTS[name]
    assert Machine(cost, 0).tuner.limit(POLICY) == 1

    def reached(seed: int) -> float:
        return jobs_per_ms(cost, Machine(cost, seed).run(10)) / best(cost)

    assert median_of_three(reached) >= FLOORS[name]


@pytest.mark.parametrize("factor", [0.33, 2.0])
@pytest.mark.parametrize("name", COSTS)
def test_a_machine_that_turns_is_followed_within_ten_seconds(name: str, factor: float) -> None:
    def reached(seed: int) -> float:
        speed = [1.0]

        def cost(size: int) -> float:
            return COSTS[name](size) * speed[0]

        machine = Machine(cost, seed, seeds(cost))
        machine.run(15)
        speed[0] = factor
        size = machine.run(10)
        assert cost(size) * 2.066 <= 1.1 * 50, "the objective is held again"
        return jobs_per_ms(cost, size) / best(cost)

    assert median_of_three(reached) >= FLOORS[name]


def test_a_model_whose_shape_changes_is_followed_too() -> None:
    def reached(seed: int) -> float:
        line = [Line(1.0, 0.1)]

        def cost(size: int) -> float:
            return line[0].at(size)

        machine = Machine(cost, seed, seeds(cost))
        machine.run(15)
        line[0] = Line(12.0, 0.03)
        return jobs_per_ms(cost, machine.run(20)) / best(cost)

    assert median_of_three(reached) >= 0.85


def test_a_new_policy_holds_at_once() -> None:
    machine = Machine(COSTS["middling"], 1, seeds(COSTS["middling"]))
    machine.run(5)
    tighter = POLICY.model_copy(update={"latency_objective_ms": 20})
    assert machine.tuner.limit(tighter) < 100
    assert machine.tuner.limit(POLICY.model_copy(update={"mode": "static"})) == 0


def test_no_batch_is_larger_than_the_bound() -> None:
    policy = POLICY.model_copy(update={"max_batch_size": 48})
    machine = Machine(COSTS["cheap"], 1, seeds(COSTS["cheap"]))
    machine.run(10, policy)
    assert machine.largest == 48


def test_what_was_foretold_is_held_against_what_came() -> None:
    machine = Machine(COSTS["middling"], 1, seeds(COSTS["middling"]))
    machine.run(10)
    told = machine.told()
    assert told.error is not None
    assert told.error < 0.15
    assert told.observed_ms == pytest.approx(told.cost_ms, rel=0.1)
    assert told.fixed_ms + told.per_job_ms * told.size == pytest.approx(told.cost_ms, rel=0.1)


def test_nothing_is_told_before_anything_is_chosen() -> None:
    tuner = Tuner()
    assert tuner.told("cpu/1") is None
    tuner.note(4, 2.0)
    assert tuner.told("cpu/1") is None
