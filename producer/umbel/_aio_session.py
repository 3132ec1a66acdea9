"""One asyncio client's link to the store: connections, inbox, listening task and reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

from umbel._inbox import Inbox, Waiting, by_slot
from umbel._models import WayCache, find_async
from umbel._outcome import missing, outcome_in
from umbel._patience import Outage
from umbel._way import Target, Way
from umbel_batching import record
from umbel_batching.calls import Calls
from umbel_batching.census import JobInfo, job_info
from umbel_batching.identity import identify_async
from umbel_batching.keys import lane_keys, reply_channel
from umbel_batching.lanes import split_id
from umbel_batching.record import State
from umbel_batching.scripts import AsyncRunner
from umbel_batching.values import Accepted, NewJob
from umbel_config.connect import address_of, check_server_async, connect_async, translate_errors
from umbel_config.embedded import find_store
from umbel_config.errors import JobNotFound, ResultExpired, StoreUnavailable
from umbel_config.settings import Settings

log = logging.getLogger("umbel.client")
#: Submits on their way at the same time; more would only open more connections.
_CONCURRENT = 16
_READ_S = 1.0
_RECONNECT_S = 0.2


class AsyncSession:
    """Everything an ``AsyncClient`` does with the store; it belongs to one event loop.

    Attributes:
        inbox: which jobs wait for an outcome.
        store: identity of the store as it was last seen; empty before the first call.

    Args:
        settings: which Redis, and how.
    """

    def __init__(self, settings: Settings) -> None:
        self.inbox = Inbox()
        self.store = ""
        self._outage = Outage()
        self._settings = settings
        self._calls = Calls.of(settings)
        self._ways = WayCache()
        self._translated = translate_errors("")
        self._runner: AsyncRunner | None = None
        self._listening: asyncio.Task[None] | None = None
        self._open = AsyncExitStack()
        self._starting = asyncio.Lock()
        self._places = asyncio.Semaphore(_CONCURRENT)

    async def way(self, model: str, version: str | None) -> Way:
        """The way that a name and version mean now."""
        way = self._ways.get(model, version)
        if way is not None:
            return way
        runner = await self._connected()
        async with self._places:
            with self._translated:
                return await find_async(
                    runner.client, self._settings.namespace, self._ways, model, version
                )

    async def listen(self) -> None:
        """Starts the task that receives pushed outcomes, unless it runs."""
        if self._listening is not None:
            return
        runner = await self._connected()
        async with self._starting:
            if self._listening is None:
                async with AsyncExitStack() as failed:
                    client = connect_async(
                        self._settings, purpose="pubsub", client_name="umbel-listener", retries=0
                    )
                    failed.push_async_callback(client.aclose)
                    pubsub: Any = client.pubsub(ignore_subscribe_messages=True)
                    failed.push_async_callback(pubsub.aclose)
                    await self._subscribe(pubsub)
                    self._listening = asyncio.create_task(self._listen(pubsub, runner))
                    # Not by the task: one that is cancelled before its first step does nothing.
                    self._open.push_async_exit(failed.pop_all())

    async def submit(self, target: Target, jobs: Sequence[NewJob]) -> Accepted:
        """Puts jobs into the lane of ``target``: all, or none."""
        accepted: Accepted = await self._run(self._calls.submit(target.lane, jobs))
        return accepted

    async def poll(self, jobs: Sequence[Waiting]) -> None:
        """Reads the outcomes of those of ``jobs`` that are terminal into the inbox."""
        waiting = {job.id: job for job in jobs}
        for slot, uids in by_slot(waiting):
            await self._poll(slot, [waiting[f"{slot}-{uid}"] for uid in uids])

    async def look(self, jobs: Sequence[Waiting]) -> StoreUnavailable | None:
        """As ``poll``, for those who wait: an outage that may pass is returned, not raised."""
        try:
            await self.poll(jobs)
        except StoreUnavailable as error:
            if self._runner is None:
                raise
            return self._outage.met(error)
        self._outage.over()
        return None

    async def state(self, job: Waiting) -> State:
        """The state of a job; its payload does not travel."""
        slot, uid = split_id(job.id)
        state = (await self._run(self._calls.states(slot, [uid])))[0]
        if state is None:
            raise await self._missing(job)
        return State(state)

    async def cancel(self, job: Waiting) -> bool:
        """Cancels a job; returns whether it is cancelled now."""
        slot, uid = split_id(job.id)
        cancelled, found = await self._run(self._calls.cancel(slot, uid))
        if found is None:
            raise await self._missing(job)
        return cancelled or found is State.CANCELLED

    async def forget(self, job: Waiting) -> None:
        """Cancels a job, and deletes what is kept of it but the tombstone."""
        slot, uid = split_id(job.id)
        found = await self._run(self._calls.forget(slot, uid))
        self.inbox.discard(job)
        if found is None:
            error = await self._missing(job)
            if not isinstance(error, ResultExpired):
                raise error

    async def info(self, job: Waiting) -> JobInfo:
        """The story of a job."""
        slot, uid = split_id(job.id)
        keys = lane_keys(self._settings.namespace, slot)
        raw = (await self._run(self._calls.heads(slot, [uid])))[0]
        if raw and record.parse(raw).state is State.FAILED:  # its body tells why
            raw = (await self._run(self._calls.outcomes(slot, [uid])))[0]
        if not raw:
            raise await self._missing(job)
        parsed = record.parse(raw)
        client: Any = (await self._connected()).client
        with self._translated:
            lane = await client.hget(keys.lane, "name") or b"?@?"
            batch = await client.hgetall(keys.batch + parsed.batch) if parsed.batch else {}
            delivery = await client.get(keys.delivery + uid) if parsed.callback else None
        return job_info(job.id, lane.decode(), parsed, batch, delivery)

    async def aclose(self) -> None:
        """Ends the listening task and closes all connections; jobs go on."""
        if self._listening is not None:
            self._listening.cancel()
            with suppress(asyncio.CancelledError):
                await self._listening
        self._listening = self._runner = None
        await self._open.aclose()

    async def _poll(self, slot: str, jobs: Sequence[Waiting]) -> None:
        records = await self._run(self._calls.outcomes(slot, [split_id(job.id)[1] for job in jobs]))
        for job, raw in zip(jobs, records, strict=True):
            outcome = outcome_in(raw) if raw else None
            if outcome is not None:
                self.inbox.deliver(job, outcome)
        for job, raw in zip(jobs, records, strict=True):
            if not raw and job.outcome is None:
                raise await self._missing(job)

    async def _missing(self, job: Waiting) -> JobNotFound:
        """The error for a job without a record; notices when the store has lost its data."""
        slot, uid = split_id(job.id)
        fate = (await self._run(self._calls.fates(slot, [uid])))[0]
        client = (await self._connected()).client
        async with self._places:
            with self._translated:
                found = await _cancellable(identify_async(client, self._settings.namespace))
        if found.store != self.store:
            self.store = found.store
            self._ways.clear()
        return missing(job, fate, found.store, self._calls.keep)

    async def _run(self, call: Any) -> Any:
        runner = await self._connected()
        async with self._places:
            with self._translated:
                return await _cancellable(runner.run(call))

    async def _connected(self) -> AsyncRunner:
        if self._runner is None:
            async with self._starting:
                if self._runner is None:
                    self._settings = find_store(self._settings)
                    client = connect_async(self._settings, client_name="umbel-client")
                    self._translated = translate_errors(address_of(client))
                    async with AsyncExitStack() as failed:
                        failed.push_async_callback(client.aclose)
                        await check_server_async(client)
                        with self._translated:
                            found = await identify_async(client, self._settings.namespace)
                        self.store = found.store
                        self._open.push_async_exit(failed.pop_all())
                    self._runner = AsyncRunner(client)
        return self._runner

    async def _subscribe(self, pubsub: Any) -> None:
        with self._translated:
            await pubsub.subscribe(reply_channel(self._settings.namespace, self.inbox.reply))
            await pubsub.get_message(timeout=_READ_S)

    async def _listen(self, pubsub: Any, runner: AsyncRunner) -> None:
        missed = False
        while not _cancelling():
            try:
                message = await pubsub.get_message(timeout=_READ_S)
                if message is not None:
                    await self._read(self.inbox.receive(message["data"]), runner)
                if missed:
                    await self._read(self.inbox.expected(), runner)
                    missed = False
            except Exception as error:  # noqa: BLE001  (a bad message must not end all pushes)
                log.info("listener goes on after %s", type(error).__name__)
                missed = True
                await asyncio.sleep(_RECONNECT_S)

    async def _read(self, ids: list[str], runner: AsyncRunner) -> None:
        for slot, uids in by_slot(ids):
            records = await runner.run(self._calls.outcomes(slot, uids))
            self.inbox.deliver_records(slot, uids, records)


def _cancelling() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


async def _cancellable(work: Awaitable[Any]) -> Any:
    """Awaits ``work``, and is cancelled after it where it has swallowed the cancellation.

    Before Python 3.12 ``asyncio.wait_for``, which redis-py sends with, does so when what it waits
    for is done at the same moment (bpo-37658). The caller's timeout would never end.
    """
    before = _cancelling()
    result = await work
    if _cancelling() > before:
        raise asyncio.CancelledError
    return result
