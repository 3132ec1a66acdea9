"""The client under pressure: priorities, a full Redis, an outage, remembered outcomes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis

from umbel import (
    AsyncClient,
    Client,
    InvalidInput,
    Job,
    Priority,
    ResultTimeout,
    StoreFull,
    StoreUnavailable,
)
from umbel_config.connect import connect
from umbel_config.settings import Settings

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register, WaitUntil

Rows = Callable[..., Any]
Serve = Callable[..., Any]
WIDTH = 2000
WIDE = {"dtype": "float32", "shape": [WIDTH]}


def wide(count: int) -> Any:
    """Rows of 8 KB."""
    return np.full((count, WIDTH), 100, np.float32) + np.arange(count, dtype=np.float32)[:, None]


@pytest.fixture
def small(
    settings: MakeSettings, register: Register, own_redis: Callable[..., Any], serve: Serve
) -> Iterator[tuple[Settings, redis.Redis]]:
    """A Redis that has 8 MiB for jobs until ``serve`` ends, and a model of wide rows."""
    server = own_redis()
    site = settings(redis_url=server.url, allowed_modules=("umbel_test_handlers",), result_ttl_s=1)
    register(site, "wide", inputs={"x": WIDE}, outputs={"y": WIDE})
    store = connect(server.url)
    store.config_set("maxmemory", store.info("memory")["used_memory"] + 8 * 2**20)
    yield site, store
    store.config_set("maxmemory", 0)


def now_ms(store: redis.Redis) -> int:
    seconds, micros = store.time()
    return seconds * 1000 + micros // 1000


@pytest.fixture
def mortal(
    settings: MakeSettings, register: Register, own_redis: Callable[..., Any]
) -> tuple[Any, Settings]:
    """A Redis that keeps every write, to be killed and started, and settings for it."""
    server = own_redis("--appendonly", "yes", "--appendfsync", "always")
    site = settings(redis_url=server.url, allowed_modules=("umbel_test_handlers",))
    register(site)
    return server, site


def test_higher_classes_run_first_and_lower_ones_do_not_starve(
    site: Settings,
    register: Register,
    serve: Serve,
    rows: Rows,
    store_redis: redis.Redis,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEST_PAUSE_MS", "3")  # so that no two batches start in one millisecond
    register(site, "narrow", max_batch_size=4)
    with Client(settings=site) as client:
        low = client.submit_many("narrow", rows(16), priority="low")
        arrived = low[-1].info().created_at
        wait_until(lambda: now_ms(store_redis) > arrived, "the low ones are the oldest")
        normal = client.submit_many("narrow", rows(16))
        high = [client.submit("narrow", row, priority=Priority.HIGH) for row in rows(16)]
        assert [jobs[0].info().priority for jobs in (low, normal, high)] == [*Priority][::-1]
        serve(site)
        assert all(job.wait(20) for job in [*low, *normal, *high])
        starts = [[job.info().started_at or 0 for job in jobs] for jobs in (high, normal, low)]
    means = [sum(each) / len(each) for each in starts]
    assert means == sorted(means)
    assert min(starts[2]) < max(starts[0]), "a low one ran before the last high one"


@pytest.mark.parametrize("priority", ["urgent", "", None, 1])
def test_priority_that_does_not_exist_queues_nothing(
    client: Client, rows: Rows, queued: Callable[[], int], priority: Any
) -> None:
    for refuse in (
        lambda: client.submit("affine", rows(1)[0], priority=priority),
        lambda: client.submit_many("affine", rows(2), priority=priority),
        lambda: list(client.map("affine", rows(2), priority=priority)),
    ):
        with pytest.raises(InvalidInput, match="high, normal, low"):
            refuse()
    assert queued() == 0


def test_full_redis_takes_no_new_job_and_loses_none(
    small: tuple[Settings, redis.Redis], serve: Serve
) -> None:
    site, _ = small
    with Client(settings=site) as client:
        with pytest.raises(StoreFull, match="maxmemory") as caught:
            client.submit_many("wide", wide(3000))
        jobs = caught.value.jobs
        assert 0 < caught.value.accepted == len(jobs) < 3000
        singles: list[Job] = []
        with pytest.raises(StoreFull) as single:
            singles.extend(client.submit("wide", row) for row in wide(3000))
        assert single.value.retryable
        assert single.value.accepted == 0
        expected = client._session.inbox().expected()
        assert sorted(expected) == sorted(job.id for job in [*jobs, *singles])
        serve(site)
        outs = [job.result(timeout=30) for job in jobs]
        np.testing.assert_array_equal(np.stack(outs), wide(len(jobs)) * 2 + 1)


def test_full_redis_has_room_again_once_results_are_forgotten(
    small: tuple[Settings, redis.Redis], serve: Serve, wait_until: WaitUntil
) -> None:
    site, _ = small
    with Client(settings=site) as client:
        with pytest.raises(StoreFull) as caught:
            client.submit_many("wide", wide(3000))
        serve(site)
        for job in caught.value.jobs:
            assert job.wait(30)
            job.forget()

        def accepted() -> Any:
            try:
                return client.submit("wide", wide(1)[0])
            except StoreFull:
                return None

        job = wait_until(accepted, "there is room again")
        np.testing.assert_array_equal(job.result(timeout=20), wide(1)[0] * 2 + 1)


def test_map_slows_down_for_a_full_redis(
    small: tuple[Settings, redis.Redis], serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Results expire after a second, so room comes back again and again."""
    site, store = small
    caplog.set_level(logging.WARNING, "umbel.client")
    serve(site)
    with Client(settings=site) as client:
        outs = list(client.map("wide", wide(1500)))
    np.testing.assert_array_equal(np.stack(outs), wide(1500) * 2 + 1)
    assert store.info("stats")["total_error_replies"] > 0
    assert "before it submits more" in caplog.text


