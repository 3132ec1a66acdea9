"""The client against a real Redis: submit, wait, cancel, and everything a job can become."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis

from umbel import (
    Client,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobNotFound,
    LaneFull,
    ResultTimeout,
    State,
)
from umbel_batching.keys import reply_channel
from umbel_config.settings import Settings

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import NoKeyLeaks, Register, WaitUntil

Rows = Callable[..., Any]
Serve = Callable[..., Any]


def listeners(store: redis.Redis) -> list[dict[str, str]]:
    return [entry for entry in store.client_list() if entry["name"] == "umbel-listener"]


def alive(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_result_comes_back(client: Client, site: Settings, serve: Serve, rows: Rows) -> None:
    serve(site)
    job = client.submit("affine", rows(1)[0])
    np.testing.assert_array_equal(job.result(timeout=20), rows(1)[0] * 2 + 1)
    assert job.state() is State.SUCCEEDED
    assert job.done()
    assert "succeeded" in repr(job)
    assert not job.cancel()


def test_result_asked_twice_is_not_shared(
    client: Client, site: Settings, serve: Serve, rows: Rows
) -> None:
    serve(site)
    job = client.submit("affine", rows(1)[0])
    job.result(timeout=20)[:] = 0
    np.testing.assert_array_equal(job.result(), rows(1)[0] * 2 + 1)


def test_info_tells_the_story(client: Client, site: Settings, serve: Serve, rows: Rows) -> None:
    waiting = client.submit("affine", rows(1)[0], metadata={"user": "ann", "n": [1, None]})
    before = waiting.info()
    assert (before.state, before.started_at, before.batch_id) == ("queued", None, None)
    serve(site)
    waiting.result(timeout=20)
    info = waiting.info()
    assert (info.id, info.model, info.version, info.state) == (
        *(waiting.id, "affine", "1"),
        "succeeded",
    )
    assert info.metadata == {"user": "ann", "n": [1, None]}
    assert info.batch_size == info.attempts == 1
    assert info.started_at is not None
    assert info.finished_at is not None
    assert info.created_at <= info.started_at <= info.finished_at
    assert info.worker
    assert info.error is None


def test_job_of_a_failing_input_fails_alone(
    client: Client, site: Settings, serve: Serve, rows: Rows
) -> None:
    inputs = rows(16)
    inputs[5, 0], inputs[9, 0] = 13, 14
    jobs = client.submit_many("affine", inputs)
    serve(site)
    outs = list(client.map("affine", inputs, return_errors=True))
    for place, (job, out) in enumerate(zip(jobs, outs, strict=True)):
        if place in (5, 9):
            with pytest.raises(JobFailed) as caught:
                job.result(timeout=20)
            assert caught.value.kind == {5: "ValueError", 9: "InvalidInput"}[place]
            assert isinstance(out, JobFailed)
        else:
            np.testing.assert_array_equal(job.result(timeout=20), inputs[place] * 2 + 1)
            np.testing.assert_array_equal(out, inputs[place] * 2 + 1)
    assert "unlucky input" in (jobs[5].info().error or "")


def test_waiting_ends_with_its_timeout_and_the_job_goes_on(
    client: Client, site: Settings, serve: Serve, rows: Rows
) -> None:
    job = client.submit("affine", rows(1)[0])
    for timeout in (0, -1, 0.05):
        with pytest.raises(ResultTimeout, match=job.id):
            job.result(timeout=timeout)
        assert not job.wait(timeout)
    assert job.on_done in (None, [])
    serve(site)
    assert job.wait(20)


def test_finished_job_needs_no_patience(
    client: Client, site: Settings, serve: Serve, rows: Rows, wait_until: WaitUntil
) -> None:
    serve(site)
    job = client.submit("affine", rows(1)[0])
    again = client.job(job.id)
    wait_until(again.done, "the job is done")
    np.testing.assert_array_equal(again.result(timeout=0), rows(1)[0] * 2 + 1)


def test_job_that_misses_its_deadline_expires(
    client: Client, site: Settings, serve: Serve, rows: Rows, wait_until: WaitUntil
) -> None:
    job = client.submit("affine", rows(1)[0], timeout=0.001)
    late = time.monotonic() + 0.05
    wait_until(lambda: time.monotonic() > late, "the deadline passes")
    serve(site)
    with pytest.raises(JobExpired):
        job.result(timeout=20)
    assert job.info().state == "expired"


def test_cancelled_job_is_over_for_all_who_wait(
    client: Client, site: Settings, serve: Serve, rows: Rows
) -> None:
    job = client.submit("affine", rows(1)[0])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(job.result, 20)
        assert job.cancel()
        with pytest.raises(JobCancelled):
            waiting.result()
    assert job.cancel()
    assert client.job(job.id).cancel()


def test_running_job_can_be_cancelled_and_its_neighbours_succeed(
    client: Client, site: Settings, serve: Serve, rows: Rows, gate: Any, wait_until: WaitUntil
) -> None:
    jobs = client.submit_many("affine", rows(16))
    serve(site)
    wait_until(lambda: jobs[3].state() is State.RUNNING, "the batch runs")
    assert jobs[3].cancel()
    gate()
    for place, job in enumerate(jobs):
        if place == 3:
            with pytest.raises(JobCancelled):
                job.result(timeout=20)
        else:
            np.testing.assert_array_equal(job.result(timeout=20), rows(16)[place] * 2 + 1)


@pytest.mark.parametrize("verb", ["state", "result", "cancel", "info", "wait", "done"])
def test_unknown_job_is_told_apart(client: Client, verb: str) -> None:
    job = client.job("aaaaaaaa-" + "0" * 32)
    with pytest.raises(JobNotFound):
        getattr(job, verb)()


@pytest.mark.parametrize(
    "text", ["", "x", "aaaaaaaa-", "aaaaaaaa-" + "z" * 32, "AAAAAAAA-" + "0" * 32]
)
def test_text_that_is_no_id_is_refused(client: Client, text: str) -> None:
    with pytest.raises(JobNotFound):
        client.job(text)


def test_other_client_reads_the_job_by_its_id(
    client: Client, site: Settings, serve: Serve, rows: Rows
) -> None:
    job = client.submit("affine", rows(1)[0])
    with Client(settings=site) as other:
        same = other.job(job.id)
        assert same.state() is State.QUEUED
        serve(site)
        np.testing.assert_array_equal(same.result(timeout=20), rows(1)[0] * 2 + 1)


def test_expired_record_is_not_found_but_a_pushed_result_stays(
    client: Client, site: Settings, serve: Serve, rows: Rows, store_redis: redis.Redis
) -> None:
    serve(site)
    job = client.submit("affine", rows(1)[0])
    assert job.wait(20)
    for key in store_redis.scan_iter(f"{site.namespace}:*:job:*"):
        store_redis.delete(key)
    job.result()
    with pytest.raises(JobNotFound):
        client.job(job.id).result(timeout=5)


def test_lost_pushes_are_made_up_for_by_polling(
    client: Client, site: Settings, serve: Serve, rows: Rows, store_redis: redis.Redis, gate: Any
) -> None:
    jobs = client.submit_many("affine", rows(40))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: [job.result(timeout=20) for job in jobs])
        for listener in listeners(store_redis):
            store_redis.client_kill_filter(_id=listener["id"])
        serve(site)
        gate()
        outs = waiting.result()
    np.testing.assert_array_equal(np.stack(outs), rows(40) * 2 + 1)


def test_listener_that_lost_its_connection_subscribes_again(
    client: Client,
    site: Settings,
    serve: Serve,
    rows: Rows,
    store_redis: redis.Redis,
    wait_until: WaitUntil,
) -> None:
    serve(site)
    client.submit("affine", rows(1)[0]).result(timeout=20)
    for listener in listeners(store_redis):
        store_redis.client_kill_filter(_id=listener["id"])
    channel = reply_channel(site.namespace, client._session.inbox().reply)
    wait_until(lambda: store_redis.pubsub_channels(channel), "the client subscribes again")
    job = client.submit("affine", rows(1)[0])
    wait_until(lambda: job.outcome, "the outcome is pushed")


@pytest.mark.parametrize("garbage", [b"", b"=", b"=\xc1", b"?\xff", b"?short", b"!", b"=\x94"])
def test_garbage_on_the_reply_channel_does_not_deafen_the_client(
    client: Client,
    site: Settings,
    serve: Serve,
    rows: Rows,
    store_redis: redis.Redis,
    wait_until: WaitUntil,
    garbage: bytes,
) -> None:
    inbox = client._session.listening()
    store_redis.publish(reply_channel(site.namespace, inbox.reply), garbage)
    serve(site)
    job = client.submit("affine", rows(1)[0])
    wait_until(lambda: job.outcome, "the outcome is pushed")


def test_pushes_lost_with_their_connection_are_read_once_it_is_back(
    client: Client,
    site: Settings,
    serve: Serve,
    rows: Rows,
    store_redis: redis.Redis,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not left to polling: a caller who asks job after job would wait a second for each."""
    monkeypatch.setattr("umbel._listener._RECONNECT_S", 1.0)
    jobs = client.submit_many("affine", rows(100))
    for listener in listeners(store_redis):
        store_redis.client_kill_filter(_id=listener["id"])
    serve(site)
    wait_until(lambda: all(job.outcome for job in jobs), "nobody polls, yet all are delivered")


