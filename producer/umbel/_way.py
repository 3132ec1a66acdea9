"""The way of jobs from a model's name to a lane: one version, or several that share them."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from umbel_batching.lanes import Lane
from umbel_registry.manifest import Manifest
from umbel_registry.resolve import Resolved
from umbel_registry.route import SPACE, Route, position_of
from umbel_registry.signature import Signature

#: The golden section of the space, made odd so that all its points have their turn.
_STEP = 2654435769


@dataclass(frozen=True, slots=True)
class Target:
    """Where jobs of one model version go: its lane, and the signature they must fit."""

    lane: Lane
    signature: Signature


def target_of(manifest: Manifest) -> Target:
    """The target that a registered version is."""
    lane = Lane(
        model=manifest.name,
        version=manifest.version,
        queue=manifest.queue,
        policy=manifest.policy,
    )
    return Target(lane, manifest.signature)


class Turns:
    """Points of the space for jobs without a routing key, spread as evenly as can be.

    They begin anywhere, so that the first job of each client is as likely to meet a version as its
    weight says, and go on by the golden section (Weyl's sequence): after n jobs each version
    has its share of them within a few jobs, where drawing lots would be off by the root of n.

    A forked child begins anew: a server that forks for each request would else send the one job
    of every child to the same version, and its lock may be held by a thread that is not there.
    """

    def __init__(self) -> None:
        self._lock, self._next, self._pid = _beginning()

    def take(self, count: int) -> int:
        """The first of ``count`` points; each further one is a step away, see ``points``."""
        if self._pid != os.getpid():
            self._lock, self._next, self._pid = _beginning()
        with self._lock:
            first = self._next
            self._next = (first + count * _STEP) % SPACE
        return first

    def points(self, count: int) -> NDArray[np.uint64]:
        """The next ``count`` points."""
        steps = np.arange(count, dtype=np.uint64) * np.uint64(_STEP)
        return (np.uint64(self.take(count)) + steps) % np.uint64(SPACE)


def _beginning() -> tuple[threading.Lock, int, int]:
    """Lock, first point and process; not of ``random``, since programs seed that all alike."""
    return threading.Lock(), secrets.randbits(32), os.getpid()


class Way:
    """Where jobs for one name and version go.

    Args:
        route: who answers which part.
        targets: of the route's versions, by version.
        turns: the points for jobs without a routing key; all ways of a model share them.
    """

    def __init__(self, route: Route, targets: Mapping[str, Target], turns: Turns) -> None:
        self.main = targets[route.versions[0]]
        self._route, self._targets, self._turns = route, targets, turns
        self._owners = [name for _, name in route.table]
        self._ends = np.array([end for end, _ in route.table], dtype=np.uint64)

    @classmethod
    def of(cls, resolved: Resolved, turns: Turns) -> Way:
        """The way to the versions that a name means.

        Args:
            resolved: the versions.
            turns: as above.
        """
        targets = {name: target_of(each) for name, each in resolved.manifests.items()}
        return cls(resolved.route, targets, turns)

    @property
    def single(self) -> bool:
        """Whether all jobs go to one lane."""
        return len(self._targets) == 1

    def one(self, routing_key: str | None = None) -> Target:
        """The target of the next job.

        Args:
            routing_key: jobs with the same one go to the same version; ``None``: its turn decides.
        """
        if self.single:
            return self.main
        point = self._turns.take(1) if routing_key is None else self._point(routing_key)
        return self._targets[self._route.at(point)]

    def many(
        self, count: int, routing_keys: Sequence[str | None] | None = None
    ) -> list[tuple[Target, Sequence[int]]]:
        """The targets of the next jobs, each with the places of its jobs, in order.

        Args:
            count: how many jobs.
            routing_keys: one for each; ``None`` among them for a job without.
        """
        if self.single:
            return [(self.main, range(count))]
        points = self._points(count, routing_keys)
        owners = np.searchsorted(self._ends, points, side="right")
        places: dict[str, list[int]] = {}
        for place, owner in enumerate(owners.tolist()):
            places.setdefault(self._owners[owner], []).append(place)
        return [(self._targets[version], rows) for version, rows in places.items()]

    def _points(self, count: int, keys: Sequence[str | None] | None) -> NDArray[np.uint64]:
        """Jobs with a key take no turn, so that those without are as even as if they were alone."""
        if keys is None:
            return self._turns.points(count)
        given = (0 if key is None else self._point(key) for key in keys)
        points = np.fromiter(given, np.uint64, count)
        free = np.fromiter((key is None for key in keys), np.bool_, count)
        points[free] = self._turns.points(int(free.sum()))
        return points

    def _point(self, key: str) -> int:
        return position_of(self.main.lane.model, key)
