"""The batch sizes of adaptive lanes in one process: asked before each claim, told beside it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from umbel_batching.calls import Calls
from umbel_batching.census import tuned_of
from umbel_batching.keys import lane_keys
from umbel_batching.lanes import slot_of, split_name
from umbel_batching.lines import Point
from umbel_batching.policy import BatchPolicy
from umbel_batching.scripts import Runner
from umbel_batching.tuning import Tuned, Tuner
from umbel_batching.values import Settlement
from umbel_config.errors import UmbelError
from umbel_registry import LoadedModel, Manifest
from umbel_registry.edits import Standing
from umbel_worker.board import Board

log = logging.getLogger("umbel.worker")

#: Seconds between two times that a lane's choice is told while it does not change; well below
#: ``CHOICE_HOLDS_MS``.
_TELL_S: Final = 3.0
#: Seconds after which a lane without batches is told of no more, and after which it is forgotten.
_QUIET_S, _GONE_S = 30.0, 3600.0


@dataclass(slots=True)
class _Lane:
    """What this process knows of an adaptive lane.

    Attributes:
        tuner: learns and chooses.
        used: when it was last asked.
        told: what was told last, and when.
    """

    tuner: Tuner
    used: float
    told: tuple[int, int] = (0, 0)
    told_at: float = float("-inf")


class Tuners:
    """One tuner for each adaptive lane that this process drains. From several threads.

    Args:
        runner: runs scripts.
        calls: of the namespace.
        board: what is known of live policies.
        kind: the kind of device, and the threads of one forward; what batches cost is shared
            among processes that have both in common.
        clock: seconds that only ever grow.
    """

    def __init__(
        self,
        runner: Runner,
        calls: Calls,
        board: Board,
        kind: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner, self._calls, self._board, self._kind = runner, calls, board, kind
        self._clock, self._lock = clock, threading.Lock()
        self._lanes: dict[str, _Lane] = {}
        self._policies: dict[str, tuple[Standing, BatchPolicy]] = {}

    def limit(self, lane: str, model: LoadedModel, timings: Sequence[Point] = ()) -> int:
        """The most jobs that the next batch of a lane shall have; 0 where it is static.

        Args:
            lane: its name.
            model: what runs its jobs.
            timings: what its batches took when it was warmed up.
        """
        policy = self._policy(lane, model)
        if policy is None or not policy.objective_ms:
            return 0
        known = self._lanes.get(lane)
        if known is None:
            known = self._begin(lane, timings)
        known.used = self._clock()
        return known.tuner.limit(policy)

    def note(self, lane: str, outcome: Settlement, took_s: float) -> None:
        """Takes note of a batch that was written.

        One with failures may have been run several times over, so it tells nothing.

        Args:
            lane: its lane.
            outcome: what was written.
            took_s: seconds for which it held its slot.
        """
        known = self._lanes.get(lane)
        if known is not None and outcome.succeeded == len(outcome.uids) and not outcome.ceiling:
            known.tuner.note(len(outcome.uids), took_s * 1000)

    def tell(self) -> None:
        """Tells the choices that are new, or were told some seconds ago.

        Raises:
            RedisError: Redis cannot be reached, or refuses it.
        """
        now = self._clock()
        with self._lock:
            self._lanes = {
                name: each for name, each in self._lanes.items() if now - each.used < _GONE_S
            }
            lanes = {name: each for name, each in self._lanes.items() if now - each.used < _QUIET_S}
        for name, known in lanes.items():
            told = known.tuner.told(self._kind)
            if told is None:
                continue
            chosen = told.size, told.wait_ms
            if chosen == known.told and now - known.told_at < _TELL_S:
                continue
            self._runner.run(self._calls.tune(slot_of(name), name, told))
            known.told, known.told_at = chosen, now

    def _begin(self, lane: str, timings: Sequence[Point]) -> _Lane:
        points = self._from_others(lane) or timings
        with self._lock:
            return self._lanes.setdefault(lane, _Lane(Tuner(points, self._clock), self._clock()))

    def _from_others(self, lane: str) -> Sequence[Point]:
        """What workers with such a device have learned; nothing where that cannot be read."""
        key = lane_keys(self._calls.namespace, slot_of(lane)).costs
        raw = self._runner.client.hget(key, self._kind)
        told: Tuned | None = tuned_of(raw) if isinstance(raw, bytes) else None
        return told.points if told else ()

    def _policy(self, lane: str, model: LoadedModel) -> BatchPolicy | None:
        """The policy in force of a lane; ``None`` where it is not known."""
        name, version = split_name(lane)
        standing = self._board.of(name)
        if standing is None:
            known = model.manifest
            return known.policy if isinstance(known, Manifest) else known.batching
        before = self._policies.get(lane)
        if before is not None and before[0] is standing:
            return before[1]
        manifest = standing.manifests.get(version)
        if manifest is None:
            return None
        try:
            policy = standing.traffic.policy_of(version, manifest.policy)
        except UmbelError as error:
            log.debug("lane %s: %s", lane, error)
            return None
        self._policies[lane] = standing, policy
        return policy
