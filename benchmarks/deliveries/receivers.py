"""Local receivers of callbacks, good ones and bad ones, in a process of their own.

Usage: python -m deliveries.receivers FOLDER KIND ... It writes its ports to FOLDER/ports.json, and
what every receiver got to FOLDER/got.json when its standard input is closed.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: What the busy receiver takes in one second, before it answers 429.
BUSY_PER_S = 400
SLOW_S = 0.01
_OK = b"HTTP/1.1 204 No Content\r\n\r\n"


def _empty(status: str, more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{more}Content-Length: 0\r\n\r\n".encode()


class Receiver(asyncio.Protocol):
    """One connection to a receiver; a raw protocol, so that the sender is the one measured.

    Args:
        kind: what it does: ``good``, ``slow``, ``hang``, ``reset``, ``flaky``, ``gone``, ``busy``.
        got: what all connections of the receiver got: moment, status, headers, body.
        seen: how often each ``webhook-id`` came.
    """

    def __init__(self, kind: str, got: list[list[Any]], seen: Counter[str]) -> None:
        self._kind, self._got, self._seen = kind, got, seen
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = transport
        if self._kind == "reset":
            raw = transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._buffer += data
        while True:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            headers = _headers(head)
            size = int(headers.get("content-length", "0"))
            if len(rest) < size:
                return
            self._buffer = rest[size:]
            self._request(headers, rest[:size])

    def _request(self, headers: dict[str, str], body: bytes) -> None:
        key = headers.get("webhook-id", "")
        self._seen[key] += 1
        status, answer = self._answer(key)
        signed = {name: value for name, value in headers.items() if name.startswith("webhook-")}
        self._got.append([time.time(), status, signed, body.decode()])
        if answer and self._kind == "slow":
            asyncio.get_running_loop().call_later(SLOW_S, self._transport.write, answer)
        elif answer:
            self._transport.write(answer)

    def _answer(self, key: str) -> tuple[int, bytes]:
        if self._kind == "hang":
            return 0, b""
        if self._kind == "flaky" and self._seen[key] <= 2:
            return 500, _empty("500 Internal Server Error")
        if self._kind == "gone":
            return 410, _empty("410 Gone")
        if self._kind == "busy" and self._over_its_rate():
            return 429, _empty("429 Too Many Requests", "Retry-After: 1\r\n")
        return 204, _OK

    def _over_its_rate(self) -> bool:
        since = time.time() - 1
        taken = 0
        for moment, status, *_ in reversed(self._got):
            if moment < since:
                break
            taken += status == 204
        return taken >= BUSY_PER_S


def _headers(head: bytes) -> dict[str, str]:
    pairs = (line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:])
    return {name.lower(): value for name, value in pairs}


async def serve(folder: Path, kinds: list[str]) -> None:
    """Serves one receiver for each kind until standard input is closed."""
    loop = asyncio.get_running_loop()
    got: list[list[list[Any]]] = [[] for _ in kinds]
    servers = []
    for kind, mine in zip(kinds, got, strict=True):
        servers.append(await loop.create_server(_maker(kind, mine), "127.0.0.1", 0, backlog=1000))
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    (folder / "ports.part").write_text(json.dumps(ports))
    (folder / "ports.part").rename(folder / "ports.json")
    await loop.run_in_executor(None, sys.stdin.read)
    (folder / "got.part").write_text(json.dumps(got))
    (folder / "got.part").rename(folder / "got.json")


def _maker(kind: str, got: list[list[Any]]) -> Callable[[], Receiver]:
    seen: Counter[str] = Counter()
    return lambda: Receiver(kind, got, seen)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2:]))
