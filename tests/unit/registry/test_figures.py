"""What workers measure: gathered in threads, added up in Redis, read back."""

from __future__ import annotations

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fakeredis
import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from umbel_config.errors import StoreUnavailable
from umbel_registry.figures import KEPT_S, Cells, Figures, FiguresStore, Tallies
from umbel_registry.histogram import Histogram
from umbel_registry.intervals import wilson
from umbel_registry.keys import figures_key
from umbel_registry.pairing import Pairing

KEY = ("digits", 7, "3")
#: Stands in for a number inside a value that is compared.
about: Any = pytest.approx
ALIKE = Pairing(equal=True, same_top=True, difference=1e-4)
APART = Pairing(equal=False, same_top=False, difference=0.5)
UNLIKE = Pairing(equal=False, same_top=None, difference=math.inf)


def filled() -> Tallies:
    tallies = Tallies()
    tallies.add(*KEY, np.array([5.0, 7.0, 7.01]), 2.5, 1, Cells(10, 4))
    tallies.add(*KEY, [80.0], 1.5, 0, Cells(6))
    tallies.add_pairs(*KEY, [ALIKE, APART, UNLIKE, ALIKE], failed=2)
    return tallies


FILLED = Figures(
    jobs=4,
    failed=1,
    batches=2,
    size_squared=10,
    failed_by_size=3,
    failed_squared=1,
    latency=Histogram.of([5.0, 7.0, 7.01, 80.0]),
    compute=Histogram.of([2.5, 1.5]),
    compute_ms=4.0,
    real_cells=16,
    padded_cells=4,
    pairs=4,
    equal=2,
    unlike=1,
    tops=3,
    same_top=2,
    difference=about(0.5002),
    largest=0.5,
    failed_pairs=2,
)


def test_batches_and_pairs_are_counted_until_they_are_taken() -> None:
    tallies = filled()
    assert tallies.take() == {KEY: FILLED}
    assert tallies.take() == {}


def test_versions_and_routes_are_kept_apart() -> None:
    tallies = Tallies()
    for number, version in ((7, "3"), (7, "4"), (8, "3")):
        tallies.add("digits", number, version, [1.0], 1.0, 0)
    tallies.add_pairs("other", 1, "1", [])
    taken = tallies.take()
    assert [*taken] == [
        ("digits", 7, "3"),
        ("digits", 7, "4"),
        ("digits", 8, "3"),
        ("other", 1, "1"),
    ]
    assert taken["other", 1, "1"] == Figures()


def test_no_batch_of_several_threads_is_lost() -> None:
    tallies, taken = Tallies(), []

    def work(_: int) -> None:
        for turn in range(200):
            tallies.add(*KEY, np.full(4, 3.0), 1.0, 1)
            if turn % 50 == 0:
                taken.append(tallies.take())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    told = [each[KEY] for each in (*taken, tallies.take()) if KEY in each]
    whole = Figures()
    for each in told:
        whole = whole.merge(each)
    assert (whole.jobs, whole.failed, whole.batches) == (3200, 800, 800)
    assert whole.latency == Histogram.of([3.0] * 3200)
    assert whole.compute.total == 800


def test_figures_merge() -> None:
    (figures,) = filled().take().values()
    twice = figures.merge(figures)
    assert twice.jobs == 8
    assert twice.latency.total == 8
    assert twice.difference == pytest.approx(1.0004)
    assert twice.largest == 0.5
    assert figures.merge(Figures()) == figures


@pytest.fixture(params=[False, True], ids=["bytes", "decoded"])
def store(request: pytest.FixtureRequest) -> FiguresStore:
    return FiguresStore(fakeredis.FakeRedis(decode_responses=request.param), "ns")


def test_what_two_workers_wrote_is_read_as_one(store: FiguresStore) -> None:
    more = Tallies()
    more.add(*KEY, [5.0], 1.0, 0)
    more.add_pairs(*KEY, [Pairing(equal=False, same_top=None, difference=0.25)])
    taken, other = filled().take(), more.take()
    store.add(taken)
    store.add(other)
    assert store.read("digits", 7, ["3"]) == {"3": taken[KEY].merge(other[KEY])}


