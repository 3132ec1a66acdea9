"""Connections to real and misbehaving servers: what is tried again, and what is said at the end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from umbel_config.connect import (
    check_server,
    check_server_async,
    connect,
    connect_async,
    translate_errors,
)
from umbel_config.embedded import EmbeddedRedis
from umbel_config.errors import StoreFull, StoreRefused, StoreUnavailable, StoreUnsuitable
from umbel_config.settings import load_settings

Handler = Callable[[socket.socket], None]
OLD_INFO = b"# Server\r\nredis_version:5.0.14\r\nredis_mode:standalone\r\nrole:master\r\n"


class FakeServer:
    """A TCP server on the loopback that treats each connection as the test says."""

    def __init__(self, handle: Handler) -> None:
        self.connections = 0
        self._handle = handle
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                self.connections += 1
                self._open.append(peer)
                with contextlib.suppress(OSError):
                    self._handle(peer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for peer in self._open:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for peer in self._open:
            peer.close()
        self._listener.close()


@pytest.fixture
def fake_server() -> Iterator[Callable[[Handler], FakeServer]]:
    servers: list[FakeServer] = []

    def make(handle: Handler) -> FakeServer:
        servers.append(FakeServer(handle))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[tuple[str, redis.Redis]]:
    """A Redis of this test's own, to be misconfigured at will, and an open client."""
    with EmbeddedRedis.start(tmp_path) as store, connect(store.url) as client:
        client.ping()
        yield store.url, client


def as_redis_5(peer: socket.socket) -> None:
    while data := peer.recv(65536):
        for command in data.split(b"*")[1:]:
            if b"INFO\r\n" in command and b"CLIENT" not in command:
                peer.sendall(b"$%d\r\n%s\r\n" % (len(OLD_INFO), OLD_INFO))
            else:
                peer.sendall(b"-ERR unknown subcommand\r\n")


def as_web_server(peer: socket.socket) -> None:
    peer.recv(65536)
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


def hang_up(peer: socket.socket) -> None:
    peer.recv(65536)
    peer.shutdown(socket.SHUT_RDWR)


def stay_silent(peer: socket.socket) -> None:
    while peer.recv(65536):
        pass


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def check(url: str, **options: Any) -> None:
    with connect(url, **options) as client:
        check_server(client)


def test_session_redis_is_suitable(redis_url: str) -> None:
    with connect(redis_url) as client:
        assert check_server(client).version >= "6.2"


async def test_async_client_gets_the_same_verdict(redis_url: str, namespace: str) -> None:
    with connect(redis_url) as client:
        expected = check_server(client)
    async with connect_async(redis_url, client_name="umbel-test") as client:
        assert await check_server_async(client) == expected
        await client.set(f"{namespace}:k", b"\xff\x00", ex=60)
        assert await client.get(f"{namespace}:k") == b"\xff\x00"


def test_redis_down_is_unavailable_and_says_where() -> None:
    port = unused_port()
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}/0 cannot be reached") as caught:
        check(f"redis://:hunter2@127.0.0.1:{port}", retries=0)
    assert type(caught.value) is StoreUnavailable
    assert "hunter2" not in str(caught.value)


def test_missing_socket_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"none\.sock"):
        check(f"unix://{tmp_path}/none.sock", retries=0)


async def test_async_redis_down_is_unavailable() -> None:
    async with connect_async(f"redis://127.0.0.1:{unused_port()}", retries=0) as client:
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await check_server_async(client)


def test_old_redis_is_refused_by_version(fake_server: Callable[[Handler], FakeServer]) -> None:
    with pytest.raises(StoreUnsuitable, match=r"version 5\.0\.14; umbel needs Redis 6\.2"):
        check(fake_server(as_redis_5).url)


def test_another_protocol_is_told_apart(fake_server: Callable[[Handler], FakeServer]) -> None:
    with pytest.raises(StoreUnsuitable, match="does not speak the Redis protocol"):
        check(fake_server(as_web_server).url, retries=0)


def test_tls_to_a_server_without_tls_is_unavailable(
    fake_server: Callable[[Handler], FakeServer],
) -> None:
    url = fake_server(hang_up).url.replace("redis://", "rediss://")
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        check(url, retries=0)


def test_silence_ends_with_the_timeout(fake_server: Callable[[Handler], FakeServer]) -> None:
    settings = load_settings(redis_url=fake_server(stay_silent).url, redis_timeout_s=0.2)
    with (
        connect(settings, retries=0) as client,
        pytest.raises(StoreUnavailable, match="did not answer in time"),
    ):
        check_server(client)


# Connecting is tried again as well as the command, so that the bound is the square.
@pytest.mark.parametrize(("retries", "least", "most"), [(0, 1, 1), (2, 3, 9)])
def test_lost_connection_is_tried_again_within_bounds(
    fake_server: Callable[[Handler], FakeServer], retries: int, least: int, most: int
) -> None:
    server = fake_server(hang_up)
    with connect(server.url, retries=retries) as client, pytest.raises(redis.ConnectionError):
        client.ping()
    assert least <= server.connections <= most


def test_command_whose_reply_is_lost_is_sent_again(
    fake_server: Callable[[Handler], FakeServer],
) -> None:
    lost = threading.Event()

    def lose_the_first_reply(peer: socket.socket) -> None:
        while data := peer.recv(65536):
            if b"PING" in data and not lost.is_set():
                lost.set()
                peer.shutdown(socket.SHUT_RDWR)
                return
            peer.sendall(b"+PONG\r\n" if b"PING" in data else b"-ERR unknown command\r\n")

    server = fake_server(lose_the_first_reply)
    with connect(server.url) as client:
        assert client.ping()
    assert server.connections == 2


