"""Real requests through the checked connector: to the address that was judged, and to no other."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import yarl

from umbel_callbacks.guard import Guard
from umbel_callbacks.names import LookupsBusy, NameServers, SystemNames, name_service
from umbel_callbacks.resolver import CheckedSockets, make_connector, receiving
from umbel_callbacks.urls import parse_url
from umbel_config.errors import ConfigError, InvalidInput, ReceiverRefused
from umbel_config.settings import load_settings

if TYPE_CHECKING:  # fixtures
    from tests.integration.callbacks.conftest import NameServer, StartRecorder

HOST = "hooks.example"
PORTS = (443, 8443)
TIMEOUT_S = 5.0
Post = Callable[[str], Awaitable[int]]
Posting = Callable[..., AbstractAsyncContextManager[Post]]

#: Addresses that a hostile record may hold, each of them reached by nobody.
HOSTILE_RECORDS = [
    "127.0.0.1",
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "172.16.0.1",
    "192.168.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::127.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::1",
    "2001:0:7f00:1::",
    "2002:7f00:1::",
    "2001:db8::1",
    "2a00:1450:4001:1::5efe:7f00:1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]


@pytest.fixture
def names(name_server: NameServer) -> NameServers:
    return NameServers([name_server.entry], TIMEOUT_S)


@pytest.fixture
def posting(names: NameServers) -> Posting:
    """A session on a checked connector, as a function that checks a URL and posts to it."""

    @asynccontextmanager
    async def start(*allow: str, **options: Any) -> AsyncIterator[Post]:
        guard = Guard(allow, PORTS)
        connector = make_connector(guard, options.pop("names", names))
        async with aiohttp.ClientSession(connector=connector, **options) as session:

            async def post(text: str) -> int:
                url = guard.check_url(text)
                with receiving(url):
                    target = yarl.URL(url.url, encoded=True)
                    async with session.post(target, allow_redirects=False) as response:
                        return response.status

            yield post

    return start


async def test_the_judged_address_gets_the_request_under_the_receivers_name(
    name_server: NameServer, start_recorder: StartRecorder, posting: Posting
) -> None:
    recorder = await start_recorder("127.0.0.2")
    name_server.records[HOST] = [["127.0.0.2"]]
    async with posting(HOST) as post:
        assert await post(f"http://{HOST}:{recorder.port}/a%2Fb/../c?d=%7e") == 204
    assert recorder.heads[0].startswith("POST /a%2Fb/../c?d=%7e HTTP/1.1\r\n")
    assert f"\r\nHost: {HOST}:{recorder.port}\r\n" in recorder.heads[0]


async def test_tls_names_the_receiver_and_not_its_address(
    name_server: NameServer, start_recorder: StartRecorder, posting: Posting
) -> None:
    recorder = await start_recorder("127.0.0.2")
    name_server.records[HOST] = [["127.0.0.2"]]
    async with posting(HOST) as post:
        with pytest.raises(aiohttp.ClientConnectionError):
            await post(f"https://{HOST}:{recorder.port}/")
    assert HOST.encode() in recorder.first[0]  # the greeting of TLS holds the name in plain


async def test_a_record_that_moves_after_the_check_moves_nothing(
    name_server: NameServer, start_recorder: StartRecorder, posting: Posting
) -> None:
    allowed = await start_recorder("127.0.0.1")
    other = await start_recorder("127.0.0.2", allowed.port)
    name_server.records[HOST] = [["127.0.0.1"], ["127.0.0.2"]]
    async with posting("127.0.0.1") as post:
        url = f"http://{HOST}:{allowed.port}/"
        assert await post(url) == 204
        assert name_server.questions == {(HOST, "A"): 1, (HOST, "AAAA"): 1}
        assert await post(url) == 204  # the connection that was judged, kept alive
        assert name_server.questions.total() == 2
    assert (allowed.connections, len(allowed.heads), other.connections) == (1, 2, 0)


async def test_a_new_connection_is_judged_anew(
    name_server: NameServer, start_recorder: StartRecorder, posting: Posting
) -> None:
    allowed = await start_recorder("127.0.0.1")
    other = await start_recorder("127.0.0.2", allowed.port)
    name_server.records[HOST] = [["127.0.0.1"], ["127.0.0.2"]]
    url = f"http://{HOST}:{allowed.port}/"
    async with posting("127.0.0.1") as post:
        assert await post(url) == 204
    async with posting("127.0.0.1") as post:
        with pytest.raises(ReceiverRefused, match=HOST):
            await post(url)
    assert name_server.questions == {(HOST, "A"): 2, (HOST, "AAAA"): 2}
    assert (allowed.connections, other.connections) == (1, 0)


async def test_each_connection_of_one_session_has_its_own_lookup(
    name_server: NameServer, start_recorder: StartRecorder, posting: Posting
) -> None:
    recorder = await start_recorder("127.0.0.1")
    name_server.records[HOST] = [["127.0.0.1"], ["127.0.0.2"]]
    async with posting("127.0.0.1") as post:
        posts = [post(f"http://{HOST}:{recorder.port}/") for _ in range(2)]
        outcomes = await asyncio.gather(*posts, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ReceiverRefused", "int"]
    assert name_server.questions[HOST, "A"] == 2
    assert recorder.connections == 1


@pytest.mark.parametrize("bad", ["127.0.0.2", "169.254.169.254", "::1", "64:ff9b::7f00:2"])
async def test_one_bad_answer_of_several_spoils_them_all(
    name_server: NameServer, start_recorder: StartRecorder, posting: Posting, bad: str
) -> None:
    recorder = await start_recorder("127.0.0.1")
    name_server.records[HOST] = [["127.0.0.1", bad]]
    async with posting("127.0.0.1") as post:
        with pytest.raises(ReceiverRefused):
            await post(f"http://{HOST}:{recorder.port}/")
    assert recorder.connections == 0


async def test_of_several_good_answers_one_that_listens_is_found(
    name_server: NameServer, start_recorder: StartRecorder, posting: Posting
) -> None:
    recorder = await start_recorder("127.0.0.3")
    name_server.records[HOST] = [["127.0.0.2", "127.0.0.3", "::1"]]
    async with posting(HOST) as post:
        assert await post(f"http://{HOST}:{recorder.port}/") == 204


@pytest.mark.parametrize("record", HOSTILE_RECORDS)
async def test_a_public_name_with_a_hostile_record_is_refused(
    name_server: NameServer, posting: Posting, record: str
) -> None:
    name_server.records[HOST] = [[record]]
    async with posting() as post:
        with pytest.raises(ReceiverRefused, match=HOST):
            await post(f"https://{HOST}/")
    assert name_server.questions == {(HOST, "A"): 1, (HOST, "AAAA"): 1}


async def test_an_address_in_the_url_is_judged_without_a_name(
    name_server: NameServer, start_recorder: StartRecorder, posting: Posting
) -> None:
    recorder = await start_recorder("127.0.0.2")
    async with posting("127.0.0.2") as post:
        assert await post(f"http://127.0.0.2:{recorder.port}/") == 204
        with pytest.raises(InvalidInput):
            await post(f"http://127.0.0.3:{recorder.port}/")
    assert not name_server.questions


async def test_an_address_that_nobody_checked_gets_no_socket(
    start_recorder: StartRecorder, names: NameServers
) -> None:
    recorder = await start_recorder("127.0.0.2")
    text = f"http://127.0.0.2:{recorder.port}/"
    async with aiohttp.ClientSession(connector=make_connector(Guard((), PORTS), names)) as session:
        with pytest.raises(ReceiverRefused, match="led away from its callback"):
            await session.post(text)
        with receiving(parse_url(text)), pytest.raises(ReceiverRefused, match="loopback"):
            await session.post(text)
        with receiving(parse_url("https://hooks.example/")), pytest.raises(ReceiverRefused):
            await session.post(text)
        with receiving(parse_url("https://hooks.example/")), pytest.raises(ReceiverRefused):
            await session.post("https://other.example/")
    assert recorder.connections == 0


def test_sockets_are_made_for_the_addresses_of_this_attempt_alone() -> None:
    make = CheckedSockets(Guard(["127.0.0.0/8"], PORTS))
    where = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    with receiving(parse_url("http://127.0.0.1:81/")):
        make((*where, ("127.0.0.1", 81))).close()
        for other in (("127.0.0.2", 81), ("127.0.0.1", 82)):
            with pytest.raises(ReceiverRefused):
                make((*where, other))


@pytest.mark.parametrize("target", ["127.0.0.2", "other.example"])
async def test_a_redirect_leads_nowhere_even_if_a_session_follows_it(
    name_server: NameServer, start_recorder: StartRecorder, names: NameServers, target: str
) -> None:
    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 307 Moved\r\nLocation: http://{target}:{other.port}/\r\n"
        writer.write(f"{head}Connection: close\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()

    other = await start_recorder("127.0.0.2")
    server = await asyncio.start_server(redirect, "127.0.0.1", other.port)
    name_server.records = {HOST: [["127.0.0.1"]], "other.example": [["127.0.0.2"]]}
    guard = Guard(["127.0.0.0/8"], PORTS)
    async with (
        server,
        aiohttp.ClientSession(connector=make_connector(guard, names)) as session,
    ):
        url = guard.check_url(f"http://{HOST}:{other.port}/")
        with receiving(url), pytest.raises(ReceiverRefused):
            await session.post(url.url)
    assert other.connections == 0


@pytest.mark.parametrize("trust_env", [False, True])
async def test_no_proxy_of_the_environment_is_used(
    name_server: NameServer,
    start_recorder: StartRecorder,
    posting: Posting,
    monkeypatch: pytest.MonkeyPatch,
    trust_env: bool,
) -> None:
    proxy, recorder = await start_recorder("127.0.0.2"), await start_recorder("127.0.0.1")
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.2:{proxy.port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    name_server.records[HOST] = [["127.0.0.1"]]
    url = f"http://{HOST}:{recorder.port}/"
    async with posting(HOST, trust_env=trust_env) as post:
        if trust_env:
            with pytest.raises(ReceiverRefused):
                await post(url)
        else:
            assert await post(url) == 204
    assert proxy.connections == 0


async def test_requests_side_by_side_keep_their_receivers_apart(
    name_server: NameServer, start_recorder: StartRecorder, posting: Posting
) -> None:
    recorder = await start_recorder("127.0.0.1")
    hosts = [f"h{number}.example" for number in range(20)]
    name_server.records = {host: [["127.0.0.1"]] for host in hosts}
    name_server.records["h13.example"] = [["127.0.0.2"]]
    async with posting("127.0.0.1") as post:
        posts = [post(f"http://{host}:{recorder.port}/") for host in hosts]
        outcomes = await asyncio.gather(*posts, return_exceptions=True)
    assert isinstance(outcomes.pop(13), ReceiverRefused)
    assert outcomes == [204] * 19
    assert recorder.connections == 19


async def test_a_name_without_addresses_is_an_error_of_the_lookup(
    name_server: NameServer, posting: Posting
) -> None:
    name_server.records[HOST] = [[]]
    async with posting() as post:
        for host in (HOST, "unknown.example"):
            with pytest.raises(aiohttp.ClientConnectorDNSError, match="has no address"):
                await post(f"https://{host}/")


async def test_silent_name_servers_are_given_up(name_server: NameServer) -> None:
    name_server.records[HOST] = [None]
    with pytest.raises(OSError, match="no name server answered"):
        await NameServers([name_server.entry], 0.05).addresses(HOST, 443)


async def test_a_second_name_server_steps_in(name_server: NameServer) -> None:
    name_server.records[HOST] = [["8.8.8.8", "2a00::1"]]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        entry = f"127.0.0.1:{closed.getsockname()[1]}"
    found = await NameServers([entry, name_server.entry], 1.5).addresses(HOST, 443)
    assert found == [ip_address("8.8.8.8"), ip_address("2a00::1")]


@pytest.mark.parametrize(
    "entry", ["", "ns.example", "10.0.0", "10.0.0.1:0", "10.0.0.1:x", "[::1", "[::1]x", "1::2::3"]
)
def test_a_name_server_that_cannot_be_read_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match="callback_nameservers"):
        NameServers([entry], TIMEOUT_S)


@pytest.mark.parametrize("entry", ["10.0.0.1", "10.0.0.1:54", "::1", "[::1]", "[::1]:54"])
def test_name_servers_are_addresses_with_or_without_a_port(entry: str) -> None:
    assert isinstance(name_service(load_settings(callback_nameservers=entry)), NameServers)


async def test_without_name_servers_the_system_is_asked(
    start_recorder: StartRecorder, posting: Posting
) -> None:
    recorder = await start_recorder("127.0.0.1")
    names = name_service(load_settings())
    assert isinstance(names, SystemNames)
    async with posting("localhost", names=names) as post:
        assert await post(f"http://localhost:{recorder.port}/") == 204
    names.close()


async def test_a_slow_name_holds_up_only_itself_and_one_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release, asked = threading.Event(), []

    def look_up(host: str, port: int, **options: Any) -> list[Any]:
        asked.append(host)
        if host == "slow.example":
            release.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("8.8.8.8", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    names = SystemNames(0.05, threads=2)
    try:
        slow = [names.addresses("slow.example", 443) for _ in range(5)]
        outcomes = await asyncio.gather(*slow, return_exceptions=True)
        assert all("no answer about slow.example" in str(outcome) for outcome in outcomes)
        assert await names.addresses("fast.example", 443) == [ip_address("8.8.8.8")]
        assert asked == ["slow.example", "fast.example"]
    finally:
        release.set()
        names.close()


async def test_a_name_that_waits_behind_slow_ones_was_not_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release, asked = threading.Event(), []

    def look_up(host: str, port: int, **options: Any) -> list[Any]:
        asked.append(host)
        release.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("8.8.8.8", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    names = SystemNames(0.1, threads=2)
    try:
        hosts = ("slow1.example", "slow2.example", "good.example", "good.example")
        outcomes = await asyncio.gather(
            *(names.addresses(host, 443) for host in hosts), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [
            *[socket.gaierror] * 2,
            *[LookupsBusy] * 2,
        ]
        assert str(outcomes[3]).startswith("good.example was not looked up: too many slow names")
        assert sorted(asked) == ["slow1.example", "slow2.example"]
        release.set()
        assert await names.addresses("good.example", 443) == [ip_address("8.8.8.8")]
        assert asked.count("good.example") == 1, "a lookup that waited was begun twice"
    finally:
        release.set()
        names.close()


async def test_a_failed_lookup_fails_for_all_who_wait_and_is_tried_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look_up(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    names = SystemNames(TIMEOUT_S)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        both = [names.addresses("localhost", 443) for _ in range(2)]
        outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert all(isinstance(outcome, socket.gaierror) for outcome in outcomes)
    assert ip_address("127.0.0.1") in await names.addresses("localhost", 443)
    names.close()