def test_nothing_measured_is_read_as_empty_figures(store: FiguresStore) -> None:
    store.add({})
    assert store.read("digits", 7, ["3", "4", "3"]) == {"3": Figures(), "4": Figures()}
    assert store.read("digits", 7, []) == {}


def test_a_round_trip_over_a_real_redis(
    store_redis: redis.Redis, namespace: str, no_key_leaks: Any
) -> None:
    store = FiguresStore(store_redis, namespace)
    taken = filled().take() | {("digits", 7, "4"): Figures(jobs=1, latency=Histogram.of([9.0]))}
    with no_key_leaks(namespace):
        store.add(taken)
    assert store.read("digits", 7, ["3", "4"]) == {"3": FILLED, "4": taken["digits", 7, "4"]}
    store.add(taken)
    assert store.read("digits", 7, ["3"])["3"].largest == 0.5
    assert KEPT_S - 60 < store_redis.ttl(figures_key(namespace, *KEY)) <= KEPT_S


def test_fields_of_a_later_release_are_left_alone() -> None:
    client = fakeredis.FakeRedis()
    store = FiguresStore(client, "ns")
    store.add(filled().take())
    strange: dict[Any, Any] = {
        "l": "1",
        "l99999": "1",
        "lx": "1",
        "z5": "1",
        "latency": "x",
        "speed": "fast",
    }
    client.hset(figures_key("ns", *KEY), mapping=strange)
    assert store.read("digits", 7, ["3"]) == {"3": FILLED}


def test_an_unreachable_redis_is_told_as_such() -> None:
    server = fakeredis.FakeServer()
    store = FiguresStore(fakeredis.FakeRedis(server=server), "ns")
    server.connected = False
    with pytest.raises(StoreUnavailable):
        store.add(filled().take())
    with pytest.raises(StoreUnavailable):
        store.read("digits", 7, ["3"])


@given(
    st.lists(
        st.tuples(st.integers(1, 64), st.integers(0, 64)).map(lambda pair: (pair[0], min(pair))),
        max_size=30,
    )
)
def test_jobs_are_never_worth_more_than_there_are(batches: list[tuple[int, int]]) -> None:
    tallies = Tallies()
    for jobs, failed in batches:
        tallies.add(*KEY, np.ones(jobs), 1.0, failed)
    figures = tallies.take().get(KEY, Figures())
    assert figures.independent_jobs() <= figures.jobs
    assert figures.independent_jobs() > 0 or not figures.jobs


def of_batches(failed: Any, size: int) -> Figures:
    tallies = Tallies()
    for count in failed:
        tallies.add(*KEY, np.ones(size), 1.0, int(count))
    return tallies.take()[KEY]


def test_jobs_that_fail_alone_count_and_batches_that_fail_whole_count_once() -> None:
    rng = np.random.default_rng(1)
    alone = of_batches(rng.binomial(32, 0.1, 400), 32)
    assert alone.independent_jobs() == pytest.approx(alone.jobs, rel=0.2)
    together = of_batches(32 * rng.binomial(1, 0.1, 400), 32)
    assert together.independent_jobs() == pytest.approx(400, rel=0.01)
    assert of_batches([32, 32, 32], 32).independent_jobs() == 3
    never = of_batches([0] * 10, 32)
    assert (never.clumping, never.independent_jobs()) == (1, 320)
    assert never.independent_jobs(16) == 20
    assert never.independent_jobs(1000) == 10


def test_the_error_rate_is_covered_also_where_batches_fail_whole() -> None:
    rng = np.random.default_rng(2)
    rate, batches, size, repetitions = 0.05, 150, 16, 300
    naive = honest = 0
    for _ in range(repetitions):
        figures = of_batches(size * rng.binomial(1, rate, batches), size)
        naive += not wilson(figures.failed, figures.jobs).excludes(rate)
        n = figures.independent_jobs()
        honest += not wilson(figures.failed / figures.jobs * n, n).excludes(rate)
    assert honest / repetitions >= 0.92
    assert naive / repetitions < 0.6


def test_workers_and_producers_need_no_torch_for_figures() -> None:
    names = "comparison, figures, histogram, intervals, pairing"
    script = f"import sys\nfrom umbel_registry import {names}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_padding_is_told_only_where_inputs_have_lengths() -> None:
    assert FILLED.padding == 0.25
    assert Figures(jobs=3, batches=1).padding is None
