"""The sender of this process: one event loop in a thread for all turns, made on first use."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from umbel_callbacks.assembly import make_sender
from umbel_callbacks.sender import Flag, Sender, Tally
from umbel_config.embedded import find_store
from umbel_config.settings import Settings, load_settings
from umbel_worker.shutdown import stopping

T = TypeVar("T")


class SenderThread:
    """A sender whose connections outlive the Celery tasks that it works for.

    Args:
        settings: with a ``redis_url``.

    Raises:
        ConfigError: a setting of callbacks is malformed, or there is no secret.
    """

    def __init__(self, settings: Settings) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="umbel-sender", daemon=True
        )
        self._thread.start()
        try:
            self._sender: Sender = self._wait_for(make_sender(settings))
        except BaseException:
            self._end_loop()
            raise

    def turn(self, token: str, budget_s: float, flag: Flag = stopping) -> Tally:
        """One turn of the sender; see ``Sender.turn``."""
        return self._wait_for(self._sender.turn(token, budget_s, flag))

    def close(self) -> None:
        """Waits for what is under way, as ``Sender.aclose`` does, and ends the thread."""
        self._wait_for(self._sender.aclose())
        self._wait_for(self._sender.runner.client.aclose())
        self._end_loop()

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _OfThisProcess:
    """The sender of this process, made once.

    Attributes:
        lock: held while it is made or closed.
        made: the sender; ``None`` before the first call, and after the last.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made: SenderThread | None = None


_own = _OfThisProcess()


def sender_thread() -> SenderThread:
    """The sender of this process; its settings come from file and environment.

    Raises:
        ConfigError: a setting of callbacks is malformed, or there is no secret.
    """
    with _own.lock:
        if _own.made is None:
            _own.made = SenderThread(find_store(load_settings()))
        return _own.made


def close() -> None:
    """Closes the sender of this process, if there is one."""
    with _own.lock:
        made, _own.made = _own.made, None
    if made is not None:
        made.close()
