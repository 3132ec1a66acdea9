"""A route is kept to within a few jobs, by every client, thread and forked child."""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel._way import Target, Turns, Way
from umbel_batching.lanes import Lane
from umbel_registry import Route, Signature, TensorSpec
from umbel_registry.route import SPACE, position_of

SPEC = {"x": TensorSpec(dtype="float32")}
SIGNATURE = Signature(inputs=SPEC, outputs=SPEC)


def way(route: Route, turns: Turns | None = None) -> Way:
    targets = {
        name: Target(Lane(model="digits", version=name), SIGNATURE) for name in route.weights
    }
    return Way(route, targets, turns or Turns())


def ninety_ten() -> Way:
    return way(Route.of({"3": 90, "4": 10}))


def counts(groups: Iterable[tuple[Target, Sequence[int]]]) -> Counter[str]:
    return Counter({target.lane.version: len(rows) for target, rows in groups})


def versions(groups: Iterable[tuple[Target, Sequence[int]]]) -> list[str]:
    """The version of each row, in order."""
    pairs = [(row, target.lane.version) for target, rows in groups for row in rows]
    assert [row for row, _ in sorted(pairs)] == list(range(len(pairs)))
    return [version for _, version in sorted(pairs)]


def test_hundred_thousand_jobs_are_split_within_a_few() -> None:
    for _ in range(5):
        split = counts(ninety_ten().many(100_000))
        assert abs(split["4"] - 10_000) <= 5
        assert split["3"] + split["4"] == 100_000


@pytest.mark.parametrize("sizes", [[1] * 3000, [7] * 400, [1, 2, 3, 250, 1000] * 5, [5000]])
def test_however_they_come_jobs_are_split_within_a_few(sizes: list[int]) -> None:
    here, split, done = ninety_ten(), Counter[str](), 0
    for size in sizes:
        split += counts(here.many(size))
        done += size
        assert abs(split["4"] - done / 10) <= 5


def test_single_jobs_and_many_share_one_sequence() -> None:
    here = ninety_ten()
    split = Counter(here.one().lane.version for _ in range(1000)) + counts(here.many(1000))
    split += Counter(here.one().lane.version for _ in range(1000))
    assert abs(split["4"] - 300) <= 5


@given(
    st.dictionaries(st.sampled_from("abcdefg"), st.integers(1, 100), min_size=2),
    st.integers(1, 3000),
)
@settings(max_examples=60)
def test_every_version_has_its_share_after_any_number_of_jobs(
    weights: dict[str, int], count: int
) -> None:
    split, total = counts(way(Route.of(weights)).many(count)), sum(weights.values())
    assert sum(split.values()) == count
    for name, weight in weights.items():
        assert abs(split[name] - count * weight / total) <= 6


def test_first_jobs_of_many_fresh_clients_are_unbiased() -> None:
    route = Route.of({"3": 90, "4": 10})
    first = Counter(way(route).one().lane.version for _ in range(2000))
    assert abs(first["4"] - 200) <= 5 * math.sqrt(2000 * 0.1 * 0.9)
    many = sum((counts(way(route).many(1)) for _ in range(2000)), Counter[str]())
    assert abs(many["4"] - 200) <= 5 * math.sqrt(2000 * 0.1 * 0.9)


def test_programs_that_seed_their_chance_do_not_all_begin_alike() -> None:
    firsts = set()
    for _ in range(5):
        random.seed(42)
        firsts.add(Turns().take(1))
    assert len(firsts) == 5


def test_turns_of_one_call_go_on_from_those_of_the_last() -> None:
    turns = Turns()
    first = turns.take(0)
    assert turns.points(0).tolist() == []
    singles = [turns.take(1) for _ in range(5)]
    several = turns.points(5).tolist()
    assert singles[0] == first
    steps = {(then - now) % SPACE for now, then in pairwise(singles)}
    steps |= {(then - now) % SPACE for now, then in pairwise(several)}
    assert steps == {(several[0] - singles[-1]) % SPACE}
    assert all(0 <= point < SPACE for point in turns.points(1000).tolist())


def test_threads_take_no_turn_twice() -> None:
    turns, taken = Turns(), list[int]()
    begin = threading.Barrier(4)

    def take() -> None:
        begin.wait()
        mine = [turns.take(1) for _ in range(500)]
        mine += turns.points(500).tolist()
        taken.extend(mine)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 4000


