"""One client's link to the store in one process: connections, inbox, listener and reads."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import cast

from umbel._inbox import Inbox, Waiting, by_slot
from umbel._listener import Listener
from umbel._models import WayCache, find
from umbel._outcome import missing, outcome_in
from umbel._patience import Outage
from umbel._way import Target, Way
from umbel_batching import record
from umbel_batching.calls import Calls
from umbel_batching.census import JobInfo, job_info
from umbel_batching.identity import identify
from umbel_batching.keys import lane_keys
from umbel_batching.lanes import split_id
from umbel_batching.record import State
from umbel_batching.scripts import Runner
from umbel_batching.values import Accepted, NewJob
from umbel_config.connect import address_of, check_server, connect, translate_errors
from umbel_config.embedded import find_store
from umbel_config.errors import JobNotFound, ResultExpired, StoreUnavailable
from umbel_config.settings import Settings


class _Live:
    """What belongs to one process: connections, the inbox, the listener once somebody needs it.

    Args:
        inherited: what the parent of a forked child had. It is kept, unused: to close it would
            take locks that may be held by threads which do not exist here.
    """

    def __init__(self, inherited: _Live | None = None) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.inbox = Inbox()
        self.store = ""
        self.runner: Runner | None = None
        self.listener: Listener | None = None
        self.stop: Callable[[], object] | None = None
        self._inherited = inherited


class Session:
    """Everything a client does with the store, for as long as the client lives.

    It connects with the first call, and starts over in a forked child: there it has an inbox of
    its own, and the jobs of its parent are read from the store.

    Args:
        settings: which Redis, and how.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._calls = Calls.of(settings)
        self._translated = translate_errors("")
        self._ways = WayCache()
        self._outage = Outage()
        self._live = _Live()

    @property
    def store(self) -> str:
        """Identity of the store as this process last saw it; empty before the first call."""
        return self._in_this_process().store

    def way(self, model: str, version: str | None) -> Way:
        """The way that a name and version mean now."""
        way = self._ways.get(model, version)
        if way is not None:
            return way
        runner = self._connected()
        with self._translated:
            return find(runner.client, self._settings.namespace, self._ways, model, version)

    def inbox(self) -> Inbox:
        """The inbox of this process."""
        return self._in_this_process().inbox

    def listening(self) -> Inbox:
        """The inbox, with its listener at work."""
        live = self._in_this_process()
        if live.listener is None:
            runner = self._connected()
            with live.lock, self._translated:
                if live.listener is None:
                    pubsub = connect(
                        self._settings, purpose="pubsub", client_name="umbel-listener", retries=0
                    )
                    listener = Listener(pubsub, runner, self._calls, live.inbox)
                    listener.start()
                    live.stop = weakref.finalize(self, listener.stop)
                    live.listener = listener
        return live.inbox

    def submit(self, target: Target, jobs: Sequence[NewJob]) -> Accepted:
        """Puts jobs into the lane of ``target``: all, or none."""
        runner = self._connected()
        with self._translated:
            return runner.run(self._calls.submit(target.lane, jobs))

    def poll(self, jobs: Sequence[Waiting]) -> None:
        """Reads the outcomes of those of ``jobs`` that are terminal into the inbox.

        Raises:
            JobNotFound: one of them is not known.
        """
        waiting = {job.id: job for job in jobs}
        for slot, uids in by_slot(waiting):
            self._poll(slot, [waiting[f"{slot}-{uid}"] for uid in uids])

    def look(self, jobs: Sequence[Waiting]) -> StoreUnavailable | None:
        """As ``poll``, for those who wait: an outage that may pass is returned, not raised.

        Raises:
            JobNotFound: one of them is not known.
            StoreUnavailable: the store never answered, or waiting does not help.
        """
        try:
            self.poll(jobs)
        except StoreUnavailable as error:
            if self._in_this_process().runner is None:
                raise
            return self._outage.met(error)
        self._outage.over()
        return None

    def state(self, job: Waiting) -> State:
        """The state of a job; its payload does not travel."""
        slot, uid = split_id(job.id)
        runner = self._connected()
        with self._translated:
            state = runner.run(self._calls.states(slot, [uid]))[0]
        if state is None:
            raise self._missing(job)
        return state

    def cancel(self, job: Waiting) -> bool:
        """Cancels a job; returns whether it is cancelled now."""
        slot, uid = split_id(job.id)
        runner = self._connected()
        with self._translated:
            cancelled, found = runner.run(self._calls.cancel(slot, uid))
        if found is None:
            raise self._missing(job)
        return cancelled or found is State.CANCELLED

    def forget(self, job: Waiting) -> None:
        """Cancels a job, and deletes what is kept of it but the tombstone."""
        slot, uid = split_id(job.id)
        runner = self._connected()
        with self._translated:
            found = runner.run(self._calls.forget(slot, uid))
        self.inbox().discard(job)
        if found is None:
            error = self._missing(job)
            if not isinstance(error, ResultExpired):
                raise error

    def info(self, job: Waiting) -> JobInfo:
        """The story of a job."""
        slot, uid = split_id(job.id)
        keys = lane_keys(self._settings.namespace, slot)
        runner = self._connected()
        with self._translated:
            raw = runner.run(self._calls.heads(slot, [uid]))[0]
            if raw and record.parse(raw).state is State.FAILED:  # its body says why
                raw = runner.run(self._calls.outcomes(slot, [uid]))[0]
        if not raw:
            raise self._missing(job)
        parsed = record.parse(raw)
        with self._translated:
            lane = cast("bytes | None", runner.client.hget(keys.lane, "name")) or b"?@?"
            batch = cast(
                "dict[bytes, bytes]",
                runner.client.hgetall(keys.batch + parsed.batch) if parsed.batch else {},
            )
            delivery = runner.client.get(keys.delivery + uid) if parsed.callback else None
        return job_info(job.id, lane.decode(), parsed, batch, cast("bytes | None", delivery))

    def close(self) -> None:
        """Stops the listener and closes all connections; jobs go on."""
        live = self._in_this_process()
        self._live = _Live()
        if live.listener is not None and live.stop is not None:
            live.stop()
            live.listener.join()
        if live.runner is not None:
            live.runner.client.close()

    def _poll(self, slot: str, jobs: Sequence[Waiting]) -> None:
        runner, inbox = self._connected(), self.inbox()
        with self._translated:
            call = self._calls.outcomes(slot, [split_id(job.id)[1] for job in jobs])
            records = runner.run(call)
        for job, raw in zip(jobs, records, strict=True):
            outcome = outcome_in(raw) if raw else None
            if outcome is not None:
                inbox.deliver(job, outcome)
        for job, raw in zip(jobs, records, strict=True):
            if not raw and job.outcome is None:
                raise self._missing(job)

    def _missing(self, job: Waiting) -> JobNotFound:
        """The error for a job without a record; notices when the store has lost its data."""
        slot, uid = split_id(job.id)
        live, runner = self._in_this_process(), self._connected()
        with self._translated:
            fate = runner.run(self._calls.fates(slot, [uid]))[0]
            store = identify(runner.client, self._settings.namespace).store
        if store != live.store:
            live.store = store
            self._ways.clear()
        return missing(job, fate, store, self._calls.keep)

    def _connected(self) -> Runner:
        live = self._in_this_process()
        if live.runner is None:
            with live.lock:
                live.runner = live.runner or self._connect(live)
        return live.runner

    def _connect(self, live: _Live) -> Runner:
        settings = find_store(self._settings)
        client = connect(settings, client_name="umbel-client")
        self._settings, self._translated = settings, translate_errors(address_of(client))
        try:
            check_server(client)
            with self._translated:
                live.store = identify(client, settings.namespace).store
        except BaseException:
            client.close()
            raise
        return Runner(client)

    def _in_this_process(self) -> _Live:
        if self._live.pid != os.getpid():
            self._live = _Live(self._live)
        return self._live
