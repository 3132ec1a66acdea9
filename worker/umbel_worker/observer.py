"""What is learned from batches that were settled: figures of versions, and copies for shadows."""

from __future__ import annotations

import logging
from collections import defaultdict

import numpy as np
from redis.exceptions import RedisError

from umbel_batching import wire
from umbel_batching.calls import Calls
from umbel_batching.lanes import is_shadow, split_id, split_name
from umbel_batching.length import NO_LENGTH, longest_of
from umbel_batching.record import Failure, Record, State, created_of, length_of, parse
from umbel_batching.scripts import Runner
from umbel_batching.values import Claimed, Settlement
from umbel_config.errors import UmbelError
from umbel_registry.figures import NO_CELLS, Cells, Tallies
from umbel_registry.pairing import Pairing, pair
from umbel_worker.board import Board
from umbel_worker.compute import Computed
from umbel_worker.isolate import Result
from umbel_worker.mirror import COPY_OF, Mirror

log = logging.getLogger("umbel.worker")


class Observer:
    """Looks at each batch once its outcomes are written; nothing that it does can change them.

    Args:
        runner: runs scripts, from any thread.
        calls: of the namespace.
        board: what is known of routes.
        mirror: makes copies for shadows.
        tallies: where the figures gather.
    """

    def __init__(
        self, runner: Runner, calls: Calls, board: Board, mirror: Mirror, tallies: Tallies
    ) -> None:
        self._runner, self._calls, self._board = runner, calls, board
        self._mirror, self._tallies = mirror, tallies

    def settled(
        self, lane: str, ran: str, claimed: Claimed, computed: Computed, outcome: Settlement
    ) -> None:
        """Takes note of a batch whose outcomes are written.

        Args:
            lane: the lane of its jobs.
            ran: the version that ran it, if it is not the lane's own.
            claimed: the batch as it was claimed.
            computed: what came of its jobs.
            outcome: what was written.
        """
        try:
            if is_shadow(lane) and not self._board.copies(lane):
                return  # it was switched off, and these were not run
            self._count(lane, ran, claimed, outcome, computed.cells)
            if is_shadow(lane):
                self._compare(lane, claimed, computed.results)
                return
            self._mirror.offer(lane, claimed, outcome)
        except (RedisError, UmbelError) as error:
            log.debug("batch %s: not counted (%s)", claimed.batch, error)
        except Exception:
            log.exception("batch %s: not counted", claimed.batch)

    def _count(
        self, lane: str, ran: str, claimed: Claimed, outcome: Settlement, cells: Cells
    ) -> None:
        model, version = split_name(lane)
        compute_ms = outcome.compute_us / 1000
        waits = claimed.started_ms - np.array([created_of(raw) for raw in claimed.records])
        self._tallies.add(
            model,
            self._board.number(model),
            ran or version,
            np.maximum(waits, 0) + compute_ms,
            compute_ms,
            len(outcome.uids) - outcome.succeeded,
            cells if cells.real else _estimated(claimed.records),
        )

    def _compare(self, lane: str, claimed: Claimed, results: list[Result]) -> None:
        """Holds the outputs of copies against what was answered, as long as that is there."""
        model, version = split_name(lane)
        answers = self._answers([str(parse(raw).metadata[COPY_OF]) for raw in claimed.records])
        pairings: list[Pairing] = []
        failed = 0
        for answer, result in zip(answers, results, strict=True):
            if answer is None or answer.state is not State.SUCCEEDED:
                continue
            if isinstance(result, Failure):
                failed += 1
            else:
                pairings.append(pair(wire.decode(answer.body), wire.decode(result)))
        number = self._board.number(model)
        self._tallies.add_pairs(model, number, version, pairings, failed)

    def _answers(self, job_ids: list[str]) -> list[Record | None]:
        """The records of the jobs that were copied; ``None`` for one that is gone."""
        by_slot: defaultdict[str, list[str]] = defaultdict(list)
        for job_id in job_ids:
            slot, uid = split_id(job_id)
            by_slot[slot].append(uid)
        found: dict[str, Record] = {}
        for slot, uids in by_slot.items():
            records = self._runner.run(self._calls.outcomes(slot, uids))
            for uid, raw in zip(uids, records, strict=True):
                if raw:
                    found[f"{slot}-{uid}"] = parse(raw)
        return [found.get(job_id) for job_id in job_ids]


def _estimated(records: list[bytes]) -> Cells:
    """What a batch is, were it as wide as its longest input: a handler pads where none can see."""
    if length_of(records[0]) == NO_LENGTH:
        return NO_CELLS
    lengths = [longest_of(length_of(raw)) for raw in records]
    real = sum(lengths)
    return Cells(real, len(lengths) * max(lengths) - real)
