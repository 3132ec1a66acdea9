"""One attempt against real servers on this machine: good ones, broken ones and hostile ones."""

from __future__ import annotations

import gzip
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from umbel_callbacks.guard import Guard
from umbel_callbacks.names import NameServers
from umbel_callbacks.posting import Poster
from umbel_callbacks.retries import Answer
from umbel_config.settings import load_settings

if TYPE_CHECKING:  # fixtures
    from tests.conftest import WaitUntilAsync
    from tests.integration.callbacks.conftest import (
        Connection,
        NameServer,
        Request,
        StartListener,
    )

HOST = "hooks.example"
HIDDEN = "hidden"  # stands in path and query of every URL
READ_S, TOTAL_S = 0.25, 0.6
Post = Callable[..., Awaitable[Answer]]
CLOSED = "the connection was closed without an answer"
#: What a server goes on for, in pieces: long enough for any limit.
ENDLESS = 10_000_000


@pytest.fixture
async def make_poster(name_server: NameServer) -> AsyncIterator[Callable[..., Post]]:
    """Makes a poster with short limits, as a function that posts and looks at the note."""
    posters: list[Poster] = []

    def make(*allow: str) -> Post:
        settings = load_settings(
            callback_timeout_s=TOTAL_S,
            callback_connect_timeout_s=READ_S,
            callback_read_timeout_s=READ_S,
            callback_allow=allow or ("127.0.0.0/8", HOST),
        )
        names = NameServers([name_server.entry], READ_S)
        poster = Poster(settings, Guard.of(settings), names)
        posters.append(poster)

        async def post(url: str, body: bytes = b"{}", **headers: str) -> Answer:
            answer = await poster.post(url, headers, body)
            assert HIDDEN not in answer.note
            return answer

        return post

    yield make
    for poster in posters:
        await poster.aclose()


@pytest.fixture
async def post(make_poster: Callable[..., Post]) -> Post:
    return make_poster()


class Say:
    """Answers each request in the same way, and keeps the requests."""

    def __init__(self, status: str = "204 No Content", *headers: str, body: bytes = b"") -> None:
        self.requests: list[Request] = []
        self._answer = (status, *headers)
        self._body = body

    async def __call__(self, connection: Connection) -> None:
        while True:
            self.requests.append(await connection.request())
            connection.say(*self._answer, body=self._body)


def raw(data: bytes) -> Callable[[Connection], Awaitable[None]]:
    """Answers with these bytes, and waits for the other side to close."""

    async def serve(connection: Connection) -> None:
        await connection.request()
        connection.writer.write(data)
        await connection.lost()

    return serve


def reset(connection: Connection) -> None:
    """Closes as a process does that crashes: with a reset."""
    own = connection.writer.get_extra_info("socket")
    own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.writer.transport.abort()


async def pour(connection: Connection, piece: bytes) -> None:
    """Writes the same without end, as fast as the other side reads."""
    for _ in range(ENDLESS):
        connection.writer.write(piece)
        await connection.writer.drain()


async def dribble(connection: Connection, piece: bytes, lost: Any) -> None:
    """Writes one piece after the other, each in time, until the other side is gone."""

    async def write() -> bool:
        connection.writer.write(piece)
        await connection.writer.drain()
        return connection.writer.transport.is_closing()

    await lost(write, "the other side closes")


async def test_a_post_arrives_as_it_was_given(listen: StartListener, post: Post) -> None:
    say = Say()
    listener = await listen(say)
    url = listener.url("/a%2Fb/../c?d=%7e&hidden")
    answer = await post(url, b'{"a": 1}', **{"webhook-id": "m1", "webhook-signature": "v1,x"})
    assert answer == Answer(status=204, took_ms=answer.took_ms)
    (request,) = say.requests
    assert request.line == "POST /a%2Fb/../c?d=%7e&hidden HTTP/1.1"
    assert request.body == b'{"a": 1}'
    sent = request.headers
    assert sent.pop("user-agent").startswith("umbel/")
    assert sent == {
        "host": f"127.0.0.1:{listener.port}",
        "webhook-id": "m1",
        "webhook-signature": "v1,x",
        "content-type": "application/json",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-length": "8",
    }


