"""Script calls that are sent now and read later, so that Redis works while this process does."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from umbel_batching.scripts import Call, Runner


class Underway:
    """Calls on their way to Redis, in one packet; the block that follows need not wait for them.

    They have been handed to the kernel when this returns, so that Redis gets them even if this
    process dies in the block. Where the connection breaks they are sent again when their replies
    are asked for, which changes nothing: all calls are idempotent.

    Args:
        runner: whose client sends them.
        calls: the calls, in order.
    """

    def __init__(self, runner: Runner, calls: Sequence[Call[Any]]) -> None:
        self._runner, self._calls = runner, calls
        self._pool = runner.client.connection_pool
        self._connection: Any = None
        if calls:
            self._send()

    def replies(self) -> list[Any]:
        """The parsed replies, in the order of the calls.

        Raises:
            RedisError: what a call raises, or Redis cannot be reached.
        """
        raw = self._read() if self._connection is not None else None
        if raw is None:
            return self._runner.run_together(self._calls) if self._calls else []
        return self._runner.parsed(self._calls, raw)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Gives up a connection whose replies nobody has read."""
        if self._connection is not None:
            self._connection.disconnect()
            self._give_back()

    def _send(self) -> None:
        try:
            self._connection = self._pool.get_connection()
            commands = [self._runner.command(call) for call in self._calls]
            self._connection.send_packed_command(self._connection.pack_commands(commands))
        except RedisError:  # it has closed the connection; all is sent again later
            self._give_back()
        except BaseException:
            self._give_back()
            raise

    def _read(self) -> list[Any] | None:
        """The raw replies, errors of single calls among them; ``None`` if the connection broke."""
        try:
            return [self._reply() for _ in self._calls]
        except (RedisConnectionError, RedisTimeoutError):
            return None
        except BaseException:  # interrupted: nobody may read later what was not read now
            self._connection.disconnect()
            raise
        finally:
            self._give_back()

    def _reply(self) -> Any:
        try:
            return self._connection.read_response()
        except ResponseError as error:
            return error

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)
