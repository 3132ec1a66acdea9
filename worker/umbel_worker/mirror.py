"""Copies of jobs for shadow versions: sampled by workers, at nobody's cost, and shed first."""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass

from redis.exceptions import RedisError

from umbel_batching.calls import Calls
from umbel_batching.lanes import Lane, new_uid, split_name
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import (
    NO_REPLY,
    Priority,
    State,
    body_offset,
    encode_meta,
    length_of,
    state_of,
    tail,
)
from umbel_batching.scripts import Runner
from umbel_batching.values import Claimed, NewJob, Settlement
from umbel_config.errors import LaneFull
from umbel_registry import Manifest
from umbel_registry.edits import Standing
from umbel_worker.board import Board

log = logging.getLogger("umbel.worker")

#: Field of a copy's metadata that names the job it is a copy of.
COPY_OF = "copy_of"
#: A copy that no worker had time for is given up after so long, ms.
_PATIENCE_MS = 60_000
#: Most copies that wait for one version; more are shed.
_MOST_WAITING = 1024
#: Copies wait for neighbours at least so long, ms: nobody waits for them.
_WAIT_MS = 100
#: Batches whose copies are not made yet; further ones are shed.
_BACKLOG = 32


@dataclass(frozen=True, slots=True)
class _Sample:
    """Jobs to be copied: the lane they were in, their uids and their records as claimed."""

    lane: str
    uids: list[str]
    records: list[bytes]


class Mirror:
    """Submits copies of answered jobs to the shadows of their model's route.

    The copies are made by a thread of their own, after the answer has gone out: no caller waits
    for them or hears of them. Where jobs queue up none are made.

    Args:
        runner: runs scripts, from any thread.
        calls: of the namespace; their retention is that of the copies.
        board: what is known of routes.
    """

    def __init__(self, runner: Runner, calls: Calls, board: Board) -> None:
        self._runner, self._calls, self._board = runner, calls, board
        self._samples: queue.Queue[_Sample | None] = queue.Queue(_BACKLOG)
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def offer(self, lane: str, claimed: Claimed, outcome: Settlement) -> int:
        """Has some of a batch's jobs copied; never waits and never raises for it.

        Args:
            lane: the lane they were in.
            claimed: the batch as it was claimed.
            outcome: what became of it.

        Returns:
            Jobs that were taken for a sample.
        """
        model, version = split_name(lane)
        standing = self._board.of(model)
        route = standing.traffic.route if standing else None
        if standing is None or route is None or not route.shadows or version not in route.weights:
            return 0
        manifest = standing.manifests.get(version)
        if manifest is None or claimed.left >= _in_force(standing, manifest).max_batch_size:
            return 0  # jobs queue up: what is idle now is needed for them
        most = max(route.shadows.values())
        chosen = [
            place
            for place, uid in enumerate(claimed.uids)
            if point(uid) < most and state_of(chr(outcome.records[place][0])) is State.SUCCEEDED
        ]
        if not chosen:
            return 0
        sample = _Sample(
            lane,
            [claimed.uids[place] for place in chosen],
            [claimed.records[place] for place in chosen],
        )
        try:
            self._samples.put_nowait(sample)
        except queue.Full:
            return 0
        self._start()
        return len(chosen)

    def stop(self) -> None:
        """Ends the thread; copies that are not made yet are shed."""
        with self._starting:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        while True:
            try:
                self._samples.put_nowait(None)
                break
            except queue.Full:
                try:
                    self._samples.get_nowait()
                except queue.Empty:
                    continue
        thread.join()

    def _start(self) -> None:
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._run, name="umbel-mirror", daemon=True
                    )
                    self._thread.start()

    def _run(self) -> None:
        while (sample := self._samples.get()) is not None:
            try:
                self._copy(sample)
            except RedisError as error:
                log.debug("copies for shadows of %s shed: %s", sample.lane, error)
            except Exception:
                log.exception("copies for shadows of %s shed", sample.lane)

    def _copy(self, sample: _Sample) -> None:
        model, _ = split_name(sample.lane)
        standing = self._board.of(model)
        route = standing.traffic.route if standing else None
        if standing is None or route is None:
            return
        slot = Lane(model=model, version=split_name(sample.lane)[1]).slot
        for version, fraction in route.shadows.items():
            manifest = standing.manifests.get(version)
            jobs = [
                NewJob(new_uid(), _copied(f"{slot}-{uid}", record), _PATIENCE_MS)
                for uid, record in zip(sample.uids, sample.records, strict=True)
                if point(uid) < fraction
            ]
            if manifest is None or not jobs:
                continue
            try:
                self._runner.run(self._calls.submit(shadow_lane(standing, manifest), jobs))
            except LaneFull:
                log.debug("%d copies for %s %s shed", len(jobs), model, version)


def _in_force(standing: Standing, manifest: Manifest) -> BatchPolicy:
    return standing.traffic.policy_of(manifest.version, manifest.policy)


def point(uid: str) -> float:
    """Where a job falls between 0 and 1: its copies go to the shadows whose fraction is above.

    Args:
        uid: whose last digits are random.
    """
    return int(uid[-8:], 16) / 2**32


def shadow_lane(standing: Standing, manifest: Manifest) -> Lane:
    """The lane of a version's copies: small, patient, and apart from the jobs that people wait for.

    Args:
        standing: of the model.
        manifest: of the version.
    """
    policy = _in_force(standing, manifest)
    update = {
        "max_queue": min(policy.max_queue, _MOST_WAITING),
        "max_wait_ms": max(policy.max_wait_ms, _WAIT_MS),
        "single_flight": False,
        "cache_ttl_s": 0,
    }
    return Lane(
        model=manifest.name,
        version=manifest.version,
        queue=manifest.queue,
        policy=policy.model_copy(update=update),
        shadow=True,
    )


def _copied(job_id: str, record: bytes) -> bytes:
    meta = encode_meta({COPY_OF: job_id})
    start = tail(NO_REPLY, meta, Priority.LOW, length=length_of(record))
    return start + record[body_offset(record) :]
