"""Idempotency keys: one key, one job, whoever submits it and whenever."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis

from umbel import AsyncClient, Client, IdempotencyConflict, InvalidInput, Job, State
from umbel_batching.keys import shared_keys
from umbel_batching.lanes import keyed_uid
from umbel_config.settings import Settings

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import Register, WaitUntil

Rows = Callable[..., Any]
Serve = Callable[..., Any]
Queued = Callable[[], int]


def test_same_key_finds_the_same_job(
    client: Client, site: Settings, serve: Serve, rows: Rows, queued: Queued
) -> None:
    first = client.submit("affine", rows(1)[0], idempotency_key="order 7")
    second = client.submit("affine", rows(1)[0].copy(), idempotency_key="order 7", priority="low")
    with Client(settings=site) as other:
        third = other.submit("affine", rows(1)[0], idempotency_key="order 7")
        assert first.id == second.id == third.id
        assert queued() == 1
        serve(site)
        for job in (first, second, third):
            np.testing.assert_array_equal(job.result(timeout=20), rows(1)[0] * 2 + 1)


def test_job_that_is_done_gives_its_earlier_result_at_once(
    client: Client,
    site: Settings,
    serve: Serve,
    rows: Rows,
    queued: Queued,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is pushed for it any more; with such a pause only the first look can find it."""
    serve(site)
    monkeypatch.setattr("umbel._job.PUSHED_POLL_S", 60.0)
    done = client.submit("affine", rows(1)[0], idempotency_key="k")
    assert done.wait(20)
    again = client.submit("affine", rows(1)[0], idempotency_key="k")
    assert again.outcome is None
    np.testing.assert_array_equal(again.result(timeout=20), rows(1)[0] * 2 + 1)
    once_more = client.submit("affine", rows(1)[0], idempotency_key="k")
    assert list(client.as_completed([once_more], timeout=20)) == [once_more]
    assert queued() == 1


def test_other_input_is_a_conflict_that_names_the_job_and_not_the_key(
    client: Client, rows: Rows, queued: Queued
) -> None:
    first = client.submit("affine", rows(1)[0], idempotency_key="secret order")
    refused: list[Callable[[], object]] = [
        lambda: client.submit("affine", rows(2)[1], idempotency_key="secret order"),
        lambda: client.submit("affine", rows(1)[0], idempotency_key="secret order", version="1"),
        lambda: client.submit_many("affine", rows(2), idempotency_keys=["new", "secret order"]),
    ]
    for submit in refused:
        with pytest.raises(IdempotencyConflict, match=first.id) as caught:
            submit()
        assert caught.value.job_id == first.id
        assert "secret" not in str(caught.value)
        assert not caught.value.retryable
    assert queued() == 1
    assert client._session.inbox().expected() == [first.id]


def test_keys_belong_to_a_model(
    client: Client, site: Settings, register: Register, rows: Rows, queued: Queued
) -> None:
    register(site, "second")
    first = client.submit("affine", rows(1)[0], idempotency_key="k")
    assert client.submit("second", rows(2)[1], idempotency_key="k").id != first.id
    assert queued() == 2


def test_key_finds_its_job_after_a_new_version_was_pushed(
    client: Client,
    site: Settings,
    register: Register,
    serve: Serve,
    rows: Rows,
    queued: Queued,
    wait_until: WaitUntil,
) -> None:
    first = client.submit("affine", rows(1)[0], idempotency_key="k")
    register(site, max_wait_ms=3)
    wait_until(
        lambda: client.submit("affine", rows(1)[0]).info().version == "2", "version 2 is used"
    )
    before = queued()
    mixed = client.submit_many("affine", rows(3), idempotency_keys=["k", "k2", None])
    assert mixed[0].id == first.id
    assert queued() == before + 2
    assert [job.info().version for job in mixed] == ["1", "2", "2"]
    serve(site)
    outs = [job.result(timeout=20) for job in mixed]
    np.testing.assert_array_equal(np.stack(outs), rows(3) * 2 + 1)


def test_calls_mix_known_and_new_keys_and_none(
    client: Client, site: Settings, serve: Serve, rows: Rows, queued: Queued
) -> None:
    keys: list[str | None] = [f"k{place}" if place % 3 else None for place in range(600)]
    first = client.submit_many("affine", rows(600), idempotency_keys=keys)
    again = client.submit_many("affine", rows(600), idempotency_keys=keys)
    assert queued() == 800
    assert [a.id == b.id for a, b in zip(first, again, strict=True)] == [bool(key) for key in keys]
    serve(site, threads=2)
    outs = [job.result(timeout=30) for job in again]
    np.testing.assert_array_equal(np.stack(outs), rows(600) * 2 + 1)


