"""The asyncio client: the same promises, from one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis

from umbel import (
    AsyncClient,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobNotFound,
    LaneFull,
    ResultTimeout,
    State,
    StoreUnavailable,
)
from umbel_batching.keys import reply_channel
from umbel_config.settings import Settings

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register, WaitUntilAsync

Rows = Callable[..., Any]
Serve = Callable[..., Any]


def connections(store: redis.Redis) -> list[dict[str, str]]:
    ours = ("umbel-client", "umbel-listener")
    return [entry for entry in store.client_list() if entry["name"] in ours]


async def test_result_state_info_and_cancel(site: Settings, serve: Serve, rows: Rows) -> None:
    async with AsyncClient(settings=site) as client:
        job = await client.submit("affine", rows(1)[0], metadata={"a": 1})
        assert await job.state() is State.QUEUED
        assert "pending" in repr(job)
        serve(site)
        np.testing.assert_array_equal(await job.result(timeout=20), rows(1)[0] * 2 + 1)
        assert await job.done()
        assert not await job.cancel()
        info = await job.info()
        assert (info.state, info.metadata, info.model) == ("succeeded", {"a": 1}, "affine")
        again = client.job(job.id)
        np.testing.assert_array_equal(await again.result(timeout=0), rows(1)[0] * 2 + 1)


async def test_ways_to_end(site: Settings, serve: Serve, rows: Rows) -> None:
    async with AsyncClient(settings=site) as client:
        inputs = rows(3)
        inputs[1, 0] = 13
        jobs = await client.submit_many("affine", inputs)
        short = await client.submit("affine", rows(1)[0], timeout=0.001)
        assert await jobs[2].cancel()
        with pytest.raises(JobCancelled):
            await jobs[2].result(timeout=20)
        serve(site)
        assert await jobs[0].result(timeout=20) is not None
        with pytest.raises(JobFailed, match="unlucky"):
            await jobs[1].result(timeout=20)
        with pytest.raises(JobExpired):
            await short.result(timeout=20)
        for verb in ("state", "result", "cancel", "info", "wait", "done"):
            with pytest.raises(JobNotFound):
                await getattr(client.job("aaaaaaaa-" + "0" * 32), verb)()


@pytest.mark.parametrize("patience", [0, -1, 0.05])
async def test_waiting_ends_with_its_timeout(site: Settings, rows: Rows, patience: float) -> None:
    async with AsyncClient(settings=site) as client:
        job = await client.submit("affine", rows(1)[0])
        with pytest.raises(ResultTimeout):
            await job.result(timeout=patience)
        with pytest.raises(ResultTimeout, match="1 jobs"):
            assert [done async for done in client.as_completed([job], timeout=patience)] == []
        assert job.on_done in (None, [])


async def test_thousand_waiting_jobs_use_few_connections(
    site: Settings, serve: Serve, rows: Rows, store_redis: redis.Redis
) -> None:
    serve(site, threads=2)
    async with AsyncClient(settings=site) as client:

        async def one(row: Any) -> Any:
            job = await client.submit("affine", row)
            return await job.result(timeout=60)

        outs = await asyncio.gather(*[one(row) for row in rows(1000)])
        np.testing.assert_array_equal(np.stack(outs), rows(1000) * 2 + 1)
        assert len(connections(store_redis)) <= 20


async def test_map_and_as_completed(site: Settings, serve: Serve, rows: Rows) -> None:
    serve(site)
    async with AsyncClient(settings=site) as client:
        outs = [out async for out in client.map("affine", iter(rows(600)), progress=True)]
        np.testing.assert_array_equal(np.stack(outs), rows(600) * 2 + 1)
        jobs = await client.submit_many("affine", rows(100))
        others = [client.job(job.id) for job in await client.submit_many("affine", rows(10))]
        done = [job.id async for job in client.as_completed([*jobs, *others], timeout=30)]
        assert sorted(done) == sorted(job.id for job in [*jobs, *others])


async def test_map_closed_early_and_map_with_errors(
    site: Settings, serve: Serve, rows: Rows
) -> None:
    serve(site)
    inputs = rows(50)
    inputs[7, 0] = 13
    async with AsyncClient(settings=site) as client:
        outs = [out async for out in client.map("affine", inputs, return_errors=True)]
        assert [isinstance(out, JobFailed) for out in outs] == [at == 7 for at in range(50)]
        early: Any = client.map("affine", rows(600))
        assert await anext(early) is not None
        await early.aclose()


async def test_lane_full_keeps_what_got_in_and_map_slows_down(
    site: Settings, serve: Serve, register: Register, rows: Rows
) -> None:
    register(site, "small", max_queue=100)
    async with AsyncClient(settings=site) as client:
        with pytest.raises(LaneFull) as caught:
            await client.submit_many("small", rows(300))
        assert caught.value.accepted == len(caught.value.jobs) == 100
        serve(site)
        outs = [out async for out in client.map("small", rows(300))]
        np.testing.assert_array_equal(np.stack(outs), rows(300) * 2 + 1)


@pytest.mark.parametrize("garbage", [b"", b"=", b"=\xc1", b"?\xff", b"?short", b"!"])
async def test_garbage_on_the_reply_channel_does_not_deafen_the_client(
    site: Settings,
    serve: Serve,
    rows: Rows,
    store_redis: redis.Redis,
    wait_until_async: WaitUntilAsync,
    garbage: bytes,
) -> None:
    async with AsyncClient(settings=site) as client:
        first = await client.submit("affine", rows(1)[0])
        channel = reply_channel(site.namespace, client._session.inbox.reply)
        store_redis.publish(channel, garbage)
        serve(site)

        async def pushed() -> bool:
            return first.outcome is not None

        await wait_until_async(pushed, "the outcome is pushed")


async def test_cancelled_waiters_leave_the_connections_usable(
    site: Settings, serve: Serve, rows: Rows, store_redis: redis.Redis
) -> None:
    """Replies must never be read by another call than the one that asked."""
    async with AsyncClient(settings=site) as client:
        jobs = await client.submit_many("affine", rows(50))

        async def ask(number: int) -> None:
            async with asyncio.timeout(0.0005 * (number % 10)):
                await client.job(jobs[number % 50].id).state()
                await client.job(jobs[number % 50].id).result()

        asked = await asyncio.gather(*[ask(n) for n in range(200)], return_exceptions=True)
        assert all(isinstance(error, TimeoutError) for error in asked)
        serve(site)
        outs = await asyncio.gather(*[client.job(job.id).result(timeout=30) for job in jobs])
        np.testing.assert_array_equal(np.stack(outs), rows(50) * 2 + 1)


async def test_lost_pushes_are_made_up_for(
    site: Settings, serve: Serve, rows: Rows, store_redis: redis.Redis, gate: Any
) -> None:
    async with AsyncClient(settings=site) as client:
        jobs = await client.submit_many("affine", rows(20))
        for entry in connections(store_redis):
            if entry["name"] == "umbel-listener":
                store_redis.client_kill_filter(_id=entry["id"])
        serve(site)
        gate()
        outs = [await job.result(timeout=20) for job in jobs]
        np.testing.assert_array_equal(np.stack(outs), rows(20) * 2 + 1)


async def test_closing_closes_everything(
    site: Settings, rows: Rows, store_redis: redis.Redis, wait_until_async: WaitUntilAsync
) -> None:
    async with AsyncClient(settings=site) as client:
        await client.submit("affine", rows(1)[0])
        assert connections(store_redis)
    await client.aclose()

    async def all_gone() -> bool:
        return not connections(store_redis)

    await wait_until_async(all_gone, "all connections are closed")
    job = await client.submit("affine", rows(1)[0])
    assert not await job.done()
    await client.aclose()


async def test_redis_restart_is_survived(
    settings: MakeSettings,
    register: Register,
    own_redis: Callable[..., Any],
    serve: Serve,
    rows: Rows,
    wait_until_async: WaitUntilAsync,
) -> None:
    server = own_redis("--appendonly", "yes", "--appendfsync", "always")
    site = settings(redis_url=server.url, allowed_modules=("umbel_test_handlers",))
    register(site)
    async with AsyncClient(settings=site) as client:
        jobs = await client.submit_many("affine", rows(20))
        server.kill()
        with pytest.raises(StoreUnavailable):
            await client.submit("affine", rows(1)[0])
        server.start()
        serve(site)

        async def all_delivered() -> bool:
            return all(job.outcome for job in jobs)

        await wait_until_async(all_delivered, "nobody polls, yet all are delivered")
        outs = [await job.result() for job in jobs]
        np.testing.assert_array_equal(np.stack(outs), rows(20) * 2 + 1)
