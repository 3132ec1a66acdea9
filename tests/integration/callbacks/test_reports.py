"""Writing what became of POSTs: together where many come, again where Redis was away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from umbel_batching.keys import shared_keys
from umbel_batching.outbox import OutboxCalls, Report
from umbel_batching.scripts import AsyncRunner, Call
from umbel_callbacks import reports as module
from umbel_callbacks.reports import Reports
from umbel_config.connect import connect_async
from umbel_config.settings import Settings

if TYPE_CHECKING:  # fixtures
    from tests.conftest import OwnRedis, WaitUntilAsync
    from tests.integration.callbacks.conftest import Desk, OpenDesk

URL = "http://127.0.0.1:9/hook"


class Counting(AsyncRunner):
    """A runner that counts the calls of each round trip, and starts none while it is held."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(connect_async(settings))
        self.sizes: list[int] = []
        self.held = asyncio.Event()
        self.held.set()

    async def run_together(self, calls: Sequence[Call[Any]]) -> list[Any]:
        self.sizes.append(len(calls))
        await self.held.wait()
        return await super().run_together(calls)


@pytest.fixture
async def run() -> AsyncIterator[Callable[[Settings], Counting]]:
    """Makes runners, and closes their clients with the test."""
    made: list[Counting] = []

    def make(settings: Settings) -> Counting:
        made.append(Counting(settings))
        return made[-1]

    yield make
    for runner in made:
        await runner.client.aclose()


async def attempts(desk: Desk, runner: AsyncRunner, **facts: Any) -> list[Report]:
    """A report for each callback that is due."""
    calls = OutboxCalls.of(desk.settings)
    call = calls.lease("token", lease_ms=60_000, posts=1000, parcel="p" * 32)
    posts = (await runner.run(call)).posts
    given: dict[str, Any] = {"verdict": "delivered", "health": "well", "status": 204} | facts
    return [Report(post, **given) for post in posts]


async def test_reports_gather_while_one_is_written(
    open_desk: OpenDesk, run: Callable[[Settings], Counting], wait_until_async: WaitUntilAsync
) -> None:
    desk = open_desk(callback_host_concurrency=100)
    entries = desk.ended(*(f"http://127.0.0.{n}:9/hook" for n in range(1, 7)))
    runner = run(desk.settings)
    reports = Reports(runner, OutboxCalls.of(desk.settings))
    await reports.written()
    runner.held.clear()
    first, *others = await attempts(desk, runner)
    reports.add(first)

    async def began() -> bool:
        return runner.sizes == [1]

    await wait_until_async(began, "the first is being written")
    for report in others:
        reports.add(report)
    runner.held.set()
    await reports.written()
    assert runner.sizes == [1, 5]
    assert desk.states(*entries) == {"delivered"}


async def test_no_round_trip_is_too_long(
    open_desk: OpenDesk, run: Callable[[Settings], Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST", 4)
    desk = open_desk()
    entries = desk.ended(*(f"http://127.0.1.{n}:9/hook" for n in range(1, 11)))
    runner = run(desk.settings)
    reports = Reports(runner, OutboxCalls.of(desk.settings))
    for report in await attempts(desk, runner):
        reports.add(report)
    await reports.written()
    assert runner.sizes == [4, 4, 2]
    assert desk.states(*entries) == {"delivered"}


async def test_what_gives_way_goes_when_other_results_go(
    open_desk: OpenDesk, run: Callable[[Settings], Counting]
) -> None:
    desk = open_desk(max_dead_callbacks=1, result_ttl_s=60, dead_ttl_s=5000)
    runner = run(desk.settings)
    reports = Reports(runner, OutboxCalls.of(desk.settings))
    entries, once = [], shared_keys(desk.settings.namespace).once
    for _ in range(2):
        entries += desk.ended(URL)
        desk.client.set(once + entries[-1].uid, "as of a job with an idempotency key")
        for report in await attempts(desk, runner, verdict="dead", health="unknown", status=410):
            reports.add(report)
        await reports.written()
    assert desk.states(*entries) == {"dead"}
    left = [desk.client.ttl(desk.keys.job + entry.uid) for entry in entries]
    assert left[0] <= 60 < left[1]
    held = [desk.client.ttl(once + entry.uid) for entry in entries]
    assert 0 < held[0] <= 60 + desk.settings.tombstone_ttl_s < held[1]


async def test_a_report_that_cannot_be_written_stops_no_other(
    open_desk: OpenDesk, run: Callable[[Settings], Counting], caplog: pytest.LogCaptureFixture
) -> None:
    desk = open_desk()
    hosts = [f"127.0.0.{n}:9" for n in range(1, 6)]
    entries = desk.ended(*(f"http://{host}/hook" for host in hosts))
    runner = run(desk.settings)
    reports = Reports(runner, OutboxCalls.of(desk.settings))
    given = await attempts(desk, runner)
    broken = shared_keys(desk.settings.namespace).underway + hosts[2]
    desk.client.set(broken, "no sorted set")
    for report in given:
        reports.add(report)
    await reports.written()
    assert runner.sizes == [5, 1, 1, 1, 1, 1]
    good = [entry for entry in entries if entry is not entries[2]]
    assert desk.states(*good) == {"delivered"}
    assert {len(desk.callback(entry).log) for entry in good} == {1}, "one was written twice"
    (line,) = caplog.messages
    assert line.startswith(f"{hosts[2]}: what became of callback {entries[2].job_id} cannot be")
    assert desk.states(entries[2]) == {"pending"}
    desk.client.delete(broken)
    (late,) = [report for report in given if report.post.receiver == hosts[2]]
    reports.add(late)
    await reports.written()
    assert desk.states(*entries) == {"delivered"}


@pytest.fixture
def away(own_redis: Callable[..., OwnRedis]) -> OwnRedis:
    return own_redis("--appendonly", "yes", "--appendfsync", "always")


async def test_reports_wait_for_a_redis_that_is_away(
    open_desk: OpenDesk,
    run: Callable[[Settings], Counting],
    away: OwnRedis,
    monkeypatch: pytest.MonkeyPatch,
    wait_until_async: WaitUntilAsync,
) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0.02)
    desk = open_desk(redis_url=away.url, redis_retries=0)
    entries = desk.ended(URL, "http://127.0.0.2:9/hook")
    runner = run(desk.settings)
    reports = Reports(runner, OutboxCalls.of(desk.settings))
    first, second = await attempts(desk, runner)
    away.kill()
    reports.add(first)

    async def tried() -> bool:
        return len(runner.sizes) > 2

    await wait_until_async(tried, "it is tried again")
    reports.add(second)
    away.start()
    await reports.written()
    assert desk.states(*entries) == {"delivered"}
    assert [len(desk.callback(entry).log) for entry in entries] == [1, 1]


async def test_reports_are_given_up_when_their_leases_are_over(
    open_desk: OpenDesk,
    run: Callable[[Settings], Counting],
    away: OwnRedis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0.02)
    monkeypatch.setattr(module, "_GIVE_UP_S", 0.1)
    desk = open_desk(redis_url=away.url, redis_retries=0)
    entries = desk.ended(URL)
    runner = run(desk.settings)
    reports = Reports(runner, OutboxCalls.of(desk.settings))
    (report,) = await attempts(desk, runner)
    away.kill()
    reports.add(report)
    await reports.written()
    assert "Redis does not answer (ConnectionError): 1 callbacks may be sent once more" in (
        caplog.text
    )
    away.start()
    assert desk.states(*entries) == {"pending"}
    reports.add(report)
    await reports.written()
    assert desk.states(*entries) == {"delivered"}
