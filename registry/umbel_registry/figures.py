"""What workers measure of a version under one route: jobs, errors, durations, agreement."""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from umbel_config.server import address_of
from umbel_config.store_errors import translate_errors
from umbel_registry.histogram import BINS, Histogram, bin_of, bins_of
from umbel_registry.keys import figures_key

if TYPE_CHECKING:
    from redis import Redis

    from umbel_registry.pairing import Pairing

#: How long figures are kept after the last change, in seconds.
KEPT_S: Final = 30 * 86_400
#: What figures belong to: model, number of the route, version.
Key = tuple[str, int, str]

_LARGEST = "largest"
#: Histograms, and the letter that stands before the number of a bin in their fields.
_LETTERS: Final = {"l": "latency", "c": "compute"}


@dataclass(frozen=True, slots=True)
class Cells:
    """What batches of rows of different lengths consist of.

    Attributes:
        real: elements of the inputs themselves.
        padded: elements that fill up the shorter ones.
    """

    real: int = 0
    padded: int = 0

    def __add__(self, other: Cells) -> Cells:
        return Cells(self.real + other.real, self.padded + other.padded)


#: Of a batch whose inputs have no lengths.
NO_CELLS: Final = Cells()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured of one version. Whatever is not told is 0.

    Attributes:
        jobs: jobs that were settled.
        failed: those of them that failed.
        batches: how many batches they were in.
        size_squared: the squares of the sizes of the batches, added up.
        failed_by_size: the failed jobs of each batch by its size, added up.
        failed_squared: the squares of the failed jobs of each batch, added up.
        latency: from the arrival of a job to its end, in ms, of every job.
        compute: computing a batch, in ms, of every batch.
        compute_ms: the same, added up.
        real_cells: elements of inputs of variable length, see ``Cells``.
        padded_cells: what they were filled up with in their batches.
        pairs: inputs for which this version, as a shadow, and the one that answered had an output.
        equal: pairs whose outputs agree.
        unlike: pairs whose outputs have no difference that could be measured.
        tops: pairs whose outputs have a largest entry to compare.
        same_top: those of them where it has the same place.
        difference: the differences of all pairs but those that are unlike, added up.
        largest: the largest of these differences.
        failed_pairs: inputs for which the version that answered had an output and this one failed.
    """

    jobs: int = 0
    failed: int = 0
    batches: int = 0
    size_squared: int = 0
    failed_by_size: int = 0
    failed_squared: int = 0
    latency: Histogram = field(default_factory=Histogram)
    compute: Histogram = field(default_factory=Histogram)
    compute_ms: float = 0.0
    real_cells: int = 0
    padded_cells: int = 0
    pairs: int = 0
    equal: int = 0
    unlike: int = 0
    tops: int = 0
    same_top: int = 0
    difference: float = 0.0
    largest: float = 0.0
    failed_pairs: int = 0

    @property
    def padding(self) -> float | None:
        """Elements of padding for each real one; ``None`` where no input has a length."""
        return self.padded_cells / self.real_cells if self.real_cells else None

    @property
    def clumping(self) -> float:
        """How many failures come together: 1 where each job fails for itself, else more.

        Jobs of a batch may fail together, and 64 that do are one event rather than 64. This is the
        variance of the error rate as batches show it over that of a binomial: the design effect, L.
        Kish, Survey Sampling (1965), section 8.2. Without a failure it is not known, and 1.
        """
        if not self.failed:
            return 1.0
        rate = self.failed / self.jobs
        if rate >= 1:
            return self.size_squared / self.jobs
        between = (
            self.failed_squared - 2 * rate * self.failed_by_size + rate * rate * self.size_squared
        )
        return max(1.0, between / (self.jobs * rate * (1 - rate)))

    def independent_jobs(self, clumping: float | None = None) -> float:
        """How many jobs that fail each for itself would tell as much of the error rate.

        Args:
            clumping: of the failures; default: as these figures show it.
        """
        if not self.jobs:
            return 0.0
        return max(self.jobs / (clumping or self.clumping), min(self.batches, self.jobs))

    def merge(self, other: Figures) -> Figures:
        """What was measured there and here.

        Args:
            other: figures of the same version from elsewhere.
        """
        return Figures(**{name: _joined(name, self, other) for name in _NAMES})


_NAMES: Final = tuple(each.name for each in fields(Figures))
_COUNTS: Final = tuple(each.name for each in fields(Figures) if each.type == "int")
_SUMS: Final = ("compute_ms", "difference")


def _joined(name: str, one: Figures, other: Figures) -> Any:
    first, second = getattr(one, name), getattr(other, name)
    if isinstance(first, Histogram):
        return first.merge(second)
    return max(first, second) if name == _LARGEST else first + second


class _Tally:
    """Figures that grow."""

    __slots__ = ("compute", "latency", "values")

    def __init__(self) -> None:
        self.values: defaultdict[str, Any] = defaultdict(int)
        self.latency: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.compute: dict[int, int] = defaultdict(int)

    def figures(self) -> Figures:
        latency = Histogram.dense(self.latency)
        return Figures(latency=latency, compute=Histogram(dict(self.compute)), **self.values)


class Tallies:
    """Gathers the figures of one process between two writes; may be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tallies: defaultdict[Key, _Tally] = defaultdict(_Tally)

    def add(
        self,
        model: str,
        number: int,
        version: str,
        latencies_ms: ArrayLike,
        compute_ms: float,
        failed: int,
        cells: Cells = NO_CELLS,
    ) -> None:
        """Counts one batch, in a few microseconds.

        Args:
            model: name of the model.
            number: of the route under which its jobs were submitted.
            version: the version that ran it.
            latencies_ms: from arrival to end, in ms, one for each job.
            compute_ms: what computing it took, in ms.
            failed: how many of the jobs failed.
            cells: what it consisted of, where its inputs have lengths.
        """
        bins = bins_of(latencies_ms)
        jobs = len(bins)
        with self._lock:
            tally = self._tallies[model, number, version]
            values = tally.values
            values["jobs"] += jobs
            values["batches"] += 1
            values["size_squared"] += jobs * jobs
            if failed:
                values["failed"] += failed
                values["failed_by_size"] += failed * jobs
                values["failed_squared"] += failed * failed
            values["compute_ms"] += compute_ms
            if cells.real:
                values["real_cells"] += cells.real
                values["padded_cells"] += cells.padded
            tally.compute[bin_of(compute_ms)] += 1
            tally.latency += np.bincount(bins, minlength=BINS)

    def add_pairs(
        self, model: str, number: int, version: str, pairings: Iterable[Pairing], failed: int = 0
    ) -> None:
        """Counts the comparisons of a batch of a shadow with the outputs that were given.

        Args:
            model: name of the model.
            number: of the route that has the shadow.
            version: the shadow.
            pairings: one for each input for which both had an output.
            failed: for how many inputs only the shadow failed.
        """
        compared = list(pairings)
        measured = [each.difference for each in compared if math.isfinite(each.difference)]
        tops = [each.same_top for each in compared if each.same_top is not None]
        with self._lock:
            values = self._tallies[model, number, version].values
            values["pairs"] += len(compared)
            values["equal"] += sum(each.equal for each in compared)
            values["unlike"] += len(compared) - len(measured)
            values["tops"] += len(tops)
            values["same_top"] += sum(tops)
            values["difference"] += sum(measured)
            values[_LARGEST] = max((values[_LARGEST], *measured))
            values["failed_pairs"] += failed

    def take(self) -> dict[Key, Figures]:
        """Returns what has been gathered, and begins anew."""
        with self._lock:
            taken, self._tallies = self._tallies, defaultdict(_Tally)
        return {key: tally.figures() for key, tally in taken.items()}


