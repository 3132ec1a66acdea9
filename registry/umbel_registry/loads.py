"""Loads that are under way, noted before they begin: one that kills its process is not repeated."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, cast

from umbel_config.errors import ModelUnavailable
from umbel_config.server import address_of
from umbel_config.store_errors import translate_errors
from umbel_registry.fleet import Fleet
from umbel_registry.keys import loads_key
from umbel_registry.resolve import text

if TYPE_CHECKING:
    from redis import Redis

#: How long a version is left alone after the first death of its loader, and at most, in ms. It
#: grows with every death, as what is routed is wanted for ever.
PAUSE_MS: Final = 300_000
LONGEST_PAUSE_MS: Final = 3_600_000
#: Loads that began so close together count as one: a pool dies with all that its processes do.
_TOGETHER_MS: Final = 10_000
#: How long a death is remembered.
_KEPT_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class _Load:
    """One load: its field in Redis, what is loaded, by which process, and since when."""

    field: str
    name: str
    process: str
    at_ms: int

    @classmethod
    def of(cls, field: str) -> _Load:
        name, process, at_ms = field.rsplit(" ", 2)
        return cls(field, name, process, int(at_ms))


class Loads:
    """The loads of one process of a worker, as far as nobody waits for them.

    A process that is killed by what it loads leaves its note behind. Whoever comes after it on this
    host finds that, and leaves the version alone for a while: else a worker would die of the same
    version again as soon as it is back, and serve nothing else in between.

    Args:
        redis: a client; whether it decodes replies does not matter.
        namespace: prefix of all keys, the ``namespace`` setting.
        process: ``host:pid`` of the process.
    """

    def __init__(self, redis: Redis, namespace: str, process: str) -> None:
        self._redis, self._fleet, self._process = redis, Fleet(redis, namespace), process
        self._host = process.rpartition(":")[0]
        self._key = loads_key(namespace, self._host)
        self._own: dict[str, str] = {}
        self._translated = translate_errors(address_of(redis))

    def begin(self, name: str) -> None:
        """Notes that a load begins.

        Args:
            name: ``model@version``.

        Raises:
            ModelUnavailable: processes of this host have died of it, the last one not long ago.
            StoreUnavailable: Redis cannot be reached.
        """
        with self._translated:
            seconds, micros = self._redis.time()
            now_ms = seconds * 1000 + micros // 1000
            died = [load.at_ms for load in self._dead(now_ms) if load.name == name]
            pause_ms = min(PAUSE_MS * _clusters(died), LONGEST_PAUSE_MS)
            rest_ms = max(died, default=0) + pause_ms - now_ms
            if rest_ms > 0:
                raise _died(name, self._host, len(died), rest_ms)
            field = f"{name} {self._process} {now_ms}"
            self._own[name] = field
            self._redis.hset(self._key, field, "")
            self._redis.expire(self._key, _KEPT_S)

    def end(self, name: str, *, loaded: bool) -> None:
        """Notes that a load is over, however it ended.

        Args:
            name: ``model@version``.
            loaded: whether it is loaded now; then nobody has reason to fear it any more.

        Raises:
            StoreUnavailable: Redis cannot be reached.
        """
        field = self._own.get(name)
        with self._translated:
            gone = [load.field for load in self._all() if loaded and load.name == name]
            gone += [field] if field else []
            if gone:
                self._redis.hdel(self._key, *gone)
        self._own.pop(name, None)  # not before: what could not be taken back is so by ``leave``

    def leave(self) -> None:
        """Takes back what this process has noted: it ends, but not because of that.

        Raises:
            StoreUnavailable: Redis cannot be reached.
        """
        fields, self._own = list(self._own.values()), {}
        if fields:
            with self._translated:
                self._redis.hdel(self._key, *fields)

    def _all(self) -> list[_Load]:
        fields = [text(field) for field in cast("list[bytes]", self._redis.hkeys(self._key))]
        return [_Load.of(field) for field in fields]

    def _dead(self, now_ms: int) -> list[_Load]:
        """Those whose process has gone; what is too old to matter is removed."""
        own = [*self._own.values()]
        alive = {report.process for report in self._fleet.reports()} - {self._process}
        dead = [load for load in self._all() if load.process not in alive and load.field not in own]
        old = [load.field for load in dead if load.at_ms < now_ms - _KEPT_S * 1000]
        if old:
            self._redis.hdel(self._key, *old)
        return [load for load in dead if load.field not in old]


def _clusters(times_ms: list[int]) -> int:
    """How many there were, where those that follow each other closely are one."""
    apart = (later - earlier > _TOGETHER_MS for earlier, later in pairwise(sorted(times_ms)))
    return sum(apart) + bool(times_ms)


def _died(name: str, host: str, deaths: int, rest_ms: int) -> ModelUnavailable:
    who = "a process" if deaths == 1 else f"{deaths} processes"
    return ModelUnavailable(
        f"{name} has ended {who} of {host} that loaded it, in the last day. Look into the worker's "
        "log, and how much memory it has. It is not loaded ahead of need for another "
        f"{max(1, round(rest_ms / 60_000))} min."
    )
