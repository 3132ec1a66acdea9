"""From redis-py's exceptions to our error tree: what happened, where, and what to do."""

from __future__ import annotations

from types import TracebackType
from typing import Final

from redis import exceptions as redis_errors

from umbel_config.errors import StoreFull, StoreRefused, StoreUnavailable, StoreUnsuitable
from umbel_config.settings import mask_url

_REFUSED: Final = {
    "NOAUTH": "asks for a password. Put it into the URL: redis://:PASSWORD@host:6379/0",
    "WRONGPASS": "refuses the user name or password. Check them in UMBEL_REDIS_URL",
    "NOPERM": "does not let this user run a command that umbel needs. Extend the user's ACL rules",
    "NOPASS": "has no password, but the URL carries one. Take it out of UMBEL_REDIS_URL",
}
_FULL: Final = {
    "OOM": "is out of memory (maxmemory) and takes no new job; those it holds go on. Let workers "
    "drain the lanes, keep results for a shorter time (result_ttl_s), or raise maxmemory",
}
_UNSUITABLE: Final = {
    "READONLY": "is a read-only replica. Point UMBEL_REDIS_URL at the primary",
    "MISCONF": "cannot write to its disk and refuses writes. Free disk space, see the Redis log",
    "NOREPLICAS": "has fewer replicas than min-replicas-to-write asks for. Bring them back",
    "MOVED": "runs in cluster mode. Point UMBEL_REDIS_URL at a single primary",
}
_UNAVAILABLE: Final = {
    "LOADING": "is still loading its data. Try again in a moment",
    "BUSY": "is busy with a long script. Try again in a moment",
    "MASTERDOWN": "has lost its primary. Try again once it is back",
    "CLUSTERDOWN": "is part of a cluster that is down. Try again once it is back",
    "UNBLOCKED": "has just become a replica. Try again: the new primary takes over",
}
#: Errors that redis-py gives a class of their own, by the code that Redis sent.
_CODES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (redis_errors.AuthenticationWrongNumberOfArgsError, "WRONGPASS"),
    (redis_errors.NoPermissionError, "NOPERM"),
    (redis_errors.OutOfMemoryError, "OOM"),
    (redis_errors.ReadOnlyError, "READONLY"),
    (redis_errors.MasterDownError, "MASTERDOWN"),
    (redis_errors.ClusterDownError, "CLUSTERDOWN"),
    (redis_errors.MovedError, "MOVED"),
    (redis_errors.AskError, "MOVED"),
    (redis_errors.BusyLoadingError, "LOADING"),
)


class _Translation:
    """Context manager behind ``translate_errors``; holds no state, so one may serve many calls."""

    __slots__ = ("_where",)

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or not isinstance(error, redis_errors.RedisError):
            return
        ours = translated(error, self._where)
        if ours is None:
            return
        if isinstance(error, redis_errors.ResponseError):
            # redis-py names the failed command of a pipeline with its arguments: job inputs.
            raise ours from None
        raise ours from error


def translate_errors(url: str) -> _Translation:
    """Turns redis-py's errors inside the ``with`` block into ours; costs nothing without one.

    Works around blocking and awaiting code alike, and may be kept and entered any number of times.

    Args:
        url: the Redis URL, for the message; its password is masked.

    Raises:
        StoreUnavailable: Redis cannot be reached, did not answer in time, or is loading.
        StoreRefused: wrong or missing password, or a missing permission.
        StoreFull: out of memory (maxmemory).
        StoreUnsuitable: read-only, in cluster mode, or no Redis at all.
    """
    return _Translation(mask_url(url))


def translated(error: redis_errors.RedisError, where: str) -> StoreUnavailable | None:
    """Our error for one of redis-py, or ``None`` where it tells of a bug rather than of the store.

    Args:
        error: what redis-py raised.
        where: the masked Redis URL.
    """
    if type(error) is redis_errors.ConnectionError and isinstance(
        error.__cause__, redis_errors.RedisError
    ):
        # The asyncio client wraps whatever goes wrong while it connects, a wrong password too.
        error = error.__cause__
    code = _code(error)
    for table, ours in (
        (_REFUSED, StoreRefused),
        (_FULL, StoreFull),
        (_UNSUITABLE, StoreUnsuitable),
        (_UNAVAILABLE, StoreUnavailable),
    ):
        if code in table:
            return ours(f"Redis at {where} {table[code]}.")
    if isinstance(error, redis_errors.InvalidResponse):
        return StoreUnsuitable(
            f"What answers at {where} does not speak the Redis protocol. Check host and port."
        )
    if isinstance(error, redis_errors.TimeoutError):
        return StoreUnavailable(
            f"Redis at {where} did not answer in time. Check that it is up and not overloaded "
            "(redis_timeout_s sets the patience)."
        )
    if isinstance(error, redis_errors.ConnectionError):
        return StoreUnavailable(
            f"Redis at {where} cannot be reached ({error}). Check that it runs and that "
            "UMBEL_REDIS_URL names it."
        )
    return None


def _code(error: redis_errors.RedisError) -> str:
    """The error code that Redis sent, also where a script wrapped it or redis-py cut it off."""
    text = str(error)
    if isinstance(error, redis_errors.AuthenticationError):
        return _authentication_code(text)
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    if not isinstance(error, redis_errors.ResponseError):
        return ""
    if text.startswith("Error running script") or "user_script" in text:
        # Redis 6.2 wraps what a command inside a script answered: "... -OOM command not allowed".
        words = (word[1:] for word in text.split() if word.startswith("-"))
        return next((word for word in words if word in _FULL | _UNSUITABLE | _REFUSED), "")
    return text.partition(" ")[0]


def _authentication_code(text: str) -> str:
    lowered = text.lower()
    if "without any password configured" in lowered or "no password is set" in lowered:
        return "NOPASS"
    if "authentication required" in lowered:
        return "NOAUTH"
    return "WRONGPASS"