def test_same_key_twice_in_one_call(client: Client, rows: Rows, queued: Queued) -> None:
    row = rows(1)[0]
    jobs = client.submit_many("affine", [row, row], idempotency_keys=["k", "k"])
    assert jobs[0].id == jobs[1].id
    assert queued() == 1
    with pytest.raises(InvalidInput, match="Rows 0 and 1"):
        client.submit_many("affine", rows(2), idempotency_keys=["j", "j"])
    assert queued() == 1


def test_eight_threads_with_one_key_give_one_job(
    client: Client, site: Settings, serve: Serve, rows: Rows, queued: Queued
) -> None:
    serve(site, threads=2)
    with ThreadPoolExecutor(8) as pool:
        for turn in range(20):
            start = threading.Barrier(8)

            def submit(key: str = f"k{turn}", start: threading.Barrier = start) -> Job:
                start.wait()
                return client.submit("affine", rows(1)[0], idempotency_key=key)

            jobs = [future.result() for future in [pool.submit(submit) for _ in range(8)]]
            assert len({job.id for job in jobs}) == 1
            outs = [future.result() for future in [pool.submit(job.result, 20) for job in jobs]]
            np.testing.assert_array_equal(np.stack(outs), np.stack([rows(1)[0] * 2 + 1] * 8))
    assert queued() == 20


def test_another_process_with_the_key_gets_the_earlier_result(
    client: Client, site: Settings, serve: Serve, rows: Rows, queued: Queued, redis_url: str
) -> None:
    serve(site)
    done = client.submit("affine", rows(1)[0], idempotency_key="k")
    assert done.wait(20)
    script = "import sys, umbel; job = umbel.Client().submit('affine', [100, 101, 102, 103], "
    script += "idempotency_key='k'); print(job.id, job.result(timeout=20).tolist())"
    told = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "UMBEL_REDIS_URL": redis_url, "UMBEL_NAMESPACE": site.namespace},
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    ).stdout
    assert told.strip() == f"{done.id} {done.result().tolist()}"
    assert queued() == 1


def test_key_is_held_for_as_long_as_the_job_is_known(
    client: Client, site: Settings, serve: Serve, rows: Rows, store_redis: redis.Redis
) -> None:
    key = shared_keys(site.namespace).once + keyed_uid("affine", "k")
    job = client.submit("affine", rows(1)[0], idempotency_key="k")
    assert store_redis.ttl(key) == -1
    serve(site)
    assert job.wait(20)
    kept_s = site.result_ttl_s + site.tombstone_ttl_s
    assert kept_s - 60 < store_redis.ttl(key) <= kept_s


def test_key_of_a_forgotten_job_is_free_again(
    client: Client, site: Settings, serve: Serve, rows: Rows, queued: Queued
) -> None:
    first = client.submit("affine", rows(1)[0], idempotency_key="k")
    first.forget()
    second = client.submit("affine", rows(2)[1], idempotency_key="k")
    assert queued() == 2
    serve(site)
    np.testing.assert_array_equal(second.result(timeout=20), rows(2)[1] * 2 + 1)
    assert second.state() is State.SUCCEEDED


async def test_async_client_keeps_the_same_promises(
    client: Client, site: Settings, serve: Serve, rows: Rows, queued: Queued
) -> None:
    theirs = client.submit("affine", rows(1)[0], idempotency_key="k")
    async with AsyncClient(settings=site) as ours:
        first = await ours.submit("affine", rows(1)[0], idempotency_key="k")
        assert first.id == theirs.id
        with pytest.raises(IdempotencyConflict, match=first.id):
            await ours.submit("affine", rows(2)[1], idempotency_key="k")
        same = [ours.submit("affine", rows(1)[0], idempotency_key="j") for _ in range(8)]
        jobs = await asyncio.gather(*same)
        assert len({job.id for job in jobs}) == 1
        mixed = await ours.submit_many("affine", rows(2), idempotency_keys=["k", None])
        assert mixed[0].id == first.id
        assert queued() == 3
        serve(site)
        for job in (first, *jobs, mixed[0]):
            np.testing.assert_array_equal(await job.result(timeout=20), rows(1)[0] * 2 + 1)
        again = await ours.submit("affine", rows(1)[0], idempotency_key="k")
        np.testing.assert_array_equal(await again.result(timeout=20), rows(1)[0] * 2 + 1)