async def test_a_connection_is_used_again(listen: StartListener, post: Post) -> None:
    say = Say("200 OK", body=b"short")
    listener = await listen(say)
    answers = [(await post(listener.url())).status for _ in range(5)]
    assert (answers, listener.connections, len(say.requests)) == ([200] * 5, 1, 5)


async def test_silence_ends_after_the_read_timeout(listen: StartListener, post: Post) -> None:
    async def silent(connection: Connection) -> None:
        await connection.lost()

    listener = await listen(silent)
    answer = await post(listener.url())
    assert (answer.status, answer.note, answer.at_fault) == (0, "no answer in time", True)
    assert answer.took_ms >= READ_S * 900
    assert listener.connections == 1


async def test_headers_that_come_ever_so_slowly_end_after_the_total_time(
    listen: StartListener, post: Post, wait_until_async: WaitUntilAsync
) -> None:
    async def slow(connection: Connection) -> None:
        await connection.request()
        connection.writer.write(b"HTTP/1.1 200 OK\r\n")
        await dribble(connection, b"a: b\r\n", wait_until_async)

    answer = await post((await listen(slow)).url())
    assert (answer.status, answer.note, answer.at_fault) == (0, "no answer in time", True)
    assert answer.took_ms >= TOTAL_S * 900


@pytest.mark.parametrize("when", ["at once", "after the request"])
@pytest.mark.parametrize("how", ["reset", "closed"])
async def test_a_connection_that_breaks_is_no_answer_and_not_tried_twice(
    listen: StartListener, post: Post, when: str, how: str
) -> None:
    async def serve(connection: Connection) -> None:
        if when == "after the request":
            await connection.request()
        if how == "reset":
            reset(connection)

    listener = await listen(serve)
    answer = await post(listener.url())
    assert (answer.status, answer.note, answer.at_fault) == (0, CLOSED, True)
    assert listener.connections == 1


@pytest.mark.parametrize("how", ["reset", "closed", "unread"])
async def test_an_idle_connection_closed_as_the_request_comes_costs_no_attempt(
    listen: StartListener, post: Post, how: str
) -> None:
    async def once(connection: Connection) -> None:
        await connection.request()
        connection.say()
        if how == "unread":
            await connection.reader.readexactly(1)
            return
        await connection.request()
        if how == "reset":
            reset(connection)

    listener = await listen(once)
    for connections in (1, 2, 3):
        answer = await post(listener.url())
        assert (answer.status, answer.note) == (204, "")
        assert listener.connections == connections


async def test_a_name_that_leads_nowhere_is_asked_for_once(
    name_server: NameServer, post: Post
) -> None:
    answer = await post(f"http://{HOST}:8080/hidden")
    assert (answer.status, answer.note) == (0, "its name leads to no address")
    assert answer.at_fault
    assert not answer.hopeless
    assert name_server.questions[HOST, "A"] == 1


async def test_a_closed_port_is_not_reached(post: Post) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        answer = await post(f"http://127.0.0.1:{held.getsockname()[1]}/hidden")
    assert answer.note == "not reached: connection refused"
    assert (answer.status, answer.at_fault) == (0, True)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/hidden",
        "http://other.example/hidden",
        "https://user:hidden@hooks.example/",
        "https://hooks.example/#hidden",
        "ftp://hooks.example/hidden",
        "hidden",
    ],
)
async def test_a_refused_url_is_no_fault_and_may_be_allowed_later(
    make_poster: Callable[..., Post], url: str
) -> None:
    answer = await make_poster(HOST)(url)
    assert (answer.status, answer.hopeless, answer.at_fault) == (0, False, False)
    assert answer.note


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1"])
async def test_a_refused_address_is_no_fault_and_may_change(
    name_server: NameServer, make_poster: Callable[..., Post], listen: StartListener, address: str
) -> None:
    say = Say()
    listener = await listen(say)
    post = make_poster("10.0.0.0/8", f"169.254.1.1:{listener.port}")
    name_server.records[HOST] = [[address]]
    answer = await post(listener.url(host=HOST))
    assert "leads to an address that callbacks do not go to" in answer.note
    assert (answer.status, answer.hopeless, answer.at_fault) == (0, False, False)
    assert listener.connections == 0


