"""Routes as a producer meets them: jobs land in the right lanes, and nothing is lost in between."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis

from umbel import (
    AsyncClient,
    Client,
    IdempotencyConflict,
    LaneFull,
    VersionNotFound,
    VersionRetired,
)
from umbel import _models as ways
from umbel_batching.census import lane_statuses
from umbel_batching.lanes import slot_of, split_id
from umbel_config.settings import Settings
from umbel_registry import Catalog, ModelFile
from umbel_registry.manifest import build_manifest
from umbel_registry.paths import FileInfo
from umbel_registry.route import position_of
from umbel_registry.traffic_control import TrafficControl

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register, WaitUntil

KEYS = [f"customer {number}" for number in range(20_000)]
VERSIONS = {slot_of(f"tiny@{version}"): version for version in ("1", "2", "3", "4")}


@pytest.fixture
def shop(settings: MakeSettings, store_redis: redis.Redis) -> Iterator[Settings]:
    """Settings of a namespace with versions 1 to 4 of a model that nobody runs."""
    made = settings()
    for version in VERSIONS.values():
        model = ModelFile.model_validate(
            {
                "name": "tiny",
                "format": "torch_export",
                "weights": "model.pt2",
                "inputs": {"x": {"dtype": "float32", "shape": [1]}},
                "outputs": {"y": {"dtype": "float32"}},
                "batching": {"max_queue": 50 if version == "2" else 100_000},
            }
        )
        files = {"model.pt2": FileInfo(bytes=1, sha256=version.zfill(64))}
        Catalog(store_redis, made.namespace).register(build_manifest(model, files, version))
    yield made
    keys = list(store_redis.scan_iter(match=f"{made.namespace}*", count=10_000))
    store_redis.unlink(*keys)  # at once: there are tens of thousands


@pytest.fixture
def control(shop: Settings, store_redis: redis.Redis) -> TrafficControl:
    return TrafficControl(store_redis, shop.namespace, who="test")


@pytest.fixture
def waiting(store_redis: redis.Redis, namespace: str) -> Callable[[], dict[str, int]]:
    """Counts the jobs that wait, by version."""
    return lambda: {lane.version: lane.waiting for lane in lane_statuses(store_redis, namespace)}


@pytest.fixture
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has clients ask with each call whether the registry has moved."""
    monkeypatch.setattr(ways, "FRESH_S", -1.0)


def tiny(count: int) -> Any:
    return np.arange(count, dtype=np.float32).reshape(count, 1)


def versions(jobs: Iterable[Any]) -> list[str]:
    return [VERSIONS[split_id(job.id)[0]] for job in jobs]


def test_many_jobs_are_split_ninety_to_ten(
    shop: Settings, control: TrafficControl, waiting: Callable[[], dict[str, int]]
) -> None:
    control.route("tiny", {"3": 90, "4": 10})
    with Client(settings=shop) as client:
        jobs = client.submit_many("tiny", tiny(20_000))
        assert len({job.id for job in jobs}) == 20_000
        there = waiting()
        assert sum(there.values()) == 20_000
        assert abs(there["4"] - 2000) <= 5
        assert Counter(versions(jobs)) == there
        assert jobs[7].info().version == versions(jobs)[7]


def test_single_jobs_are_split_ninety_to_ten_by_threads_together(
    shop: Settings, control: TrafficControl, waiting: Callable[[], dict[str, int]]
) -> None:
    control.route("tiny", {"3": 90, "4": 10})
    with Client(settings=shop) as client, ThreadPoolExecutor(4) as pool:
        row = tiny(1)[0]
        jobs = list(pool.map(lambda _: client.submit("tiny", row), range(2000)))
    assert abs(waiting()["4"] - 200) <= 5
    assert Counter(versions(jobs)) == waiting()


async def test_async_jobs_are_split_ninety_to_ten(
    shop: Settings, control: TrafficControl, waiting: Callable[[], dict[str, int]]
) -> None:
    control.route("tiny", {"3": 90, "4": 10})
    async with AsyncClient(settings=shop) as client:
        many = await client.submit_many("tiny", tiny(3000))
        singles = await asyncio.gather(*(client.submit("tiny", row) for row in tiny(500)))
    assert abs(waiting()["4"] - 350) <= 5
    assert Counter(versions([*many, *singles])) == waiting()


