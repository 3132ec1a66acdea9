"""The listener of one client: a thread that receives pushed outcomes on one connection."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

import redis
from redis.exceptions import RedisError

from umbel._inbox import Inbox, by_slot
from umbel_batching.calls import Calls
from umbel_batching.keys import reply_channel
from umbel_batching.scripts import Runner

log = logging.getLogger("umbel.client")
_READ_S = 1.0
_RECONNECT_S = 0.2


class Listener:
    """Receives pushed outcomes into an inbox until it is stopped.

    A push can be lost with its connection. When there is a new one, the listener reads the records
    of all jobs that still wait; and whoever waits also polls now and then.

    Args:
        client: a Redis client made for ``pubsub``, for this listener alone. It must not try again
            by itself (``retries=0``), or the loss of a connection would go unnoticed.
        runner: runs reads of records on another connection.
        calls: of the namespace.
        inbox: where outcomes go.
    """

    def __init__(self, client: redis.Redis, runner: Runner, calls: Calls, inbox: Inbox) -> None:
        self._client, self._runner, self._calls, self._inbox = client, runner, calls, inbox
        self._channel = reply_channel(calls.namespace, inbox.reply)
        self._pubsub = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="umbel-listener", daemon=True)

    def start(self) -> None:
        """Subscribes, so that nothing submitted from now on is missed, and starts the thread.

        Raises:
            RedisError: the subscription failed.
        """
        self._pubsub.subscribe(self._channel)
        self._pubsub.get_message(timeout=_READ_S)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread within its longest read, and closes the connection then."""
        self._stop.set()

    def join(self) -> None:
        """Ends the thread's read, if Redis lets us, and waits for the thread."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            with suppress(RedisError):
                self._runner.client.publish(self._channel, b"")
            self._thread.join()

    def _run(self) -> None:
        missed = False
        while not self._stop.is_set():
            try:
                message = self._pubsub.get_message(timeout=_READ_S)
                if message is not None:
                    self._read(self._inbox.receive(message["data"]))
                if missed:
                    self._read(self._inbox.expected())
                    missed = False
            except Exception as error:  # noqa: BLE001  (a bad message must not end all pushes)
                log.info("listener goes on after %s", type(error).__name__)
                missed = True
                self._stop.wait(_RECONNECT_S)
        self._pubsub.close()
        self._client.close()

    def _read(self, ids: list[str]) -> None:
        """Delivers the outcomes of those jobs that are terminal from their records."""
        for slot, uids in by_slot(ids):
            records = self._runner.run(self._calls.outcomes(slot, uids))
            self._inbox.deliver_records(slot, uids, records)