async def test_an_endless_body_is_left(
    listen: StartListener, post: Post, wait_until_async: WaitUntilAsync
) -> None:
    async def endless(connection: Connection) -> None:
        await connection.request()
        connection.say("200 OK", "Transfer-Encoding: chunked")
        await pour(connection, b"10000\r\n" + bytes(0x10000) + b"\r\n")

    async def flood(connection: Connection) -> None:
        await connection.request()
        connection.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
        await pour(connection, bytes(65536))

    listener = await listen(flood)
    assert (await post(listener.url())).status == 200

    async def left() -> bool:
        return listener.lost == 1

    await wait_until_async(left, "the connection is closed")


async def test_an_answer_that_was_heard_counts_though_its_body_dribbles_past_the_time(
    listen: StartListener, post: Post, wait_until_async: WaitUntilAsync
) -> None:
    async def slow(connection: Connection) -> None:
        await connection.request()
        connection.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
        await dribble(connection, b"x", wait_until_async)

    answer = await post((await listen(slow)).url())
    assert (answer.status, answer.note) == (200, "")
    assert answer.took_ms < TOTAL_S * 1000


@pytest.mark.parametrize("size", [0, 2**20, 2**20 + 1, 3_000_000])
async def test_a_large_body_arrives_whole_also_where_it_is_sent_anew(
    listen: StartListener, post: Post, size: int
) -> None:
    bodies = []

    async def once(connection: Connection) -> None:
        bodies.append((await connection.request()).body)
        connection.say()

    listener, body = await listen(once), b"ab" * (size // 2) + b"c" * (size % 2)
    # The second goes out on a connection that is closed, and then on a new one.
    answers = [(await post(listener.url(), body)).status for _ in range(2)]
    assert (answers, listener.connections) == ([204, 204], 2)
    assert bodies == [body, body]


async def test_an_answer_before_the_body_was_read_counts(listen: StartListener, post: Post) -> None:
    async def early(connection: Connection) -> None:
        await connection.head()
        connection.say("413 Content Too Large")
        await connection.writer.drain()
        await connection.reader.read(1)

    answer = await post((await listen(early)).url(), bytes(4_000_000))
    assert (answer.status, answer.note) == (413, "Content Too Large")


@pytest.mark.parametrize(
    "piece",
    [b"x" * 65536, b"X-A: b\r\n" * 8192, b"HTTP/1.1 100 Continue\r\n\r\n" * 64],
    ids=["one header", "many headers", "many answers to come"],
)
async def test_an_endless_head_is_not_kept(listen: StartListener, post: Post, piece: bytes) -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        if not piece.startswith(b"HTTP"):
            connection.writer.write(b"HTTP/1.1 200 OK\r\nX-First: ")
        await pour(connection, piece)

    listener = await listen(serve)
    tracemalloc.start()
    try:
        answer = await post(listener.url())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (answer.status, answer.at_fault) == (0, True)
    assert peak < 8 * 2**20


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 99 Odd\r\n\r\n",
        b"HTTP/1.1 2000 Odd\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header at all\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_no_answer(
    listen: StartListener, post: Post, data: bytes
) -> None:
    answer = await post((await listen(raw(data))).url())
    assert (answer.status, answer.note, answer.at_fault) == (
        *(0, "no HTTP answer (ClientResponseError)"),
        True,
    )


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 Done\r\n\r\n", 204),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 9 + b"HTTP/1.1 204 Done\r\n\r\n", 204),
        (b"HTTP/1.1 103 Early\r\nLink: <x>\r\n\r\nHTTP/1.1 204 Done\r\n\r\n", 204),
        (b"HTTP/1.1 199 Odd\r\n\r\nHTTP/1.1 204 Done\r\n\r\n", 204),
        (b"HTTP/1.1 101 Switch\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\nxx", 101),
        (b"HTTP/1.1 100 Continue\r\n\r\n", 0),
        (b"HTTP/1.1 204 Done\r\n\r\nHTTP/1.1 500 More\r\nContent-Length: 0\r\n\r\n", 204),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200),
        (b"HTTP/1.1 200 OK\r\nContent-Type: ;;;\r\nContent-Length: 2\r\n\r\nab", 200),
    ],
)
async def test_odd_but_valid_answers(
    listen: StartListener, post: Post, data: bytes, status: int
) -> None:
    assert (await post((await listen(raw(data))).url())).status == status


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["another", "same", "broken"])
async def test_redirects_are_not_followed(
    listen: StartListener, post: Post, status: int, where: str
) -> None:
    target = Say()
    other = await listen(target)
    places = {"another": other.url(), "same": "/elsewhere", "broken": "http://[::"}
    say = Say(f"{status} Moved", f"Location: {places[where]}")
    listener = await listen(say)
    answer = await post(listener.url())
    assert (answer.status, answer.note) == (status, "redirects are not followed")
    assert (other.connections, len(say.requests)) == (0, 1)