def test_key_goes_to_one_version_whichever_client_and_process_asks(
    shop: Settings, control: TrafficControl, redis_url: str
) -> None:
    control.route("tiny", {"3": 40, "4": 30, "1": 30})
    route, keys = control.read("tiny").route, KEYS[:60]
    assert route is not None
    expected = [route.at(position_of("tiny", key)) for key in keys]
    assert len({*expected}) == 3
    with Client(settings=shop) as client:
        jobs = client.submit_many("tiny", tiny(60), routing_keys=keys)
        assert versions(jobs) == expected
        singles = [
            client.submit("tiny", row, routing_key=key)
            for row, key in zip(tiny(60), keys, strict=True)
        ]
        assert versions(singles) == expected

    async def others() -> list[str]:
        async with AsyncClient(settings=shop) as other:
            jobs = await other.submit_many("tiny", tiny(59), routing_keys=keys[:59])
            return versions([*jobs, await other.submit("tiny", tiny(1)[0], routing_key=keys[59])])

    assert asyncio.run(others()) == expected
    script = """
        import json, sys, numpy, umbel
        keys = json.load(sys.stdin)
        rows = numpy.zeros((len(keys), 1), numpy.float32)
        jobs = umbel.Client().submit_many("tiny", rows, routing_keys=keys)
        print(json.dumps([job.id for job in jobs]))
    """
    own = {"UMBEL_REDIS_URL": redis_url, "UMBEL_NAMESPACE": shop.namespace}
    printed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        input=json.dumps(keys).encode(),
        capture_output=True,
        check=True,
        env={**os.environ, **own},
        timeout=60,
    ).stdout
    assert [VERSIONS[split_id(job)[0]] for job in json.loads(printed)] == expected


def test_ten_to_twenty_percent_moves_just_the_keys_that_it_must(
    shop: Settings, control: TrafficControl, always_fresh: None
) -> None:
    with Client(settings=shop) as client:

        def owners() -> list[str]:
            groups = client._session.way("tiny", None).many(len(KEYS), KEYS)
            pairs = [(row, target.lane.version) for target, its in groups for row in its]
            return [version for _, version in sorted(pairs)]

        control.route("tiny", {"3": 90, "4": 10})
        before = owners()
        control.route("tiny", {"3": 80, "4": 20})
        now = owners()
        moves = Counter(pair for pair in zip(before, now, strict=True) if pair[0] != pair[1])
        assert moves.keys() == {("3", "4")}
        assert abs(moves["3", "4"] - 2000) <= 5 * math.sqrt(20_000 * 0.1 * 0.9)
        sample = [row for row in range(len(KEYS)) if before[row] != now[row]][:300]
        jobs = client.submit_many("tiny", tiny(300), routing_keys=[KEYS[row] for row in sample])
        assert versions(jobs) == ["4"] * 300
        control.roll_back("tiny")
        assert owners() == before


