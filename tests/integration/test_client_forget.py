"""Jobs that are gone: forgotten, past their time, or lost with the data of Redis."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis

from umbel import (
    AsyncClient,
    Client,
    Job,
    JobLost,
    JobNotFound,
    ModelNotFound,
    ResultExpired,
    State,
    StoreUnsuitable,
)
from umbel_batching.census import lane_statuses
from umbel_batching.keys import shared_keys
from umbel_config.connect import connect
from umbel_config.settings import Settings

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, NoKeyLeaks, Register, WaitUntil

Rows = Callable[..., Any]
Serve = Callable[..., Any]
Own = Callable[..., Any]
VERBS = ("state", "result", "cancel", "info", "wait", "done")
UNKNOWN = "aaaaaaaa-" + "0" * 32


def assert_gone(job: Job, state: State) -> None:
    for verb in VERBS:
        with pytest.raises(ResultExpired, match="forgotten") as caught:
            getattr(job, verb)()
        assert caught.value.state == state
        assert caught.value.finished_at >= 1_700_000_000_000


@pytest.fixture
def lone(
    settings: MakeSettings, register: Register, own_redis: Own
) -> tuple[Any, Settings, redis.Redis]:
    """A Redis of the test's own, settings for it, and a client to harm it with."""
    server = own_redis()
    site = settings(redis_url=server.url, allowed_modules=("umbel_test_handlers",))
    register(site)
    return server, site, connect(server.url)


def test_forgotten_job_is_gone_whatever_its_state(
    client: Client, site: Settings, serve: Serve, rows: Rows, store_redis: redis.Redis
) -> None:
    unlucky = rows(1)[0]
    unlucky[0] = 13
    cancelled, queued = client.submit_many("affine", rows(2))
    cancelled.cancel()
    queued.forget()
    late = client.submit("affine", rows(1)[0], timeout=0.001)
    serve(site)
    done, failed = client.submit("affine", rows(1)[0]), client.submit("affine", unlucky)
    assert all(job.wait(20) for job in (done, failed, late, cancelled))
    ends = {cancelled: State.CANCELLED, late: State.EXPIRED, done: State.SUCCEEDED}
    for job in (*ends, failed):
        job.forget()
    for job, state in (ends | {failed: State.FAILED, queued: State.CANCELLED}).items():
        assert_gone(job, state)
        assert_gone(client.job(job.id), state)
        job.forget()
        left = list(store_redis.scan_iter(f"{site.namespace}:*{job.id[9:]}*"))
        assert left == []
    dead = list(store_redis.scan_iter(f"{site.namespace}:*:rec*"))
    assert dead == [], "the input of the failed job is not kept as evidence either"


def test_running_job_can_be_forgotten_and_its_neighbours_succeed(
    client: Client, site: Settings, serve: Serve, rows: Rows, gate: Any, wait_until: WaitUntil
) -> None:
    jobs = client.submit_many("affine", rows(16))
    serve(site)
    wait_until(lambda: jobs[3].state() is State.RUNNING, "the batch runs")
    jobs[3].forget()
    gate()
    for place, job in enumerate(jobs):
        if place != 3:
            np.testing.assert_array_equal(job.result(timeout=20), rows(16)[place] * 2 + 1)
    assert_gone(jobs[3], State.CANCELLED)


def test_who_waits_for_a_job_that_is_forgotten_is_told(client: Client, rows: Rows) -> None:
    job = client.submit("affine", rows(1)[0])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.job(job.id).result)
        job.forget()
        with pytest.raises(ResultExpired):
            waiting.result(timeout=20)


def test_unknown_job_cannot_be_forgotten(client: Client) -> None:
    with pytest.raises(JobNotFound):
        client.job(UNKNOWN).forget()


def test_forgetting_leaves_no_key_behind(
    site: Settings, serve: Serve, rows: Rows, no_key_leaks: NoKeyLeaks, wait_until: WaitUntil
) -> None:
    namespace = site.namespace
    permanent = [f"{namespace}:*:lane", f"{namespace}:lanes", f"{namespace}:store"]
    permanent += [f"{namespace}:registry*"]
    with no_key_leaks(namespace, permanent), Client(settings=site) as client:
        keys = [f"k{place}" for place in range(100)]
        jobs = client.submit_many("affine", rows(100), idempotency_keys=keys)
        jobs[0].forget()
        serve(site)
        assert all(job.wait(20) for job in jobs[1:])
        for job in jobs[1:50]:
            job.forget()
        with connect(site) as store:
            busy = [f"{namespace}:wake", f"{namespace}:signal"]
            wait_until(lambda: not store.exists(*busy), "the flusher has nothing left to do")


def test_result_past_its_time_is_told_from_a_job_that_never_was(
    settings: MakeSettings,
    register: Register,
    serve: Serve,
    rows: Rows,
    store_redis: redis.Redis,
    wait_until: WaitUntil,
) -> None:
    site = settings(allowed_modules=("umbel_test_handlers",), result_ttl_s=1)
    register(site)
    serve(site)
    with Client(settings=site) as client:
        job = client.submit("affine", rows(1)[0])
        assert job.wait(20)
        finished_at = job.info().finished_at
        wait_until(
            lambda: not list(store_redis.scan_iter(f"{site.namespace}:*:job:*")), "it expires"
        )
        np.testing.assert_array_equal(job.result(), rows(1)[0] * 2 + 1)  # it was pushed in time
        with pytest.raises(ResultExpired, match=r"succeeded at .* kept for 1 s") as caught:
            client.job(job.id).result(timeout=20)
        assert caught.value.finished_at == finished_at
        with pytest.raises(JobNotFound) as never:
            client.job(UNKNOWN).result(timeout=20)
        assert type(never.value) is JobNotFound