@pytest.mark.parametrize("scheme", ["Basic realm=x", "Digest realm=x, nonce=y", "Negotiate", ";"])
async def test_a_question_for_a_password_is_not_answered(
    listen: StartListener, post: Post, scheme: str
) -> None:
    say = Say("401 Unauthorized", f"WWW-Authenticate: {scheme}")
    answer = await post((await listen(say)).url())
    assert (answer.status, answer.note) == (401, "Unauthorized")
    assert len(say.requests) == 1


async def test_cookies_are_not_sent_back(listen: StartListener, post: Post) -> None:
    say = Say("204 No Content", "Set-Cookie: a=b; Path=/", "Set-Cookie: c=d; Domain=127.0.0.1")
    listener = await listen(say)
    for _ in range(2):
        assert (await post(listener.url())).status == 204
    assert [request.headers.get("cookie") for request in say.requests] == [None, None]


async def test_compressed_bodies_stay_compressed(listen: StartListener, post: Post) -> None:
    bomb = gzip.compress(bytes(40 * 2**20))
    say = Say("200 OK", "Content-Encoding: gzip", body=bomb)
    lie = Say("200 OK", "Content-Encoding: gzip", body=b"not gzip")
    bombs, lies = await listen(say), await listen(lie)
    tracemalloc.start()
    try:
        for _ in range(2):
            assert (await post(bombs.url())).status == 200
            assert (await post(lies.url())).status == 200
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20
    assert (bombs.connections, lies.connections) == (1, 1)


async def test_reasons_are_short_and_printable(listen: StartListener, post: Post) -> None:
    answer = await post((await listen(Say(f"500 \x1b[31m\xff{'x' * 200}"))).url())
    assert answer.status == 500
    assert answer.note.isprintable()
    assert len(answer.note) <= 80


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("7", 7.0), ("soon", None), ("Mon, 1 Jan 1 00:00:00 +99999999999999999999", None)],
)
async def test_retry_after_is_heard(
    listen: StartListener, post: Post, given: str, seconds: float | None
) -> None:
    answer = await post((await listen(Say("503 Busy", f"Retry-After: {given}"))).url())
    assert (answer.status, answer.retry_after_s) == (503, seconds)


async def test_proxies_of_the_environment_are_not_used(
    listen: StartListener,
    make_poster: Callable[..., Post],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    proxy, say = await listen(Say()), Say()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url("", "127.0.0.1"))
        monkeypatch.setenv(name.lower(), proxy.url("", "127.0.0.1"))
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ann password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    listener = await listen(say)
    assert (await make_poster()(listener.url())).status == 204
    assert (proxy.connections, listener.connections) == (0, 1)
    assert "authorization" not in say.requests[0].headers