def test_change_is_followed_within_a_second_and_not_before(
    shop: Settings, control: TrafficControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    control.route("tiny", {"3": 1})
    row = tiny(1)[0]
    with Client(settings=shop) as client:
        monkeypatch.setattr(ways, "FRESH_S", 1000.0)
        jobs = [client.submit("tiny", row), client.submit("tiny", row, version="1")]
        control.route("tiny", {"4": 1})
        control.retire("tiny", "1")
        jobs += [client.submit("tiny", row), client.submit("tiny", row, version="1")]
        assert versions(jobs) == ["3", "1", "3", "1"]
        monkeypatch.setattr(ways, "FRESH_S", -1.0)
        assert versions([client.submit("tiny", row)]) == ["4"]
        for _ in range(2):
            with pytest.raises(VersionRetired, match="umbel models retire tiny 1 --undo"):
                client.submit("tiny", row, version="1")
        control.bring_back("tiny", "1")
        assert versions([client.submit("tiny", row, version="1")]) == ["1"]


def test_names_of_versions_are_followed_and_route_nothing(
    shop: Settings, control: TrafficControl, always_fresh: None
) -> None:
    control.route("tiny", {"3": 50, "4": 50})
    control.alias("tiny", {"production": "1"})
    rows = tiny(20)
    with Client(settings=shop) as client:
        for word, version in (("production", "1"), ("latest", "4"), ("3", "3")):
            keyed = client.submit_many("tiny", rows, version=word, routing_keys=KEYS[:20])
            assert versions(keyed) == [version] * 20
        control.alias("tiny", {"production": "4"})
        assert versions([client.submit("tiny", rows[0], version="production")]) == ["4"]
        for word in ("", "5", "tiny@3", "Production"):
            with pytest.raises(VersionNotFound, match=f"has no version '{word}'"):
                client.submit("tiny", rows[0], version=word)


def test_version_that_has_vanished_is_named_as_what_is_missing(
    shop: Settings, control: TrafficControl, store_redis: redis.Redis, always_fresh: None
) -> None:
    control.alias("tiny", {"production": "1"})
    control.route("tiny", {"1": 1, "3": 1})
    store_redis.hdel(f"{shop.namespace}:registry:model:tiny", "1")
    with Client(settings=shop) as client:
        for word in (None, "production"):
            with pytest.raises(VersionNotFound, match=r"no version '1'.*It has: production, 2, 3"):
                client.submit("tiny", tiny(1)[0], version=word)
        assert versions([client.submit("tiny", tiny(1)[0], version="3")]) == ["3"]


def test_key_of_a_request_finds_its_job_whatever_version_its_turn_would_be(
    shop: Settings, control: TrafficControl, waiting: Callable[[], dict[str, int]]
) -> None:
    control.route("tiny", {"3": 50, "4": 50})
    row = tiny(1)[0]
    with Client(settings=shop) as client, Client(settings=shop) as other:
        first = client.submit("tiny", row, idempotency_key="order 7")
        for again in (client, other):
            found = [again.submit("tiny", row, idempotency_key="order 7") for _ in range(10)]
            found += again.submit_many("tiny", [row] * 10, idempotency_keys=["order 7"] * 10)
            assert {job.id for job in found} == {first.id}
        mixed = client.submit_many(
            "tiny", tiny(20), idempotency_keys=["order 7", *map(str, range(19))]
        )
        turned = other.submit_many(
            "tiny", tiny(20)[::-1], idempotency_keys=["order 7", *map(str, range(19))][::-1]
        )
        assert mixed[0].id == first.id
        assert [job.id for job in turned] == [job.id for job in mixed][::-1]
        assert sum(waiting().values()) == 20
        with pytest.raises(IdempotencyConflict) as caught:
            other.submit_many("tiny", tiny(40) + 5, idempotency_keys=[*map(str, range(40))])
        assert {job.id for job in caught.value.jobs}.isdisjoint(job.id for job in mixed)
        assert sum(waiting().values()) == 20 + caught.value.accepted


def test_full_lane_keeps_nothing_out_of_the_other(
    shop: Settings, control: TrafficControl, waiting: Callable[[], dict[str, int]]
) -> None:
    control.route("tiny", {"2": 50, "3": 50})
    with Client(settings=shop) as client:
        with pytest.raises(LaneFull, match="tiny@2") as caught:
            client.submit_many("tiny", tiny(1000))
        there = waiting()
        assert abs(there["3"] - 500) <= 5
        assert there["2"] > 25
        error = caught.value
        assert error.accepted == len(error.jobs) == len(error.rows) == sum(there.values())
        assert list(error.rows) == sorted({*error.rows})
        assert Counter(versions(error.jobs)) == there
        row = error.rows[-1]
        assert error.jobs[-1].info().state == "queued"
        assert row > 900


@pytest.mark.parametrize("given", [{"priority": "high"}, {"metadata": {"a": 1}}])
def test_all_lanes_get_what_a_call_asks_for(
    shop: Settings, control: TrafficControl, given: dict[str, Any]
) -> None:
    control.route("tiny", {"3": 50, "4": 50})
    url = "https://hooks.example/a"
    with Client(settings=shop) as client:
        jobs = client.submit_many("tiny", tiny(8), callback_url=url, timeout=600, **given)
        assert {*versions(jobs)} == {"3", "4"}
        for info in (job.info() for job in jobs):
            assert (info.priority, info.metadata) == (
                given.get("priority", "normal"),
                given.get("metadata", {}),
            )
            assert info.callback is not None


Mapping = Callable[[Settings, Any], list[Any]]


def mapped(site: Settings, rows: Any) -> list[Any]:
    with Client(settings=site) as client:
        return list(client.map("affine", rows))


def mapped_async(site: Settings, rows: Any) -> list[Any]:
    async def run() -> list[Any]:
        async with AsyncClient(settings=site) as client:
            return [out async for out in client.map("affine", rows)]

    return asyncio.run(run())


@pytest.mark.parametrize("run", [mapped, mapped_async])
def test_map_keeps_the_order_and_ends_once_full_lanes_have_room(
    settings: MakeSettings,
    register: Register,
    store_redis: redis.Redis,
    serve: Callable[..., Any],
    rows: Callable[[int], Any],
    wait_until: WaitUntil,
    run: Mapping,
) -> None:
    site = settings(allowed_modules=("umbel_test_handlers",))
    register(site, max_queue=60)
    register(site, max_queue=20)
    control = TrafficControl(store_redis, site.namespace)
    control.route("affine", {"1": 60, "2": 40})
    with ThreadPoolExecutor(1) as pool:
        outs = pool.submit(run, site, rows(150))
        wait_until(
            lambda: (
                [lane.waiting > 10 for lane in lane_statuses(store_redis, site.namespace)]
                == [True, True]
            ),
            "both lanes have taken what they can",
        )
        serve(site)
        np.testing.assert_array_equal(np.stack(outs.result(timeout=60)), rows(150) * 2 + 1)
    ended = {lane.version: lane.succeeded for lane in lane_statuses(store_redis, site.namespace)}
    assert sum(ended.values()) == 150
    assert abs(ended["2"] - 60) <= 5


def test_jobs_without_a_route_go_to_the_highest_live_version(
    shop: Settings, control: TrafficControl, always_fresh: None
) -> None:
    with Client(settings=shop) as client:
        assert versions([client.submit("tiny", tiny(1)[0])]) == ["4"]
        control.retire("tiny", "4")
        assert versions([client.submit("tiny", tiny(1)[0])]) == ["3"]
        assert versions([client.submit("tiny", tiny(1)[0], version="latest")]) == ["3"]