async def test_async_client_meets_a_full_redis_alike(
    small: tuple[Settings, redis.Redis], serve: Serve
) -> None:
    site, _ = small
    async with AsyncClient(settings=site) as client:
        with pytest.raises(StoreFull) as caught:
            await client.submit_many("wide", wide(3000))
        jobs = caught.value.jobs
        assert 0 < caught.value.accepted == len(jobs) < 3000
        assert len(client._session.inbox.expected()) == len(jobs)
        serve(site)
        outs = [await job.result(timeout=30) for job in jobs]
        np.testing.assert_array_equal(np.stack(outs), wide(len(jobs)) * 2 + 1)
        mapped = [out async for out in client.map("wide", wide(1500))]
        np.testing.assert_array_equal(np.stack(mapped), wide(1500) * 2 + 1)


def test_who_waits_bears_an_outage_and_it_is_logged_once(
    mortal: tuple[Any, Settings],
    serve: Serve,
    rows: Rows,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, site = mortal
    caplog.set_level(logging.INFO, "umbel.client")
    with Client(settings=site) as client, ThreadPoolExecutor(8) as pool:
        jobs = client.submit_many("affine", rows(20))
        waiting = [pool.submit(job.result) for job in jobs[:6]]
        both = pool.submit(lambda: {job.id for job in client.as_completed(jobs)})
        server.kill()
        wait_until(lambda: "Redis is away" in caplog.text, "the outage is noticed")
        with pytest.raises(ResultTimeout, match=r"after 0\.1 s, and Redis does not") as caught:
            jobs[0].result(timeout=0.1)
        assert isinstance(caught.value.__cause__, StoreUnavailable)
        assert not jobs[1].wait(0.1)
        with pytest.raises(ResultTimeout, match=r"20 jobs.*Redis does not answer"):
            list(client.as_completed(jobs, timeout=0.1))
        assert not any(future.done() for future in [*waiting, both])
        server.start()
        serve(site)
        outs = [future.result(timeout=30) for future in waiting]
        np.testing.assert_array_equal(np.stack(outs), rows(6) * 2 + 1)
        assert both.result(timeout=30) == {job.id for job in jobs}
    assert caplog.text.count("Redis is away") == 1


def test_map_goes_on_after_an_outage_and_computes_nothing_twice(
    mortal: tuple[Any, Settings],
    serve: Serve,
    rows: Rows,
    wait_until: WaitUntil,
    queued: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("umbel._stream.MAP_WINDOW", 512)
    server, site = mortal
    with Client(settings=site) as client, ThreadPoolExecutor(1) as pool:
        mapping = pool.submit(list, client.map("affine", rows(2000)))
        with connect(server.url) as store:
            wait_until(lambda: store.keys(f"{site.namespace}:*:waiting"), "map has begun")
        server.kill()
        server.start()
        serve(site)
        outs = mapping.result(timeout=60)
        np.testing.assert_array_equal(np.stack(outs), rows(2000) * 2 + 1)
        with connect(server.url) as store:
            (lane,) = store.scan_iter(f"{site.namespace}:*:lane")
            assert int(store.hget(lane, "submitted") or 0) == 2000


async def test_redis_that_never_answered_is_not_waited_for(
    mortal: tuple[Any, Settings], rows: Rows
) -> None:
    server, site = mortal
    server.kill()
    with Client(settings=site) as client:
        for ask in (
            client.job("aaaaaaaa-" + "0" * 32).result,
            lambda: list(client.map("affine", rows(3))),
            lambda: client.submit("affine", rows(1)[0]),
        ):
            with pytest.raises(StoreUnavailable):
                ask()
    async with AsyncClient(settings=site) as other:
        with pytest.raises(StoreUnavailable):
            await other.job("aaaaaaaa-" + "0" * 32).result()
        with pytest.raises(StoreUnavailable):
            assert [out async for out in other.map("affine", rows(3))] == []


async def test_async_waiters_bear_an_outage(
    mortal: tuple[Any, Settings], serve: Serve, rows: Rows
) -> None:
    server, site = mortal
    async with AsyncClient(settings=site) as client:
        jobs = await client.submit_many("affine", rows(5))
        server.kill()
        with pytest.raises(ResultTimeout, match="Redis does not answer"):
            await jobs[0].result(timeout=0.1)
        assert not await jobs[0].wait(0.1)
        with pytest.raises(ResultTimeout, match="Redis does not answer"):
            assert [job async for job in client.as_completed(jobs, timeout=0.1)] == []
        server.start()
        serve(site)
        outs = [await job.result() for job in jobs]
        np.testing.assert_array_equal(np.stack(outs), rows(5) * 2 + 1)


async def test_remembered_outcomes_are_pushed_at_once(
    site: Settings,
    register: Register,
    serve: Serve,
    rows: Rows,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With such a pause between polls only the push can bring them."""
    monkeypatch.setattr("umbel._job.PUSHED_POLL_S", 60.0)
    monkeypatch.setattr("umbel._aio_job.PUSHED_POLL_S", 60.0)
    register(site, "pure", cache_ttl_s=60)
    serving = serve(site)
    with Client(settings=site) as client:
        client.submit("pure", rows(1)[0]).result(timeout=20)
        serving.close()
        jobs = client.submit_many("pure", [rows(1)[0]] * 300)
        wait_until(lambda: all(job.outcome for job in jobs), "nobody polls, yet all are delivered")
        again = client.submit("pure", rows(1)[0], idempotency_key="k")
        np.testing.assert_array_equal(again.result(timeout=20), rows(1)[0] * 2 + 1)
        assert again.info().flush_reason == "cache"
    async with AsyncClient(settings=site) as other:
        job = await other.submit("pure", rows(1)[0])
        np.testing.assert_array_equal(await job.result(timeout=20), rows(1)[0] * 2 + 1)