class FiguresStore:
    """Figures of all workers, added up in Redis; see ``keys.py``.

    They are statistics, so nothing is done to count exactly once: when the reply to a write is lost
    it may be sent again, and what a process gathered in the last second before it died is lost.

    Args:
        redis: a client; whether it decodes replies does not matter.
        namespace: prefix of all keys, the ``namespace`` setting.
    """

    def __init__(self, redis: Redis, namespace: str = "umbel") -> None:
        self._redis, self._namespace = redis, namespace
        self._raise = (
            resources.files("umbel_registry").joinpath("lua/largest.lua").read_text("utf-8")
        )
        self._translated = translate_errors(address_of(redis))

    def add(self, taken: Mapping[Key, Figures]) -> None:
        """Adds what a process has gathered, in one round trip.

        Args:
            taken: what ``Tallies.take`` returned.
        """
        if not taken:
            return
        pipe = self._redis.pipeline(transaction=False)
        for (model, number, version), figures in taken.items():
            key = figures_key(self._namespace, model, number, version)
            for name, count in _whole(figures).items():
                pipe.hincrby(key, name, count)
            for name in _SUMS:
                if getattr(figures, name):
                    pipe.hincrbyfloat(key, name, getattr(figures, name))
            if figures.largest:
                pipe.eval(self._raise, 1, key, _LARGEST, repr(figures.largest))
            pipe.expire(key, KEPT_S)
        with self._translated:
            pipe.execute()

    def read(self, model: str, number: int, versions: Iterable[str]) -> dict[str, Figures]:
        """What was measured of some versions under one route; empty figures where nothing was.

        Args:
            model: name of the model.
            number: of the route.
            versions: the versions.
        """
        names = list(dict.fromkeys(versions))
        pipe = self._redis.pipeline(transaction=False)
        for version in names:
            pipe.hgetall(figures_key(self._namespace, model, number, version))
        with self._translated:
            replies = pipe.execute()
        return {name: _read(reply) for name, reply in zip(names, replies, strict=True)}


def _whole(figures: Figures) -> dict[str, int]:
    """All whole numbers but zeros, by the name of their field."""
    counts = {name: getattr(figures, name) for name in _COUNTS}
    for letter, name in _LETTERS.items():
        bins = getattr(figures, name).counts
        counts |= {f"{letter}{place}": count for place, count in bins.items()}
    return {name: count for name, count in counts.items() if count}


def _read(reply: Mapping[bytes | str, bytes | str]) -> Figures:
    """Figures from a hash; fields of a later release are left alone."""
    bins: dict[str, dict[int, int]] = {name: {} for name in _LETTERS.values()}
    values: dict[str, Any] = {}
    for field_name, value in reply.items():
        name = field_name.decode() if isinstance(field_name, bytes) else field_name
        if name in _COUNTS:
            values[name] = int(value)
        elif name in (*_SUMS, _LARGEST):
            values[name] = float(value)
        elif name[:1] in _LETTERS and name[1:].isdecimal() and int(name[1:]) < BINS:
            bins[_LETTERS[name[0]]][int(name[1:])] = int(value)
    return Figures(**(values | {name: Histogram(counts) for name, counts in bins.items()}))
