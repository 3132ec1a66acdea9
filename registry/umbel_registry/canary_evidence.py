"""What a canary is decided on: read from what workers measure and tell, and from its lane."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import reduce
from typing import TYPE_CHECKING, Any, cast

import msgspec

from umbel_batching.census import BANDS, workers_of
from umbel_batching.keys import lane_keys
from umbel_batching.lanes import Lane
from umbel_config.server import address_of
from umbel_config.store_errors import translate_errors
from umbel_registry.canary_step import Evidence, LaneCounts
from umbel_registry.edits import Standing
from umbel_registry.figures import Figures, FiguresStore
from umbel_registry.fleet import Fleet, Readiness, Report, readiness_of
from umbel_registry.resolve import text
from umbel_registry.traffic import Canary

if TYPE_CHECKING:
    from redis import Redis

    from umbel_registry.manifest import Manifest

#: By how much the clock of a worker may be behind that of Redis, ms.
_SKEW_MS = 2_000
#: Seconds between two looks after which a silence begins anew: Redis was away meanwhile, perhaps.
_GAP_S = 15.0
_COUNTERS = tuple(each.name for each in fields(LaneCounts))


@dataclass(frozen=True, slots=True)
class LaneLook:
    """A lane at one moment.

    Attributes:
        counts: its counters.
        waiting: jobs that wait.
        running: batches that run.
        oldest_ms: how long ago the oldest of these jobs arrived, in ms.
    """

    counts: LaneCounts
    waiting: int
    running: int
    oldest_ms: int


@dataclass(frozen=True, slots=True)
class Seen:
    """All that one look at a canary has found.

    Attributes:
        readiness: of the workers of its version's queue.
        evidence: of its version at this step.
        counts: counters of its lane, from the lane's first job.
    """

    readiness: Readiness
    evidence: Evidence
    counts: LaneCounts


@dataclass(frozen=True, slots=True)
class _Silence:
    """Since when, and until when, the jobs that had ended were seen to be the same."""

    moment: tuple[int, ...]
    since: float
    looked: float


class CanaryEyes:
    """Looks at canaries, and remembers since when the lane of one is silent.

    That memory is of one process on purpose: workers that come back after an outage find old jobs,
    which is not the fault of a version. They watch it for a while first.

    Args:
        redis: a client whose replies are bytes.
        namespace: prefix of all keys, the ``namespace`` setting.
        clock: seconds that only ever grow.
    """

    def __init__(
        self, redis: Redis, namespace: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._redis, self._namespace, self._clock = redis, namespace, clock
        self._figures, self._fleet = FiguresStore(redis, namespace), Fleet(redis, namespace)
        self._translated = translate_errors(address_of(redis))
        self._silent: dict[str, _Silence] = {}

    def look(self, standing: Standing, canary: Canary) -> Seen:
        """What is known of a canary now.

        Args:
            standing: of the model.
            canary: its canary.

        Raises:
            VersionNotFound: its version is not registered any more.
            StoreUnavailable: Redis cannot be reached.
        """
        model, version = standing.model, canary.version
        manifest, route = standing.manifests[standing.version(version)], standing.route
        lane = self._lane(Lane(model=model, version=version), standing.now_ms)
        versions = (version, *(route.weights if route else ()))
        figures = self._figures.read(model, standing.traffic.number_in_force, versions)
        own = figures.pop(version)
        begun = LaneCounts(**{name: canary.counters.get(name, 0) for name in _COUNTERS})
        evidence = Evidence(
            own=own,
            others=reduce(Figures.merge, figures.values(), Figures()),
            lane=lane.counts.since(begun),
            waiting=lane.waiting,
            running=lane.running,
            oldest_ms=lane.oldest_ms,
            silent_ms=self._silence(model, canary, lane),
        )
        return Seen(self._readiness(manifest, standing, canary), evidence, lane.counts)

    def _silence(self, model: str, canary: Canary, lane: LaneLook) -> int:
        """For how long jobs were in the lane and none ended, as seen from here, in ms."""
        if not lane.waiting and not lane.running:
            self._silent.pop(model, None)
            return 0
        now = self._clock()
        ended = lane.counts.succeeded, lane.counts.failed
        moment = canary.started_ms, canary.step, *ended
        known = self._silent.get(model)
        alike = known is not None and known.moment == moment and now - known.looked <= _GAP_S
        since = known.since if known is not None and alike else now
        self._silent[model] = _Silence(moment, since, now)
        return round(1000 * (now - since))

    def _readiness(self, manifest: Manifest, standing: Standing, canary: Canary) -> Readiness:
        """As ``Fleet.readiness``, without failures from before the canary began."""
        with self._translated:
            workers = workers_of(self._redis, self._namespace, manifest.queue, standing.now_ms)
        begun_ms = canary.started_ms - _SKEW_MS
        reports = [_fresh(report, begun_ms) for report in self._fleet.reports()]
        return readiness_of(manifest, workers, reports)

    def _lane(self, lane: Lane, now_ms: int) -> LaneLook:
        keys = lane_keys(self._namespace, lane.slot)
        pipe = self._redis.pipeline(transaction=False)
        pipe.hmget(keys.lane, *_COUNTERS)
        pipe.zcard(keys.waiting)
        pipe.zrange(keys.leases, 0, -1)
        for low, high in zip(BANDS, (*BANDS[1:], "+inf"), strict=True):
            start = low if low >= 0 else "-inf"
            end = high if high == "+inf" else f"({high}"
            pipe.zrangebyscore(keys.waiting, start, end, start=0, num=1, withscores=True)
        with self._translated:
            counters, waiting, batches, *firsts = pipe.execute()
            arrivals = [
                math.floor(found[0][1]) - band
                for found, band in zip(firsts, BANDS, strict=True)
                if found
            ]
            arrivals += self._running(keys.batch, batches)
        counts = LaneCounts(*(int(count or 0) for count in counters))
        oldest_ms = max(0, now_ms - min(arrivals)) if arrivals else 0
        return LaneLook(counts, waiting, len(batches), oldest_ms)

    def _running(self, prefix: str, batches: list[bytes]) -> list[int]:
        """When the oldest job of each running batch arrived, in ms since 1970."""
        if not batches:
            return []
        pipe = self._redis.pipeline(transaction=False)
        for batch in batches:
            pipe.hget(f"{prefix}{text(batch)}", "oldest")
        return [int(cast("Any", oldest)) for oldest in pipe.execute() if oldest]


def _fresh(report: Report, since_ms: int) -> Report:
    kept = [each for each in report.held if each.state != "failed" or each.since_ms >= since_ms]
    return msgspec.structs.replace(report, held=tuple(kept))