def test_only_a_blocking_client_outwaits_the_read_timeout(redis_url: str, namespace: str) -> None:
    settings = load_settings(redis_url=redis_url, redis_timeout_s=0.2)
    with connect(settings, purpose="blocking") as client:
        assert client.blpop([f"{namespace}:none"], timeout=0.5) is None
    with connect(settings, retries=0) as client, pytest.raises(redis.TimeoutError):
        client.blpop([f"{namespace}:none"], timeout=0.5)


def test_pubsub_client_outwaits_the_read_timeout(
    settings: Any, store_redis: redis.Redis, namespace: str
) -> None:
    with (
        connect(settings(redis_timeout_s=0.1), purpose="pubsub") as client,
        client.pubsub(ignore_subscribe_messages=True) as subscription,
    ):
        subscription.subscribe(namespace)
        assert subscription.get_message(timeout=0.3) is None
        store_redis.publish(namespace, b"\x00hello")
        message = subscription.get_message(timeout=10)
        assert message is not None
        assert message["data"] == b"\x00hello"


async def test_async_pubsub_client_outwaits_the_read_timeout(
    settings: Any, store_redis: redis.Redis, namespace: str
) -> None:
    async with (
        connect_async(settings(redis_timeout_s=0.1), purpose="pubsub") as client,
        client.pubsub(ignore_subscribe_messages=True) as subscription,
    ):
        await subscription.subscribe(namespace)
        assert await subscription.get_message(timeout=0.3) is None
        store_redis.publish(namespace, "hello")
        async with asyncio.timeout(10):
            message = await anext(subscription.listen())
        assert message["data"] == b"hello"


def command(client: redis.Redis, *words: str) -> None:
    """Runs a command; redis-py's own method is untyped."""
    run: Any = client.execute_command
    run(*words)


def with_password(url: str, password: str) -> str:
    return url.replace("unix://", f"unix://:{password}@")


def test_password_is_asked_for_checked_and_never_shown(own_redis: tuple[str, redis.Redis]) -> None:
    url, client = own_redis
    with pytest.raises(StoreRefused, match="has no password"):
        check(with_password(url, "hunter2"), retries=0)
    client.config_set("requirepass", "hunter2")
    with pytest.raises(StoreRefused, match="asks for a password"):
        check(url, retries=0)
    with pytest.raises(StoreRefused, match="refuses the user name or password") as caught:
        check(with_password(url, "hunter3"), retries=0)
    assert "hunter3" not in str(caught.value)
    check(with_password(url, "hunter2"))


async def test_async_wrong_password_is_refused(own_redis: tuple[str, redis.Redis]) -> None:
    url, client = own_redis
    client.config_set("requirepass", "hunter2")
    async with connect_async(with_password(url, "hunter3"), retries=0) as wrong:
        with pytest.raises(StoreRefused, match="refuses the user name or password"):
            await check_server_async(wrong)


def test_missing_permission_is_refused(own_redis: tuple[str, redis.Redis]) -> None:
    url, client = own_redis
    command(client, "ACL", "SETUSER", "weak", "on", ">pw", "+ping", "+client", "~*")
    with pytest.raises(StoreRefused, match="ACL"):
        check(url.replace("unix://", "unix://weak:pw@"))


@pytest.mark.parametrize(
    "words",
    [
        ("SET", "k", "v"),
        ("EVAL", "redis.call('SET', KEYS[1], 'v')", "1", "k"),
        ("EVAL", "return redis.call('SET', KEYS[1], 'v')", "1", "k"),
    ],
)
@pytest.mark.parametrize(
    ("setting", "kind", "reason"),
    [
        ("maxmemory", StoreFull, "out of memory"),
        ("replica", StoreUnsuitable, "read-only replica"),
    ],
)
def test_refused_writes_are_explained_in_commands_and_in_scripts(
    own_redis: tuple[str, redis.Redis],
    words: tuple[str, ...],
    setting: str,
    kind: type[StoreUnavailable],
    reason: str,
) -> None:
    url, client = own_redis
    if setting == "maxmemory":
        client.config_set("maxmemory", "1")
    else:
        client.replicaof("127.0.0.1", str(unused_port()))
    with pytest.raises(kind, match=reason), translate_errors(url):
        command(client, *words)


def test_replica_is_refused(own_redis: tuple[str, redis.Redis]) -> None:
    url, client = own_redis
    client.replicaof("127.0.0.1", str(unused_port()))
    with pytest.raises(StoreUnsuitable, match="read-only replica"):
        check(url)


def test_eviction_and_missing_aof_are_warned_about(own_redis: tuple[str, redis.Redis]) -> None:
    _, client = own_redis
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("appendonly", "no")
    assert len(check_server(client).warnings) == 2


def test_key_leak_guard_sees_keys_without_a_ttl(
    no_key_leaks: Any, store_redis: redis.Redis, namespace: str
) -> None:
    with no_key_leaks(namespace, permanent=[f"{namespace}:lanes"]):
        store_redis.set(f"{namespace}:lanes", 1)
        store_redis.set(f"{namespace}:short", 1, ex=60)
    with (
        pytest.raises(AssertionError, match=f"{namespace}:stays"),
        no_key_leaks(namespace, permanent=[f"{namespace}:lanes"]),
    ):
        store_redis.set(f"{namespace}:stays", 1)
