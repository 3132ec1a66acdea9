"""Calls under way: replies in order, once each whatever the connection does, and a clean pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from umbel_batching.calls import Calls
from umbel_batching.keys import lane_keys
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import NO_REPLY, tail
from umbel_batching.scripts import Call, Runner, source
from umbel_batching.underway import Underway
from umbel_batching.values import Accepted, NewJob
from umbel_config.connect import connect

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import OwnRedis, WaitUntil

LANE = Lane(model="digits", version="1", policy=BatchPolicy(max_batch_size=4, max_wait_ms=0))


class Line:
    """A client whose pool hands out a real connection that breaks when it is told to.

    Not a fake Redis: what matters here is what stands in the buffers of a socket.
    """

    def __init__(self, url: str, namespace: str) -> None:
        self.url = url
        self.client: Any = connect(url, retries=0)
        self.pool = self.client.connection_pool
        self.runner, self.calls = Runner(self.client), Calls(namespace)
        self.keys = lane_keys(namespace, LANE.slot)
        self.client.script_load(source("submit").text)

    def submit(self) -> Call[Accepted]:
        job = NewJob(new_uid(), tail(NO_REPLY, b"") + b"payload")
        return self.calls.submit(LANE, [job])

    def depth(self) -> int:
        return int(self.client.zcard(self.keys.waiting))

    @property
    def in_use(self) -> int:
        return len(self.pool._in_use_connections)


def checked(line: Line) -> Iterator[Line]:
    yield line
    assert line.in_use == 0, "each connection is back in the pool"
    assert line.client.echo("mine") == b"mine", "and no old reply is left in it"
    line.client.close()


@pytest.fixture
def line(redis_url: str, namespace: str) -> Iterator[Line]:
    yield from checked(Line(redis_url, namespace))


@pytest.fixture
def new_server(own_redis: Callable[..., OwnRedis]) -> Iterator[Line]:
    """One that may forget its scripts: other tests count on theirs."""
    yield from checked(Line(own_redis().url, "t"))


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has a method of every connection do something else, once."""

    def patch(name: str, instead: Callable[..., Any]) -> None:
        usual = getattr(redis.connection.AbstractConnection, name)
        left = [instead]

        def method(connection: Any, *args: Any, **options: Any) -> Any:
            if left:
                return left.pop()(connection, usual, *args, **options)
            return usual(connection, *args, **options)

        monkeypatch.setattr(redis.connection.AbstractConnection, name, method)

    return patch


def broken(connection: Any, *_: Any, **__: Any) -> Any:
    connection.disconnect()
    raise RedisConnectionError("broken")


def test_replies_come_in_the_order_of_the_calls(line: Line) -> None:
    with Underway(line.runner, [line.submit() for _ in range(3)]) as underway:
        assert line.in_use == 1
        assert [reply.depth for reply in underway.replies()] == [1, 2, 3]


def test_calls_run_while_the_block_does(line: Line, wait_until: WaitUntil) -> None:
    with Underway(line.runner, [line.submit()]) as underway:
        wait_until(lambda: line.depth() == 1, "Redis has run the call")
        assert underway.replies() == [Accepted(1)]


def test_no_calls_take_nothing_from_the_pool(line: Line) -> None:
    before = len(line.pool._available_connections)
    with Underway(line.runner, []) as underway:
        assert (line.in_use, underway.replies()) == (0, [])
    assert len(line.pool._available_connections) == before


def test_error_of_one_call_is_raised_where_the_replies_are_read(line: Line) -> None:
    bad = Call("submit", ("one", "two"), (), bool)
    with Underway(line.runner, [line.submit(), bad, line.submit()]) as underway:
        with pytest.raises(ResponseError):
            underway.replies()
        assert line.in_use == 0
    assert line.depth() == 2


def test_scripts_that_the_server_does_not_know_run_in_their_place(new_server: Line) -> None:
    """A claim must not overtake the settling before it."""
    calls: list[Call[Any]] = [new_server.submit(), new_server.calls.release(LANE.slot, "token")]
    with Underway(new_server.runner, [*calls, new_server.submit()]) as underway:
        assert underway.replies() == [Accepted(1), 1, Accepted(2)]