def test_outputs_too_large_to_push_are_fetched(
    site: Settings, serve: Serve, register: Register, rows: Rows, wait_until: WaitUntil
) -> None:
    register(site, "loud", outputs={"y": {"dtype": "float32", "shape": [-1]}})
    serve(site)
    row = rows(1)[0]
    row[0] = 17
    with Client(settings=site) as client:
        job = client.submit("loud", row)
        wait_until(lambda: job.outcome, "the listener reads the outcome")
        assert job.result().shape == (4_000_000,)


def test_nothing_stays_behind(
    site: Settings,
    serve: Serve,
    rows: Rows,
    no_key_leaks: NoKeyLeaks,
    store_redis: redis.Redis,
    wait_until: WaitUntil,
) -> None:
    namespace = site.namespace
    permanent = [f"{namespace}:*:lane", f"{namespace}:lanes", f"{namespace}:model*"]
    permanent += [f"{namespace}:registry*", f"{namespace}:revision*", f"{namespace}:store"]
    with no_key_leaks(namespace, permanent), Client(settings=site) as client:
        serve(site)
        jobs = client.submit_many("affine", rows(100))
        jobs[0].cancel()
        assert sum(job.wait(20) for job in jobs) == 100
        busy = [f"{namespace}:wake", f"{namespace}:signal"]
        wait_until(lambda: not store_redis.exists(*busy), "the flusher has nothing left to do")


