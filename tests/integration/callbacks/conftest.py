"""A name server and receivers on this machine, real ones, that tell what reached them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


class NameServer(asyncio.DatagramProtocol):
    """Answers over UDP from a table, and counts the questions.

    Attributes:
        records: for each name its answers, one list of addresses after the other; the last stays.
            An empty list says that the name exists and has no address; ``None`` is silence.
        questions: how often each name and kind was asked for.
    """

    def __init__(self) -> None:
        self.records: dict[str, list[list[str] | None]] = {}
        self.questions: Counter[tuple[str, str]] = Counter()
        self._transport: Any = None

    @property
    def entry(self) -> str:
        """The server as ``callback_nameservers`` names it."""
        host, port = self._transport.get_extra_info("sockname")
        return f"{host}:{port}"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        reply = self._reply(dns.message.from_wire(data))
        if reply is not None:
            self._transport.sendto(reply.to_wire(), addr)

    def _reply(self, query: dns.message.Message) -> dns.message.Message | None:
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True), question.rdtype
        answers = self.records.get(name)
        turn = self.questions[name, kind.name]
        self.questions[name, kind.name] += 1
        reply = dns.message.make_response(query)
        if answers is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
            return reply
        answer = answers[min(turn, len(answers) - 1)]
        if answer is None:
            return None
        fitting = [one for one in answer if (":" in one) == (kind == dns.rdatatype.AAAA)]
        if fitting:
            reply.answer.append(dns.rrset.from_text(question.name, 0, "IN", kind, *fitting))
        return reply


class Recorder:
    """A receiver that answers each request with 204, and keeps what it was sent.

    Attributes:
        connections: how many were made to it.
        heads: the head of each request.
        first: the first bytes of each connection.
    """

    def __init__(self) -> None:
        self.connections = 0
        self.heads: list[str] = []
        self.first: list[bytes] = []
        self.port = 0
        self._server: asyncio.Server

    async def start(self, host: str, port: int) -> None:
        self._server = await asyncio.start_server(self._serve, host, port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            start = await reader.read(1)
            if start == b"\x16":  # a greeting in TLS, which this receiver does not speak
                self.first.append(start + await reader.read(4096))
                return
            while start:
                self.heads.append((start + await reader.readuntil(b"\r\n\r\n")).decode())
                writer.write(ANSWER)
                start = await reader.read(1)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


StartRecorder = Callable[..., Coroutine[None, None, Recorder]]


@pytest.fixture
async def name_server() -> AsyncIterator[NameServer]:
    """A name server on a free port of 127.0.0.1."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    yield server
    transport.close()


@pytest.fixture
async def start_recorder() -> AsyncIterator[StartRecorder]:
    """Starts receivers on addresses of this machine; they end with the test."""
    async with AsyncExitStack() as stack:

        async def start(host: str = "127.0.0.1", port: int = 0) -> Recorder:
            recorder = Recorder()
            await recorder.start(host, port)
            stack.push_async_callback(recorder.close)
            return recorder

        yield start
