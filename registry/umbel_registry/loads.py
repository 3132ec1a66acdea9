"""Loads that are under way, noted before they begin: one that kills its process is not repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from umbel_config.errors import ModelUnavailable
from umbel_config.server import address_of
from umbel_config.store_errors import translate_errors
from umbel_registry.fleet import Fleet
from umbel_registry.keys import loads_key
from umbel_registry.resolve import text

if TYPE_CHECKING:
    from redis import Redis

#: By how much longer a version is left alone after each death of a loader, and at most how long, in
#: ms: it may be wanted for ever. Where jobs wait for it the first death is forgiven, as whoever
#: stops a worker by force may do so while it loads.
PAUSE_MS: Final = 300_000
SHORT_PAUSE_MS: Final = 60_000
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
    """The loads of one process of a worker.

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

    def begin(self, name: str, *, ahead: bool) -> None:
        """Notes that a load begins.

        Args:
            name: ``model@version``.
            ahead: whether no job needs it yet.

        Raises:
            ModelUnavailable: processes of this host have died of it, the last one not long ago.
            StoreUnavailable: Redis cannot be reached.
        """
        with self._translated:
            seconds, micros = self._redis.time()
            now_ms = seconds * 1000 + micros // 1000
            died = [load.at_ms for load in self._dead(now_ms) if load.name == name]
            deaths = _clusters(died)
            pause_ms = PAUSE_MS * deaths if ahead else SHORT_PAUSE_MS * max(0, deaths - 1)
            rest_ms = max(died, default=0) + min(pause_ms, LONGEST_PAUSE_MS) - now_ms
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
    """How many there were, where those within ten seconds of the first of them are one."""
    count, until = 0, 0
    for each in sorted(times_ms):
        if each > until:
            count, until = count + 1, each + _TOGETHER_MS
    return count


def _died(name: str, host: str, deaths: int, rest_ms: int) -> ModelUnavailable:
    who = "a process" if deaths == 1 else f"{deaths} processes"
    return ModelUnavailable(
        f"{name} has ended {who} of {host} that loaded it, in the last day. Look into the worker's "
        f"log, and how much memory it has. It is tried again in {max(1, round(rest_ms / 60_000))} "
        "min."
    )
