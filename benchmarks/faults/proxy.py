"""A proxy before Redis that lets commands run and then, by dice, loses their replies."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from faults.closing import Closing
from umbel_batching.scripts import source

#: Scripts whose lost replies are counted by name.
SCRIPTS = ("submit", "claim", "settle", "renew", "flush", "reap", "peek", "release")
_READ = 2**16


class LossyProxy(Closing):
    """Listens on a loopback port and talks to a Redis on a Unix socket.

    When the dice say so, the connection is cut before a reply travels back: the command has run,
    and whoever sent it cannot know.

    Args:
        socket: of the Redis server.
        share: of the replies that are lost, from 0 to 1.
        seed: of the dice.

    Attributes:
        share: may be changed at any time.
        lost: lost replies, by the script that was asked last, or ``other``.
        on_loss: called at each loss, from the thread of the proxy.
    """

    def __init__(self, socket: Path, share: float = 0.0, seed: int = 5) -> None:
        self.share = share
        self.lost: Counter[str] = Counter()
        self.on_loss: Callable[[], None] = _nothing
        self._socket, self._dice = socket, random.Random(seed)
        self._names = {source(name).sha.encode(): name for name in SCRIPTS}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lossy-proxy", daemon=True)
        self._thread.start()
        self._ready.wait()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self._port}/0"

    def close(self) -> None:
        """Cuts all connections and ends the thread."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._port: int = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        with suppress(OSError, asyncio.CancelledError):
            await self._relay(reader, writer)
        writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_unix_connection(self._socket)
        asked = [b""]
        forward = asyncio.create_task(self._forward(reader, downstream, asked))
        try:
            while reply := await upstream.read(_READ):
                if self._dice.random() < self.share:
                    self.lost[self._name(asked[0])] += 1
                    writer.transport.abort()
                    self.on_loss()
                    return
                writer.write(reply)
                await writer.drain()
        finally:
            forward.cancel()
            downstream.close()

    async def _forward(
        self, reader: asyncio.StreamReader, downstream: asyncio.StreamWriter, asked: list[bytes]
    ) -> None:
        with suppress(OSError):
            while command := await reader.read(_READ):
                if command.startswith(b"*"):  # else the rest of a long command
                    asked[0] = command[:128]
                downstream.write(command)
                await downstream.drain()
        downstream.close()

    def _name(self, command: bytes) -> str:
        return next((name for sha, name in self._names.items() if sha in command), "other")


def _nothing() -> None:
    """Nobody wants to know."""
