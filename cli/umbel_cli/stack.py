"""The whole stack in one place: Redis, workers, sender, started, tended and stopped."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from typing import Self

from umbel_batching.census import workers_of
from umbel_cli.child import Child, Say
from umbel_cli.orphans import take_back, worker_name
from umbel_cli.secret_file import with_secret
from umbel_cli.store import client_of, with_url
from umbel_config.connect import check_server, connect
from umbel_config.embedded import EmbeddedRedis, attach
from umbel_config.errors import UmbelError
from umbel_config.settings import Settings, environment, mask_url

#: Seconds that members get to stop, at the least.
PATIENCE_S = 30.0
#: Seconds that a worker may need for anything but its batches, which have ``grace_s``.
_MARGIN_S = 10.0
_POLL_S = 0.1
_LOOK_S, _MISSES = 1.0, 3
_SENDER = "sender"


class Stack:
    """An embedded Redis where no URL is set, N workers, a sender, a flusher where workers run none.

    Args:
        settings: of all members; without a ``redis_url`` an embedded Redis is started, or the one
            that another process runs for the same ``state_dir`` is used.
        workers: how many worker processes.
        sender: whether callbacks are sent; without callback_secrets one is made and kept.
        say: prints a line of a member.
    """

    def __init__(self, settings: Settings, *, workers: int, say: Say, sender: bool = False) -> None:
        self.secret_file: Path | None = None
        if sender:
            settings, self.secret_file = with_secret(settings)
        self.settings = settings
        self._given, self._workers, self._sender, self._say = settings, workers, sender, say
        self._server: EmbeddedRedis | None = None
        self._children: list[Child] = []
        self._next_look, self._misses = 0.0, 0

    @property
    def redis(self) -> str:
        """Where Redis is and whose, in words, without a password."""
        url = self.settings.redis_url
        where = mask_url(url.get_secret_value()) if url else "nowhere"
        if self._server is None:
            return where
        whose = "embedded, run by another process" if self.joins else "embedded"
        return f"{where} ({whose}, pid {self._server.pid})"

    @property
    def joins(self) -> bool:
        """Whether it uses an embedded Redis that another process runs."""
        return self._server is not None and not self._server.owned

    @property
    def pids(self) -> dict[str, int | None]:
        """The process id of each member; ``None`` for one that is down just now."""
        return {child.name: child.pid for child in self._children}

    def start(self) -> None:
        """Starts everything.

        Raises:
            StoreUnavailable: Redis cannot be started, reached or used.
        """
        self._open_store()
        self._start_children()

    def tend(self) -> None:
        """One look at all members; the dead are started again."""
        for child in self._children:
            child.tend()
        if self._server is not None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_S
            self._look_at_store()

    def run(self, stop: threading.Event) -> None:
        """Tends the members until ``stop`` is set."""
        while not stop.wait(_POLL_S):
            self.tend()

    def wait_ready(self, stop: threading.Event, timeout_s: float = 60.0) -> bool:
        """Waits until all workers and the sender of this stack say that they serve their queues.

        Args:
            stop: ends the wait.
            timeout_s: as does this.

        Returns:
            Whether they do.
        """
        end = time.monotonic() + timeout_s
        while not stop.is_set() and time.monotonic() < end:
            if self._ready():
                return True
            self.tend()
            stop.wait(_POLL_S)
        return False

    def _ready(self) -> bool:
        own = {worker_name(child.pid) for child in self._children if child.is_worker}
        senders = {worker_name(child.pid) for child in self._children if child.name == _SENDER}
        with client_of(self.settings) as client:
            seconds, micros = client.time()
            now_ms = seconds * 1000 + micros // 1000
            space = self.settings.namespace
            wanted = [(queue, own) for queue in self.settings.queues]
            wanted += [(self.settings.callback_queue, senders)]
            return bool(own) and all(
                those <= workers_of(client, space, queue, now_ms).keys() for queue, those in wanted
            )

    @property
    def patience_s(self) -> float:
        """Seconds that members get to stop: more than a worker gives its batches."""
        return max(PATIENCE_S, self.settings.grace_s + _MARGIN_S)

    def stop(self, hurry: threading.Event, patience_s: float | None = None) -> None:
        """Stops the members, then Redis if it is ours; batches that run may finish.

        Args:
            hurry: ends the wait for them when it is set.
            patience_s: as does the end of this time, if not that of ``Stack.patience_s``.
        """
        try:
            self._stop_children(hurry, self.patience_s if patience_s is None else patience_s)
        finally:
            if self._server is not None:
                self._server.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop(threading.Event())
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(threading.Event())

    def _open_store(self) -> None:
        if self._given.redis_url is None:
            self._server = EmbeddedRedis.start(self._given.state_dir)
            self.settings = with_url(self._given, self._server.url)
        with connect(self.settings, client_name="umbel-stack") as client:
            for warning in check_server(client).warnings:
                self._say("redis", f"warning: {warning}")

    def _start_children(self) -> None:
        # What models run as has no business with the secrets.
        variables = environment(self.settings.model_copy(update={"callback_secrets": ()}))
        died = partial(take_back, self.settings)
        self._children = [
            Child(f"worker-{place}", ("worker",), variables, self._say, died)
            for place in range(1, self._workers + 1)
        ]
        if self._sender:
            own = environment(self.settings)
            self._children.append(Child(_SENDER, ("sender",), own, self._say))
        if not self.settings.flusher:
            self._children.append(Child("flusher", ("flusher",), variables, self._say))
        for child in self._children:
            child.start()

    def _stop_children(self, hurry: threading.Event, patience_s: float) -> None:
        end = time.monotonic() + patience_s
        for child in self._children:
            child.ask_to_stop()
        while any(child.alive() for child in self._children) and time.monotonic() < end:
            if hurry.wait(_POLL_S / 2):
                break
        for child in self._children:
            if child.alive():
                self._say(child.name, "does not stop in time; killed, its jobs will run again")
            child.end()
        self._children = []

    def _look_at_store(self) -> None:
        """Starts the embedded Redis again when it, or the process that ran it, is gone."""
        self._misses = 0 if attach(self._given.state_dir) else self._misses + 1
        if self._misses < _MISSES or self._server is None:
            return
        self._misses = 0
        self._say("redis", "the embedded Redis is gone; starting it here, with the same data")
        self._server.close()
        before = self.settings
        try:
            self._open_store()
        except UmbelError as error:
            self._say("redis", f"{error}")
            return
        if self.settings != before:  # it has moved to another socket, which the members must know
            self._stop_children(threading.Event(), self.patience_s)
            self._start_children()
