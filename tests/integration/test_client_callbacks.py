"""Callbacks as a producer meets them: checked at submit, told of by ``info``, bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis

from umbel import AsyncClient, Callback, Client, InvalidInput, Job, LaneFull, ReceiverFull
from umbel_batching.outbox import OutboxCalls, Report
from umbel_batching.scripts import Runner
from umbel_config.settings import Settings

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import WaitUntil

Rows = Callable[..., Any]
Queued = Callable[[], int]
URL = "https://hooks.example/a?token=7"
REFUSED: list[dict[str, Any]] = [
    {"callback_url": "http://hooks.example/"},
    {"callback_url": "https://127.0.0.1/"},
    {"callback_url": "https://169.254.169.254/latest"},
    {"callback_url": "nonsense"},
    {"callback_url": b"https://hooks.example/"},
    {"callback_url": 7},
    {"callback_batch": True},
]


@pytest.fixture
async def aclient(site: Settings) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(settings=site) as made:
        yield made


@pytest.fixture
def answer(site: Settings, store_redis: redis.Redis) -> Callable[..., int]:
    """Stands for a sender: has all that is due end in the same way; returns how many POSTs."""
    runner, calls = Runner(store_redis), OutboxCalls.of(site)

    def make(**facts: Any) -> int:
        call = calls.lease("token", lease_ms=60_000, posts=1000, parcel="p" * 32)
        posts = runner.run(call).posts
        for post in posts:
            assert runner.run(calls.report(Report(post, **facts))) is not None
        return len(posts)

    return make


def told(job: Job) -> Callback:
    callback = job.info().callback
    assert callback is not None
    return callback


@pytest.mark.parametrize("given", REFUSED)
def test_what_is_refused_is_not_queued(
    client: Client, rows: Rows, queued: Queued, given: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput, match="callback"):
        client.submit("affine", rows(1)[0], **given)
    with pytest.raises(InvalidInput, match="callback"):
        client.submit_many("affine", rows(3), **given)
    assert queued() == 0


@pytest.mark.parametrize("given", REFUSED)
async def test_what_is_refused_is_not_queued_by_the_async_client(
    aclient: AsyncClient, rows: Rows, queued: Queued, given: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput, match="callback"):
        await aclient.submit("affine", rows(1)[0], **given)
    with pytest.raises(InvalidInput, match="callback"):
        await aclient.submit_many("affine", rows(3), **given)
    assert queued() == 0


def test_the_allow_list_allows(site: Settings, rows: Rows) -> None:
    allowing = site.model_copy(update={"callback_allow": ("127.0.0.1:8080", "hooks.internal")})
    with Client(settings=allowing) as client:
        for url in ("http://127.0.0.1:8080/a", "http://hooks.internal/b"):
            assert told(client.submit("affine", rows(1)[0], callback_url=url)).url == url
        with pytest.raises(InvalidInput, match="callback_allow"):
            client.submit("affine", rows(1)[0], callback_url="http://127.0.0.1:8081/a")


def test_info_tells_how_a_callback_fares(
    client: Client,
    site: Settings,
    serve: Callable[..., Any],
    rows: Rows,
    answer: Callable[..., int],
    wait_until: WaitUntil,
) -> None:
    job = client.submit("affine", rows(1)[0], callback_url=URL, metadata={"user": 7})
    waiting = Callback(url=URL, state="waiting", attempts=0, last_status=None, next_at=None, log=[])
    assert told(job) == waiting
    serve(site)
    np.testing.assert_array_equal(job.result(timeout=20), rows(1)[0] * 2 + 1)
    info = job.info()
    assert info.callback is not None
    assert (info.callback.state, info.callback.next_at) == ("pending", info.finished_at)
    assert info.metadata == {"user": 7}
    failing = {"health": "unknown", "status": 404, "took_ms": 12, "note": "Not Found"}
    assert answer(verdict="again", pause_ms=1, **failing) == 1
    tried = told(job)
    assert (tried.state, tried.attempts, tried.last_status) == ("pending", 1, 404)
    assert tried.next_at
    assert [(line.status, line.took_ms, line.note) for line in tried.log] == [
        (404, 12, "Not Found")
    ]
    wait_until(lambda: answer(verdict="delivered", health="well", status=204), "it is due again")
    done = told(job)
    assert (done.state, done.attempts, done.last_status, done.next_at) == (
        *("delivered", 2, 204),
        None,
    )
    assert [line.status for line in done.log] == [404, 204]


async def test_the_async_client_tells_how_a_callback_fares(
    aclient: AsyncClient, rows: Rows, answer: Callable[..., int]
) -> None:
    jobs = await aclient.submit_many("affine", rows(2), callback_url=URL, callback_batch=True)
    plain = await aclient.submit("affine", rows(1)[0])
    assert (await plain.info()).callback is None
    assert [(await job.info()).callback for job in jobs] == [
        Callback(url=URL, state="waiting", attempts=0, last_status=None, next_at=None, log=[])
    ] * 2
    assert all([await job.cancel() for job in jobs])
    assert answer(verdict="dead", health="unknown", status=410, note="Gone") == 1
    for job in jobs:
        callback = (await job.info()).callback
        assert callback is not None
        assert (callback.state, callback.last_status, callback.attempts) == ("dead", 410, 1)


def test_an_idempotency_key_finds_the_job_whatever_its_callback(
    client: Client, rows: Rows, queued: Queued
) -> None:
    key: dict[str, Any] = {"idempotency_key": "order 7"}
    first = client.submit("affine", rows(1)[0], callback_url=URL, **key)
    again = client.submit("affine", rows(1)[0], **key)
    other = client.submit("affine", rows(1)[0], callback_url=f"{URL}&b", **key)
    assert (again.id, other.id, queued()) == (first.id, first.id, 1)
    assert told(other).url == URL, "the callback of the first submit stands"
    many = client.submit_many("affine", rows(1), callback_url=URL, idempotency_keys=["order 7"])
    assert many[0].id == first.id


@pytest.fixture
def narrow(site: Settings, rows: Rows) -> Settings:
    """Three callbacks may wait for a receiver, and one does."""
    made = site.model_copy(update={"max_callbacks": 3})
    with Client(settings=made) as client:
        assert client.submit("affine", rows(1)[0], callback_url=URL).cancel()
    return made


def test_too_many_callbacks_for_a_receiver_are_refused(narrow: Settings, rows: Rows) -> None:
    with Client(settings=narrow) as client:
        with pytest.raises(ReceiverFull, match=r"hooks\.example .* max_callbacks") as caught:
            client.submit_many("affine", rows(5), callback_url=URL)
        error = caught.value
        assert isinstance(error, LaneFull)
        assert (error.retryable, error.retry_after > 0) == (True, True)
        assert error.accepted == len(error.jobs) == 3
        assert "token" not in str(error)
        for job in error.jobs:
            assert told(job).state == "waiting"
            job.cancel()
        with pytest.raises(ReceiverFull) as caught:
            client.submit("affine", rows(1)[0], callback_url=URL)
        assert (caught.value.accepted, caught.value.jobs) == (0, ())
        assert client.submit("affine", rows(1)[0], callback_url="https://other.example/a").id
        assert client.submit("affine", rows(1)[0]).id


async def test_too_many_callbacks_are_refused_by_the_async_client(
    narrow: Settings, rows: Rows
) -> None:
    async with AsyncClient(settings=narrow) as client:
        with pytest.raises(ReceiverFull) as caught:
            await client.submit_many("affine", rows(5), callback_url=URL)
        assert caught.value.accepted == len(caught.value.jobs) == 3


def test_map_calls_nobody_back_and_minds_no_receiver(
    narrow: Settings, serve: Callable[..., Any], rows: Rows, answer: Callable[..., int]
) -> None:
    serve(narrow)
    with Client(settings=narrow) as client:
        outputs = list(client.map("affine", rows(50)))
    np.testing.assert_array_equal(np.stack(outputs), rows(50) * 2 + 1)
    assert answer(verdict="delivered", health="well", status=204) == 1
