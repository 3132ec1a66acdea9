"""Single submits that come at the same time share calls; nobody can tell but by the speed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis

from umbel import AsyncClient, AsyncJob, Client, IdempotencyConflict, Job, LaneFull, ReceiverFull
from umbel_batching.census import lane_statuses
from umbel_batching.values import Accepted
from umbel_config.settings import Settings

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import Register

Rows = Callable[..., Any]
Serve = Callable[..., Any]
Queued = Callable[[], int]
#: What single submits of a crowd ask for beside their row, in turn.
WISHES: list[dict[str, Any]] = [
    {},
    {"priority": "high", "metadata": {"a": 1}},
    {"timeout": 600},
    {"callback_url": "https://hooks.example/x"},
    {"idempotency_key": "same"},
]


def wishes(place: int) -> dict[str, Any]:
    return WISHES[place % len(WISHES)]


def row(rows: Any, place: int) -> Any:
    return rows[0] if "idempotency_key" in wishes(place) else rows[place]


async def in_tasks(client: AsyncClient, submits: Sequence[dict[str, Any]]) -> list[Any]:
    tasks = [client.submit("affine", **each) for each in submits]
    return await asyncio.gather(*tasks, return_exceptions=True)


def in_threads(client: Client, submits: Sequence[dict[str, Any]]) -> list[Any]:
    start = threading.Barrier(min(32, len(submits)))

    def submit(arguments: dict[str, Any]) -> Any:
        start.wait()
        try:
            return client.submit("affine", **arguments)
        except Exception as error:  # noqa: BLE001
            return error

    with ThreadPoolExecutor(start.parties) as pool:
        return list(pool.map(submit, submits))


def kinds(outcomes: Sequence[Any]) -> Counter[str]:
    return Counter(type(each).__name__ for each in outcomes)


def calls_counted(client: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the script calls that a client makes from now on."""
    sizes: list[int] = []
    submit = client._session.submit

    def counting(target: Any, jobs: Sequence[Any]) -> Any:
        sizes.append(len(jobs))
        return submit(target, jobs)

    monkeypatch.setattr(client._session, "submit", counting)
    return sizes


async def test_tasks_with_different_wishes_share_calls(
    site: Settings, serve: Serve, rows: Rows, queued: Queued, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncClient(settings=site) as client:
        await client.submit("affine", rows(1)[0])
        sizes = calls_counted(client, monkeypatch)
        submits = [{"inputs": row(rows(100), at), **wishes(at)} for at in range(100)]
        jobs: list[AsyncJob] = await in_tasks(client, submits)
        assert sizes == [100]
        assert len({job.id for job in jobs}) == queued() - 1 == 81
        info = await jobs[1].info()
        assert (info.priority, info.metadata) == ("high", {"a": 1})
        serve(site)
        outs = [await job.result(timeout=20) for job in jobs]
        expected = np.stack([each["inputs"] for each in submits]) * 2 + 1
        np.testing.assert_array_equal(np.stack(outs), expected)


def test_threads_with_different_wishes_get_their_own_jobs(
    client: Client, site: Settings, serve: Serve, rows: Rows, queued: Queued
) -> None:
    submits = [{"inputs": row(rows(320), at), **wishes(at)} for at in range(320)]
    jobs: list[Job] = in_threads(client, submits)
    assert len({job.id for job in jobs}) == queued() == 320 * 4 // 5 + 1
    serve(site)
    outs = [job.result(timeout=20) for job in jobs]
    expected = np.stack([each["inputs"] for each in submits]) * 2 + 1
    np.testing.assert_array_equal(np.stack(outs), expected)


@pytest.mark.parametrize("face", ["tasks", "threads"])
async def test_full_lane_refuses_those_alone_for_whom_there_is_no_room(
    site: Settings, register: Register, rows: Rows, queued: Queued, face: str
) -> None:
    register(site, max_queue=37)
    submits = [{"inputs": rows(64)[at], "version": "2"} for at in range(64)]
    if face == "tasks":
        async with AsyncClient(settings=site) as client:
            outcomes = await in_tasks(client, submits)
            expected = client._session.inbox.expected()
    else:
        with Client(settings=site) as threaded:
            outcomes = await asyncio.to_thread(in_threads, threaded, submits)
            expected = threaded._session.inbox().expected()
    assert kinds(outcomes) == {f"{'Async' * (face == 'tasks')}Job": 37, "LaneFull": 27}
    refused = [each for each in outcomes if isinstance(each, LaneFull)]
    assert len({id(error) for error in refused}) == 27
    assert all(error.retry_after > 0 and error.jobs == () for error in refused)
    accepted = [each.id for each in outcomes if not isinstance(each, LaneFull)]
    assert sorted(expected) == sorted(accepted)
    assert queued() == 37


async def test_conflicts_and_receivers_that_are_behind_concern_their_callers_alone(
    site: Settings, rows: Rows, queued: Queued
) -> None:
    behind: dict[str, Any] = {"callback_url": "https://hooks.example/x"}
    async with AsyncClient(settings=site.model_copy(update={"max_callbacks": 1})) as client:
        owing = await client.submit("affine", rows(1)[0], idempotency_key="a", **behind)
        assert await owing.cancel()
        submits = [
            {"inputs": rows(9)[at], **(behind if at in (1, 4, 5) else {})} for at in range(9)
        ]
        submits[6] |= {"callback_url": "https://other.example/"}
        submits[2] |= {"idempotency_key": "a"}
        submits[7] = {"inputs": rows(1)[0], "idempotency_key": "a"}
        outcomes = await in_tasks(client, submits)
    refused = {at: type(each) for at, each in enumerate(outcomes) if isinstance(each, Exception)}
    full = dict.fromkeys((1, 4, 5), ReceiverFull)
    assert refused == {2: IdempotencyConflict, **full}
    assert outcomes[7].id == owing.id
    assert queued() == 1 + 9 - 5


async def test_closing_waits_for_what_is_under_way(
    site: Settings, rows: Rows, queued: Queued
) -> None:
    client = AsyncClient(settings=site)
    await client.submit("affine", rows(1)[0])
    tasks = [asyncio.create_task(client.submit("affine", each)) for each in rows(50)]
    begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(begun.set_result, None)
    await begun
    await client.aclose()
    assert kinds(await asyncio.gather(*tasks)) == {"AsyncJob": 50}
    assert queued() == 51


def test_forked_child_does_not_wait_for_the_leader_of_its_parent(
    client: Client, rows: Rows, store_redis: redis.Redis, site: Settings
) -> None:
    client.submit("affine", rows(1)[0])
    parent, submit = os.getpid(), client._session.submit
    under_way, go_on = threading.Event(), threading.Event()

    def held(target: Any, jobs: Sequence[Any]) -> Accepted:
        if os.getpid() == parent:
            under_way.set()
            assert go_on.wait(20)
        return submit(target, jobs)

    client._session.submit = held  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(client.submit, "affine", rows(1)[0])
        assert under_way.wait(20)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                client.submit("affine", rows(1)[0])
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        go_on.set()
        assert leader.result(20).id
    (lane,) = lane_statuses(store_redis, site.namespace)
    assert lane.submitted == 3
