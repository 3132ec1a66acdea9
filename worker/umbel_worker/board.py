"""What this process knows of routes and retired versions: read now and then, asked all the time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import redis

from umbel_batching.lanes import is_shadow, split_name
from umbel_batching.record import Failure
from umbel_registry import Catalog, TrafficControl
from umbel_registry.edits import Standing
from umbel_registry.keys import traffic_key
from umbel_registry.resolve import version_retired

#: Seconds after which it is read anew, if nobody has seen to that meanwhile.
_STALE_S = 5.0
#: A retired version may send its jobs to one that was retired later, and so on.
_MOST_HOPS = 32


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done with the jobs of a lane.

    Attributes:
        name: what runs them, ``model@version``.
        ran: that version, if it is not the lane's own; else empty.
        failure: what all of them fail with instead, if anything.
    """

    name: str
    ran: str = ""
    failure: Failure | None = None


class Board:
    """The traffic of all models that have any.

    Args:
        client: a Redis client.
        namespace: prefix of every key.
    """

    def __init__(self, client: redis.Redis, namespace: str) -> None:
        self._client, self._namespace = client, namespace
        self._catalog = Catalog(client, namespace)
        self._control = TrafficControl(client, namespace, who="worker")
        self._known: dict[str, Standing] = {}
        self._changes: dict[str, bytes] = {}
        self._revision: int | None = None
        self._read_at = float("-inf")
        self._lock = threading.Lock()

    def of(self, model: str) -> Standing | None:
        """How a model stands; ``None`` if nothing was ever said about its versions.

        Args:
            model: its name.
        """
        if time.monotonic() - self._read_at > _STALE_S:
            self.refresh()
        return self._known.get(model)

    def number(self, model: str) -> int:
        """Number of the route in force.

        Args:
            model: its name.
        """
        standing = self.of(model)
        return standing.traffic.number_in_force if standing else 0

    def order(self, lane: str) -> Order:
        """What is to be done with the jobs of a lane: retired versions have a say in it.

        Args:
            lane: its name.
        """
        model, own = split_name(lane)
        standing, version = self.of(model), own
        if is_shadow(lane) and not self.copies(lane):
            return Order(f"{model}@{own}", "", Failure("ShadowOff", f"{own} is no shadow any more"))
        for _ in range(_MOST_HOPS if standing else 0):
            retirement = standing.traffic.retired.get(version) if standing else None
            if retirement is None or retirement.queued == "finish":
                break
            if retirement.queued == "fail" or retirement.to is None:
                error = version_retired(model, version)
                return Order(f"{model}@{version}", "", Failure("VersionRetired", str(error)))
            version = retirement.to
        return Order(f"{model}@{version}", version if version != own else "")

    def copies(self, lane: str) -> bool:
        """Whether the version of a lane is a shadow, as it was when the lane got its copies.

        Args:
            lane: name of a lane of copies.
        """
        model, version = split_name(lane)
        standing = self.of(model)
        route = standing.traffic.route if standing else None
        return route is not None and version in route.shadows

    def all(self) -> list[Standing]:
        """All models that have traffic of their own, by name."""
        return [self._known[name] for name in sorted(self._known)]

    def refresh(self) -> bool:
        """Reads what has changed; returns whether the registry had moved.

        Raises:
            StoreUnavailable: Redis cannot be reached.
        """
        with self._lock:
            revision = self._catalog.revision()
            moved = revision != self._revision
            if moved:
                self._read()
                self._revision = revision
            self._read_at = time.monotonic()
        return moved

    def _read(self) -> None:
        """Reads the models anew whose last change is another one.

        The number of changes would not tell: after a loss of data it begins anew.
        """
        names = self._catalog.names()
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.hget(traffic_key(self._namespace, name), "ids")
        ids = pipe.execute() if names else []
        changes = {name: last for name, last in zip(names, ids, strict=True) if last}
        same = {name for name, last in changes.items() if self._changes.get(name) == last}
        self._known = {
            name: self._known[name] if name in same else self._control.read(name)
            for name in changes
        }
        self._changes = changes