def test_lane_full_keeps_what_got_in(
    site: Settings, register: Register, serve: Serve, rows: Rows
) -> None:
    register(site, "small", max_queue=300)
    with Client(settings=site) as client:
        with pytest.raises(LaneFull) as caught:
            client.submit_many("small", rows(1000))
        assert caught.value.accepted == len(caught.value.jobs) == 300
        assert caught.value.retry_after > 0
        with pytest.raises(LaneFull) as single:
            client.submit("small", rows(1)[0])
        assert single.value.accepted == 0
        serve(site)
        outs = [job.result(timeout=20) for job in caught.value.jobs]
    np.testing.assert_array_equal(np.stack(outs), rows(300) * 2 + 1)


def test_map_slows_down_for_a_lane_smaller_than_its_chunks(
    site: Settings, register: Register, serve: Serve, rows: Rows
) -> None:
    register(site, "tiny", max_queue=10)
    serve(site)
    with Client(settings=site) as client:
        outs = list(client.map("tiny", rows(300)))
    np.testing.assert_array_equal(np.stack(outs), rows(300) * 2 + 1)


def test_closing_ends_thread_and_connections_at_once(
    site: Settings, serve: Serve, rows: Rows, store_redis: redis.Redis, wait_until: WaitUntil
) -> None:
    before = len(alive("umbel-listener"))
    client = Client(settings=site)
    job = client.submit("affine", rows(1)[0])
    assert len(alive("umbel-listener")) == before + 1
    client.close()
    client.close()
    assert len(alive("umbel-listener")) == before
    wait_until(lambda: not listeners(store_redis), "the server sees no listener")
    serve(site)
    np.testing.assert_array_equal(job.result(timeout=20), rows(1)[0] * 2 + 1)
    client.close()


def test_client_that_is_dropped_takes_thread_and_connections_along(
    site: Settings, rows: Rows, store_redis: redis.Redis, wait_until: WaitUntil
) -> None:
    client = Client(settings=site)
    client.submit("affine", rows(1)[0])
    assert listeners(store_redis)
    del client
    gc.collect()
    wait_until(lambda: not alive("umbel-listener"), "the listener thread ends")
    wait_until(lambda: not listeners(store_redis), "its connection is closed")


def test_eight_threads_share_a_client(
    client: Client, site: Settings, serve: Serve, rows: Rows, store_redis: redis.Redis
) -> None:
    serve(site, threads=2)

    def work(number: int) -> None:
        inputs = rows(40) + number
        some = [client.submit("affine", row) for row in inputs[:20]]
        some += client.submit_many("affine", inputs[20:])
        done = {job.id for job in client.as_completed(some, timeout=30)}
        assert done == {job.id for job in some}
        np.testing.assert_array_equal(np.stack([job.result() for job in some]), inputs * 2 + 1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(alive("umbel-listener")) == 1


def test_many_waiters_on_one_job_all_wake(
    client: Client, site: Settings, serve: Serve, rows: Rows, gate: Any
) -> None:
    job = client.submit("affine", rows(1)[0])
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(job.result, 20) for _ in range(8)]
        serve(site)
        gate()
        outs = [future.result() for future in waiting]
    assert len({out.tobytes() for out in outs}) == 1


def test_fifty_clients_in_one_process(site: Settings, serve: Serve, rows: Rows) -> None:
    serve(site)
    clients = [Client(settings=site) for _ in range(50)]
    jobs = [client.submit("affine", row) for client, row in zip(clients, rows(50), strict=True)]
    np.testing.assert_array_equal(
        np.stack([job.result(timeout=30) for job in jobs]), rows(50) * 2 + 1
    )
    for client in clients:
        client.close()
    assert not alive("umbel-listener")


def test_new_version_is_used_once_the_cache_has_aged(
    client: Client, site: Settings, register: Register, rows: Rows, wait_until: WaitUntil
) -> None:
    assert client.submit("affine", rows(1)[0]).info().version == "1"
    register(site, max_wait_ms=3)
    wait_until(
        lambda: client.submit("affine", rows(1)[0]).info().version == "2", "version 2 is used"
    )
    assert client.submit("affine", rows(1)[0], version="1").info().version == "1"