def test_scripts_that_the_server_has_lost_run_when_they_are_read(new_server: Line) -> None:
    release = new_server.calls.release(LANE.slot, "token")
    new_server.runner.run_together([new_server.submit(), release])
    new_server.client.script_flush()
    with Underway(new_server.runner, [new_server.submit() for _ in range(3)]) as underway:
        assert [reply.depth for reply in underway.replies()] == [2, 3, 4]
    with Underway(new_server.runner, [release, new_server.submit()]) as underway:
        assert underway.replies() == [4, Accepted(5)], "the others are brought again too"


@pytest.mark.parametrize("error", [RedisConnectionError, RedisTimeoutError])
def test_replies_that_are_lost_are_asked_for_again(
    line: Line, once: Callable[..., None], error: type[Exception]
) -> None:
    def lost(connection: Any, *_: Any, **__: Any) -> Any:
        connection.disconnect()
        raise error("lost")

    with Underway(line.runner, [line.submit(), line.submit()]) as underway:
        once("read_response", lost)
        assert {reply.depth for reply in underway.replies()} == {2}
    assert line.depth() == 2


def test_second_reply_that_is_lost_has_both_calls_sent_again(
    line: Line, once: Callable[..., None]
) -> None:
    def first(connection: Any, usual: Any, **options: Any) -> Any:
        reply = usual(connection, **options)
        once("read_response", broken)
        return reply

    with Underway(line.runner, [line.submit(), line.submit()]) as underway:
        once("read_response", first)
        assert len(underway.replies()) == 2
    assert line.depth() == 2


def test_connection_that_the_server_has_closed(line: Line) -> None:
    mine = line.client.client_id()
    with (
        connect(line.url) as other,
        Underway(line.runner, [line.submit(), line.submit()]) as underway,
    ):
        assert other.client_kill_filter(_id=mine) == 1
        assert len(underway.replies()) == 2
    assert line.depth() == 2


def test_connection_that_breaks_while_sending(line: Line, once: Callable[..., None]) -> None:
    def half(connection: Any, usual: Any, command: Any, **options: Any) -> Any:
        packed = b"".join(command)
        usual(connection, [packed[: len(packed) - 20]], **options)
        broken(connection)

    line.client.ping()
    once("send_packed_command", half)
    with Underway(line.runner, [line.submit(), line.submit()]) as underway:
        assert line.in_use == 0
        assert len(underway.replies()) == 2
    assert line.depth() == 2


def test_no_connection_to_be_had(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Any:
        raise RedisConnectionError("refused")

    with monkeypatch.context() as away:
        away.setattr(line.pool, "get_connection", none)
        underway = Underway(line.runner, [line.submit()])
        with pytest.raises(RedisConnectionError, match="refused"):
            underway.replies()
    with underway:
        assert underway.replies() == [Accepted(1)], "it may be asked again"


@pytest.mark.parametrize("error", [ValueError("bug"), SystemExit(0)], ids=repr)
def test_block_that_raises_leaves_no_replies_behind(line: Line, error: BaseException) -> None:
    calls = [line.submit(), line.submit()]
    with pytest.raises(type(error)), Underway(line.runner, calls):
        raise error
    assert line.in_use == 0
    line.runner.run_together(calls)
    assert line.depth() == 2, "the calls took effect, once"


@pytest.mark.parametrize("place", [1, 2])
def test_interrupted_between_two_replies_it_leaves_none_behind(
    line: Line, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is ended hands its batches back over the same pool."""
    underway = Underway(line.runner, [line.submit(), line.submit()])
    usual, connection = underway._reply, underway._connection
    read: list[Any] = []

    def interrupted() -> Any:
        read.append(usual())
        if len(read) == place:
            raise SystemExit(0)
        return read[-1]

    monkeypatch.setattr(underway, "_reply", interrupted)
    with pytest.raises(SystemExit), underway:
        underway.replies()
    assert connection._sock is None, "what is closed cannot be read by the next user"


def test_interrupted_while_sending_it_gives_the_connection_back(
    line: Line, once: Callable[..., None]
) -> None:
    def interrupted(connection: Any, *_: Any, **__: Any) -> Any:
        connection.disconnect()
        raise SystemExit(0)

    line.client.ping()
    once("send_packed_command", interrupted)
    with pytest.raises(SystemExit):
        Underway(line.runner, [line.submit()])
    assert line.depth() == 0
