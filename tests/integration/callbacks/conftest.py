"""A name server and receivers on this machine, real ones, that tell what reached them."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import msgspec
import numpy as np
import pytest
import redis

from umbel_batching import wire
from umbel_batching.calls import Calls
from umbel_batching.deliveries import Callback
from umbel_batching.keys import lane_keys, shared_keys
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.outbox import Entry
from umbel_batching.policy import BatchPolicy
from umbel_batching.receivers import read_callback
from umbel_batching.record import (
    NO_REPLY,
    Failure,
    State,
    encode_callback,
    encode_meta,
    settled,
    tail,
)
from umbel_batching.scripts import Runner
from umbel_batching.values import NewJob, Settlement
from umbel_callbacks import sender as sender_module
from umbel_callbacks.assembly import make_sender
from umbel_callbacks.sender import Sender, Tally
from umbel_callbacks.signing import new_secret
from umbel_config.connect import connect
from umbel_config.settings import Settings

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, WaitUntilAsync

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


@dataclass(frozen=True, slots=True)
class Request:
    """What a listener was sent; names of headers in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes


Handle = Callable[["Connection"], Awaitable[None]]


class Connection:
    """One connection to a listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def request(self) -> Request:
        """The next request, with its body."""
        line, headers = await self.head()
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Request(line, headers, body)

    async def head(self) -> tuple[str, dict[str, str]]:
        """The next request line and headers."""
        text = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        line, *rest = text.strip().split("\r\n")
        pairs = [each.partition(":") for each in rest]
        return line, {name.lower(): value.strip() for name, _, value in pairs}

    def say(self, status: str = "204 No Content", *headers: str, body: bytes = b"") -> None:
        """Answers."""
        lines = [f"HTTP/1.1 {status}", *headers]
        if not status.startswith(("1", "204")):
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode() + body)

    async def lost(self) -> None:
        """Waits until the other side closes."""
        while await self.reader.read(65536):
            continue


class Listener:
    """A server on this machine, whose connections are served as a test says.

    Attributes:
        connections: how many were made to it.
        lost: how many of them have ended.
    """

    def __init__(self, handle: Handle, tls: ssl.SSLContext | None = None) -> None:
        self.connections = self.lost = self.port = 0
        self._handle, self._tls = handle, tls
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self, host: str = "127.0.0.1") -> None:
        self._server = await asyncio.start_server(self._serve, host, 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def url(self, path: str = "/hidden?token=hidden", host: str = "127.0.0.1") -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{host}:{self.port}{path}"

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._run(Connection(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, connection: Connection) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._handle(connection)
        finally:
            self.lost += 1
            connection.writer.close()


StartListener = Callable[..., Coroutine[None, None, Listener]]


@pytest.fixture
async def listen() -> AsyncIterator[StartListener]:
    """Starts listeners that serve connections with a given function; they end with the test."""
    async with AsyncExitStack() as stack:

        async def start(handle: Handle, tls: ssl.SSLContext | None = None) -> Listener:
            listener = Listener(handle, tls)
            await listener.start()
            stack.push_async_callback(listener.close)
            return listener

        yield start


class Hook(Listener):
    """A receiver that answers as it is told, in turn, then with 204, once it is open.

    Args:
        answers: status and, behind bars, headers of the first answers.
        tls: its side of TLS, if it speaks that.

    Attributes:
        requests: what it was sent.
        now: requests that wait for their answer.
        most: the most of them at the same time.
        at: how many of them are meant for each receiver, by its name.
        open: unset, it lets them wait.
    """

    def __init__(self, *answers: str, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(self.serve, tls)
        self.requests: list[Request] = []
        self.now = self.most = 0
        self.at: Counter[str] = Counter()
        self.open = asyncio.Event()
        self.open.set()
        self._answers = deque(answers)

    @property
    def ids(self) -> list[str]:
        """The ids of the messages, in their order."""
        return [request.headers["webhook-id"] for request in self.requests]

    async def serve(self, connection: Connection) -> None:
        while True:
            request = await connection.request()
            name = request.headers["host"]
            self.requests.append(request)
            self.now += 1
            self.at[name] += 1
            self.most = max(self.most, self.now)
            await self.open.wait()
            self.now -= 1
            self.at[name] -= 1
            connection.say(*(self._answers.popleft().split("|") if self._answers else ()))


StartHook = Callable[..., Coroutine[None, None, Hook]]


@pytest.fixture
async def start_hook() -> AsyncIterator[StartHook]:
    """Starts receivers that keep what they are sent; they end with the test."""
    async with AsyncExitStack() as stack:

        async def start(*answers: str, tls: ssl.SSLContext | None = None) -> Hook:
            hook = Hook(*answers, tls=tls)
            await hook.start()
            stack.push_async_callback(hook.close)
            return hook

        yield start


Until = Callable[[Callable[[], object], str], Awaitable[None]]


@pytest.fixture
def until(wait_until_async: WaitUntilAsync) -> Until:
    """``wait_until`` for ordinary functions, while the loop goes on."""

    async def wait(predicate: Callable[[], object], description: str) -> None:
        async def seen() -> object:
            return predicate()

        await wait_until_async(seen, description)

    return wait


class Desk:
    """Jobs with callbacks that end as a test wants it, without a worker.

    Args:
        settings: which Redis and namespace.
        client: of that Redis.
    """

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        policy = BatchPolicy(max_batch_size=4096, max_wait_ms=0)
        self.lane = Lane(model="affine", version="1", policy=policy)
        self.settings, self.client = settings, client
        self.keys = lane_keys(settings.namespace, self.lane.slot)
        self.runner, self.calls = Runner(client), Calls.of(settings)

    def submit(
        self, *urls: str, shared: bool = False, metadata: Any = None, timeout_ms: int = 0
    ) -> list[Entry]:
        """One job for each URL; empty for one without a callback."""
        meta, jobs, entries = encode_meta(metadata), [], []
        for url in urls:
            callback = encode_callback(url, shared=shared) if url else b""
            text = tail(NO_REPLY, meta, callback=callback) + wire.encode([1.0])
            jobs.append(NewJob(new_uid(), text, timeout_ms))
            digest = hashlib.sha1(callback, usedforsecurity=False).hexdigest()[:16]
            entries.append(Entry(self.lane.slot, jobs[-1].uid, 0, digest if shared else ""))
        self.runner.run(self.calls.submit(self.lane, jobs))
        return entries

    def settle(self, output: Any = None, error: Failure | None = None) -> None:
        """Ends all jobs that wait, in one batch."""
        output = np.arange(3, dtype=np.float32) if output is None else output
        body = msgspec.msgpack.encode(error) if error else wire.encode(output)
        state = State.FAILED if error else State.SUCCEEDED
        batch = new_uid()
        claimed = self.runner.run(
            self.calls.claim(
                self.lane.slot, batch=batch, token=batch, worker="host:1", lease_ms=60_000
            )
        )
        records = [settled(raw, state, body) for raw in claimed.records]
        done = 0 if error else len(records)
        outcome = Settlement(claimed.uids, records, done, {}, 1500)
        assert self.runner.run(self.calls.settle(self.lane.slot, batch, outcome))

    def ended(self, *urls: str, shared: bool = False, output: Any = None) -> list[Entry]:
        """Jobs that succeeded, one for each URL."""
        entries = self.submit(*urls, shared=shared)
        self.settle(output)
        return entries

    def callback(self, entry: Entry) -> Callback:
        """How the callback of a job fares."""
        found = read_callback(self.client, self.settings.namespace, entry.job_id)
        assert found is not None
        assert found[1] is not None
        return found[1]

    def states(self, *entries: Entry) -> set[str]:
        """The states of the callbacks of these jobs."""
        return {self.callback(entry).state for entry in entries}

    async def finish(self, sender: Sender, *entries: Entry) -> Tally:
        """As many turns as it takes until nothing is left to do of these, added up."""
        tallies: list[Tally] = []
        end = time.monotonic() + 20
        while not tallies or not self.states(*entries) <= {"delivered", "dead"}:
            assert time.monotonic() < end
            tallies.append(await sender.turn(new_uid(), 5.0, threading.Event()))
        sums = (sum(getattr(each, name) for each in tallies) for name in Tally.__slots__)
        return Tally(*sums)

    def waiting(self) -> set[str]:
        """Keys of the outbox that are left."""
        keys, found = shared_keys(self.settings.namespace), set[str]()
        for prefix in (keys.outbox, keys.underway, keys.parcel, keys.receivers, keys.senders):
            found |= {key.decode() for key in self.client.scan_iter(match=f"{prefix}*")}
        return found


OpenDesk = Callable[..., Desk]


@pytest.fixture
def open_desk(settings: MakeSettings) -> Iterator[OpenDesk]:
    """Makes a desk on this test's Redis and namespace, with settings of a sender."""
    clients: list[redis.Redis] = []
    given = {"callback_allow": ("127.0.0.0/8",), "callback_secrets": (new_secret(),)}

    def make(**overrides: Any) -> Desk:
        made = settings(**(given | overrides))
        clients.append(connect(made))
        return Desk(made, clients[-1])

    yield make
    for client in clients:
        client.close()


OpenSender = Callable[[Settings], Coroutine[None, None, Sender]]


@pytest.fixture
async def open_sender(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenSender]:
    """Makes senders whose turns end soon without work, and closes them with the test."""
    monkeypatch.setattr(sender_module, "_LINGER_S", 0.15)
    async with AsyncExitStack() as stack:

        async def start(settings: Settings) -> Sender:
            sender = await make_sender(settings)
            stack.push_async_callback(sender.runner.client.aclose)
            stack.push_async_callback(sender.aclose)
            return sender

        yield start