def test_own_job_without_a_trace_is_lost_and_anothers_is_not_found(
    client: Client, site: Settings, rows: Rows, store_redis: redis.Redis
) -> None:
    """As after a crash that took the latest writes along: the store is the same one."""
    job = client.submit("affine", rows(1)[0])
    for key in store_redis.scan_iter(f"{site.namespace}:*:job:*"):
        store_redis.delete(key)
    with pytest.raises(JobLost, match="latest writes"):
        job.result(timeout=20)
    with Client(settings=site) as other, pytest.raises(JobNotFound) as caught:
        other.job(job.id).state()
    assert type(caught.value) is JobNotFound


def test_flushall_ends_all_waiting_with_job_lost(
    lone: tuple[Any, Settings, redis.Redis], rows: Rows, wait_until: WaitUntil
) -> None:
    _, site, store = lone
    with Client(settings=site) as client, store:
        jobs = client.submit_many("affine", rows(5))
        mapped = client.map("affine", rows(400), return_errors=True)
        with ThreadPoolExecutor(4) as pool:
            ends = [
                pool.submit(jobs[0].result),
                pool.submit(list, client.as_completed(jobs[1:3])),
                pool.submit(next, client.map("affine", rows(3))),
                pool.submit(list, mapped),
            ]
            wait_until(
                lambda: sum(lane.waiting for lane in lane_statuses(store, site.namespace)) == 408,
                "all are queued",
            )
            store.flushall()
            for future in ends[:3]:
                with pytest.raises(JobLost, match=r"lost its data.*submit it again"):
                    future.result(timeout=20)
            outs = ends[3].result(timeout=20)
        assert [type(out) for out in outs] == [JobLost] * 400


def test_client_starts_over_after_flushall(
    lone: tuple[Any, Settings, redis.Redis], register: Register, serve: Serve, rows: Rows
) -> None:
    _, site, store = lone
    with Client(settings=site) as client, Client(settings=site) as other, store:
        jobs = client.submit_many("affine", rows(2))
        assert other.job(jobs[0].id).state() is State.QUEUED
        asked = other.job(jobs[1].id)
        store.flushall()
        for ask in (asked.result, asked.info, jobs[0].state, jobs[0].forget, jobs[0].cancel):
            with pytest.raises(JobLost):
                ask()
        with pytest.raises(JobNotFound) as caught:
            client.job(jobs[0].id).state()
        assert type(caught.value) is JobNotFound
        with pytest.raises(ModelNotFound):
            client.submit("affine", rows(1)[0])
        register(site)
        serve(site)
        again = client.submit("affine", rows(1)[0])
        np.testing.assert_array_equal(again.result(timeout=20), rows(1)[0] * 2 + 1)


async def test_async_client_is_told_of_the_loss_too(
    lone: tuple[Any, Settings, redis.Redis], rows: Rows
) -> None:
    _, site, store = lone
    async with AsyncClient(settings=site) as client:
        jobs = await client.submit_many("affine", rows(3))
        with store:
            store.flushall()
        with pytest.raises(JobLost):
            await jobs[0].result()
        with pytest.raises(JobLost):
            assert [job async for job in client.as_completed(jobs)] == []
        for verb in (*VERBS, "forget"):
            with pytest.raises(JobLost):
                await getattr(jobs[1], verb)()
        with pytest.raises(ModelNotFound):
            await client.submit("affine", rows(1)[0])


async def test_async_job_is_forgotten_alike(site: Settings, serve: Serve, rows: Rows) -> None:
    serve(site)
    async with AsyncClient(settings=site) as client:
        done, queued = await client.submit_many("affine", rows(2))
        await done.result(timeout=20)
        for job in (done, queued):
            await job.forget()
            await job.forget()
            for verb in VERBS:
                with pytest.raises(ResultExpired, match="forgotten"):
                    await getattr(job, verb)()
        with pytest.raises(JobNotFound):
            await client.job(UNKNOWN).forget()


def test_restart_without_persistence_is_a_loss_too(
    lone: tuple[Any, Settings, redis.Redis], rows: Rows
) -> None:
    server, site, _ = lone
    with Client(settings=site) as client, ThreadPoolExecutor(1) as pool:
        job = client.submit("affine", rows(1)[0])
        waiting = pool.submit(job.result)
        server.kill()
        server.start()
        with pytest.raises(JobLost):
            waiting.result(timeout=30)


async def test_data_of_another_layout_is_refused_at_once(
    site: Settings, rows: Rows, store_redis: redis.Redis
) -> None:
    store_redis.set(shared_keys(site.namespace).store, "1 0123456789abcdef")
    with Client(settings=site) as client:
        with pytest.raises(StoreUnsuitable, match="layout 1"):
            client.submit("affine", rows(1)[0])
        with pytest.raises(StoreUnsuitable, match="layout 1"):
            client.job(UNKNOWN).result()
    async with AsyncClient(settings=site) as other:
        with pytest.raises(StoreUnsuitable, match="layout 1"):
            await other.submit("affine", rows(1)[0])
