"""Translated errors: the right class, a remedy, no secret, and nothing else touched."""

from __future__ import annotations

import pytest
from redis import exceptions as redis_errors

from umbel_config.errors import StoreFull, StoreRefused, StoreUnavailable, StoreUnsuitable
from umbel_config.store_errors import translate_errors

URL = "redis://me:hunter2@store:6379/0"
IN_SCRIPT = "Error running script (call to f_1): @user_script:1: @user_script: 1: "

REPLIES = [
    (redis_errors.AuthenticationError("Authentication required."), StoreRefused, "password"),
    (redis_errors.AuthenticationError("invalid username-password pair"), StoreRefused, "Check"),
    (
        redis_errors.AuthenticationError("Client sent AUTH, but no password is set"),
        StoreRefused,
        "Take it out",
    ),
    (redis_errors.AuthenticationWrongNumberOfArgsError("x"), StoreRefused, "Check"),
    (redis_errors.NoPermissionError("no permissions"), StoreRefused, "ACL"),
    (redis_errors.ResponseError(IN_SCRIPT + "-NOPERM this user"), StoreRefused, "ACL"),
    (redis_errors.OutOfMemoryError("command not allowed"), StoreFull, "maxmemory"),
    (
        redis_errors.ResponseError(IN_SCRIPT + "-OOM command not allowed when used memory"),
        StoreFull,
        "maxmemory",
    ),
    (redis_errors.ReadOnlyError("You can't write"), StoreUnsuitable, "primary"),
    (redis_errors.ResponseError("MISCONF Errors writing to the AOF"), StoreUnsuitable, "disk"),
    (redis_errors.ResponseError("NOREPLICAS Not enough good"), StoreUnsuitable, "replicas"),
    (redis_errors.MovedError("1 other:6379"), StoreUnsuitable, "cluster mode"),
    (redis_errors.InvalidResponse("Protocol Error: b'HTTP'"), StoreUnsuitable, "protocol"),
    (redis_errors.BusyLoadingError("Redis is loading"), StoreUnavailable, "loading"),
    (redis_errors.ResponseError("BUSY Redis is busy"), StoreUnavailable, "busy"),
    (redis_errors.ResponseError("UNBLOCKED force unblock"), StoreUnavailable, "replica"),
    (redis_errors.ClusterDownError("down"), StoreUnavailable, "cluster"),
    (redis_errors.MaxConnectionsError("Too many connections"), StoreUnavailable, "reached"),
    (redis_errors.ConnectionError("Error 111 connecting"), StoreUnavailable, "Error 111"),
    (redis_errors.TimeoutError("Timeout reading"), StoreUnavailable, "in time"),
]


@pytest.mark.parametrize(("error", "kind", "remedy"), REPLIES, ids=lambda value: repr(value)[:40])
def test_redis_errors_become_ours(
    error: Exception, kind: type[StoreUnavailable], remedy: str
) -> None:
    with pytest.raises(StoreUnavailable, match=remedy) as caught, translate_errors(URL):
        raise error
    assert type(caught.value) is kind
    assert "redis://me:***@store:6379/0" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        redis_errors.NoScriptError("No matching script"),
        redis_errors.ResponseError("WRONGTYPE Operation against a key"),
        redis_errors.ResponseError(IN_SCRIPT + "attempt to index a nil value"),
        redis_errors.DataError("Invalid input"),
        TimeoutError("not of Redis"),
        ValueError("a bug"),
    ],
)
def test_other_errors_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, translate_errors(URL):
        raise error
    assert caught.value is error


def test_arguments_of_a_failed_pipeline_are_not_shown() -> None:
    error = redis_errors.OutOfMemoryError("Command # 1 (SET key PAYLOAD) of pipeline caused error")
    with pytest.raises(StoreFull) as caught, translate_errors(URL):
        raise error
    assert "PAYLOAD" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_network_errors_keep_their_cause() -> None:
    error = redis_errors.ConnectionError("gone")
    with pytest.raises(StoreUnavailable) as caught, translate_errors(URL):
        raise error
    assert caught.value.__cause__ is error


async def test_one_translation_serves_nested_and_awaiting_code() -> None:
    guard = translate_errors(URL)

    async def fail() -> None:
        with guard:
            raise redis_errors.ConnectionError("gone")

    with guard, pytest.raises(StoreUnavailable):
        await fail()
    with pytest.raises(StoreUnavailable), guard:
        raise redis_errors.ConnectionError("gone again")