def first_turn_of_a_child(turns: Turns) -> int:
    """Forks, and returns the first turn that the child takes."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests' threads may live
        pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)  # one that waits for a lock for ever must not outlive the test
        try:
            os.write(writing, str(turns.take(1)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the child took no turn"
    return int(told)


def test_forked_children_do_not_all_begin_where_their_parent_is() -> None:
    """A server that forks for each request would else send all of them to one version."""
    turns = Turns()
    mine = turns.take(1)
    with turns._lock:  # as a thread may hold it that is not there in the child
        theirs = [first_turn_of_a_child(turns) for _ in range(4)]
    step = (turns.take(1) - mine) % SPACE
    assert len({*theirs, (mine + step) % SPACE}) == 5


def test_key_decides_whatever_the_turn_and_whoever_asks() -> None:
    route = Route.of({"3": 50, "4": 30, "5": 20})
    keys = [f"customer {number}" for number in range(300)]
    expected = [route.at(position_of("digits", key)) for key in keys]
    assert len({*expected}) == 3
    for here in (way(route), way(route)):
        assert versions(here.many(300, keys)) == expected
        assert [here.one(key).lane.version for key in keys] == expected
        assert [here.one(key).lane.version for key in reversed(keys)] == expected[::-1]


def test_rows_without_a_key_are_spread_among_those_with_one() -> None:
    here = ninety_ten()
    keys = [f"customer {number}" if number % 3 else None for number in range(3000)]
    found = versions(here.many(3000, keys))
    route = Route.of({"3": 90, "4": 10})
    for key, version in zip(keys, found, strict=True):
        if key is not None:
            assert version == route.at(position_of("digits", key))
    free = Counter(version for key, version in zip(keys, found, strict=True) if key is None)
    assert abs(free["4"] - 100) <= 5


@pytest.mark.parametrize("every", [2, 55, 144])
def test_keys_take_no_turn_from_those_without(every: int) -> None:
    """Of 144 steps of the golden section the last ends almost where the first began."""
    here, split = ninety_ten(), Counter[str]()
    keys: list[str | None] = ["same"] * every
    keys[0] = None
    for _ in range(300):
        split[versions(here.many(every, keys))[0]] += 1
    assert abs(split["4"] - 30) <= 5


def test_one_version_needs_no_turn_and_no_key() -> None:
    turns = Turns()
    here = way(Route.of({"3": 1}), turns)
    before = turns.take(0)
    assert here.single
    assert here.one() is here.one("key") is here.main
    assert here.many(3) == here.many(3, ["a", None, "b"]) == [(here.main, range(3))]
    assert here.many(0) == [(here.main, range(0))]
    assert turns.take(0) == before


def test_nothing_goes_nowhere() -> None:
    assert ninety_ten().many(0) == []
    assert ninety_ten().many(0, []) == []


def test_the_largest_share_is_the_main_one() -> None:
    assert way(Route.of({"3": 10, "4": 90})).main.lane.version == "4"


def test_extreme_weights_find_their_lanes() -> None:
    here = way(Route.of({"big": 1e9, **{f"v{place}": 1e-9 for place in range(199)}}))
    assert counts(here.many(1000)) == {"big": 1000}
    equal = way(Route.of({f"v{place}": 1 for place in range(200)}))
    split = counts(equal.many(20_000))
    assert max(abs(split[f"v{place}"] - 100) for place in range(200)) <= 6


def test_changed_route_goes_on_with_the_turns_that_were() -> None:
    turns = Turns()
    before, now = (way(Route.of({"3": 100 - part, "4": part}), turns) for part in (10, 20))
    split = counts(before.many(1000)) + counts(now.many(1000))
    assert abs(split["4"] - 300) <= 8


def test_points_are_exact_at_the_borders() -> None:
    route = Route.of({"3": 3, "4": 1})
    here = way(route)
    border = SPACE * 3 // 4
    ends = np.array([0, border - 1, border, SPACE - 1], dtype=np.uint64)
    here._turns.points = lambda count: ends[:count]  # type: ignore[method-assign]
    assert versions(here.many(4)) == ["3", "3", "4", "4"]
    assert versions(here.many(4)) == [route.at(int(point)) for point in ends]
