"""Asks HTTP servers over many keep-alive connections, one request at a time on each.

Usage: python -m suite.contestants.http_driver CODEC CONNECTIONS MODEL=PORT …

There is no HTTP library in between: the requests are written and the answers are read by hand, at a
few microseconds each, so that the client takes as little of the shared cores as a client can.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite.driver import Driver, serve

_END, _LENGTH = b"\r\n\r\n", b"content-length:"
_PATIENCE_S, _READ = 30.0, 1 << 16


class BadAnswer(Exception):
    """A server refused a row, hung up or said nothing."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How a row is written and an answer is read.

    Attributes:
        path: of the request.
        kind: its media type.
        encode: body of a row.
        decode: answer in a body.
    """

    path: str
    kind: str
    encode: Callable[[NDArray[Any]], bytes]
    decode: Callable[[bytes], Any]

    def request(self, row: NDArray[Any]) -> bytes:
        """A whole request."""
        body = self.encode(row)
        return _head(self.path, self.kind, len(body)) + body


@cache
def _head(path: str, kind: str, length: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def packed(row: NDArray[Any]) -> bytes:
    """MessagePack of the bytes of a row: a header of 2, 3 or 5 bytes and the bytes themselves."""
    size, body = row.nbytes, row.tobytes()
    if size < 1 << 8:
        return b"\xc4" + size.to_bytes(1, "big") + body
    if size < 1 << 16:
        return b"\xc5" + size.to_bytes(2, "big") + body
    return b"\xc6" + size.to_bytes(4, "big") + body


def unpacked(body: bytes) -> NDArray[np.float32]:
    """The numbers in such bytes."""
    return np.frombuffer(body, np.float32, offset={0xC4: 2, 0xC5: 3, 0xC6: 5}[body[0]])


CODECS = {
    "msgpack": Codec("/inference", "application/msgpack", packed, unpacked),
    "json": Codec(
        "/predict",
        "application/json",
        lambda row: json.dumps({"row": row.tolist()}).encode(),
        lambda body: json.loads(body)["answer"],
    ),
}


class Connection:
    """A keep-alive connection.

    Args:
        port: of the server, on this machine.

    Attributes:
        place: of the row that it waits for.
    """

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.place = -1
        self._read = b""

    def send(self, place: int, request: bytes) -> None:
        """Sends a row."""
        self.place = place
        self.socket.sendall(request)

    def body(self) -> bytes | None:
        """Reads what is there; the body of the answer, once it is whole.

        Raises:
            BadAnswer: it is none, or the server hung up.
        """
        got = self.socket.recv(_READ)
        if not got:
            raise BadAnswer("the server hung up")
        self._read += got
        head_ends = self._read.find(_END)
        if head_ends < 0:
            return None
        head = self._read[:head_ends].lower()
        at = head.find(_LENGTH)
        if at < 0:
            raise BadAnswer(f"no length in {head[:200]!r}")
        length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0])
        body = self._read[head_ends + len(_END) :]
        if len(body) < length:
            return None
        if head[9:12] != b"200":
            raise BadAnswer(f"{head[:15]!r}: {body[:200]!r}")
        self._read = b""
        return body


class Http(Driver):
    """Keeps a request under way on every connection.

    Args:
        codec: of the server.
        connections: how many.
        ports: by model.
    """

    def __init__(self, codec: Codec, connections: int, ports: dict[str, int]) -> None:
        self._codec, self._count, self._ports = codec, connections, ports
        self._open: list[Connection] = []

    def ready(self, model: str) -> None:
        """Connects anew: servers close connections that are idle for long."""
        for connection in self._open:
            connection.socket.close()
        self._open = [Connection(self._ports[model]) for _ in range(self._count)]

    def many(self, model: str, rows: Any) -> NDArray[Any]:  # noqa: ARG002  (``ready`` knows it)
        """All rows, the next one on whatever connection has its answer."""
        codec, answers = self._codec, [None] * len(rows)
        todo = iter(enumerate(rows))
        with selectors.DefaultSelector() as selector:
            for connection, (place, row) in zip(self._open, todo, strict=False):
                selector.register(connection.socket, selectors.EVENT_READ, connection)
                connection.send(place, codec.request(row))
            left = len(rows)
            while left:
                events = selector.select(_PATIENCE_S)
                if not events:
                    raise BadAnswer("the server says nothing")
                for key, _ in events:
                    connection = key.data
                    body = connection.body()
                    if body is None:
                        continue
                    answers[connection.place] = codec.decode(body)
                    left -= 1
                    following = next(todo, None)
                    if following is not None:
                        connection.send(following[0], codec.request(following[1]))
        return np.asarray(answers, dtype=np.float32)


if __name__ == "__main__":
    serve(
        Http(
            CODECS[sys.argv[1]],
            int(sys.argv[2]),
            {model: int(port) for model, port in (word.split("=") for word in sys.argv[3:])},
        )
    )
