"""Draining lanes in one worker process: what a drain needs, and the model that it runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from umbel_batching.calls import Calls
from umbel_batching.lanes import is_shadow
from umbel_batching.record import Failure
from umbel_batching.scripts import Runner
from umbel_config.errors import ModelError, ModelUnavailable
from umbel_registry import LoadedModel
from umbel_worker.board import Board, Order
from umbel_worker.idle import Idle
from umbel_worker.isolate import failure_of
from umbel_worker.leases import LeaseKeeper
from umbel_worker.models import ModelCache
from umbel_worker.observer import Observer
from umbel_worker.rounds import Rounds, Tally
from umbel_worker.shutdown import Flag
from umbel_worker.tuners import Tuners

log = logging.getLogger("umbel.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drainer:
    """Drains lanes in one worker process; may be used from several threads.

    Attributes:
        runner: runs scripts.
        calls: of the namespace.
        copies: the calls for lanes of shadows, whose outcomes are kept for a short time only.
        models: the loaded models.
        leases: keeps the leases of running batches.
        board: what is known of routes and retired versions.
        observer: takes note of what was settled.
        worker: name of this process, kept as evidence with each batch.
        lease_ms: length of a lease.
        budget_s: longest time of one drain, so that other lanes have their turn.
        idle: where a drain whose lane is empty stays for the next job.
        device: the kind of device it runs on, for which a ceiling is remembered.
        stopping: set when the worker shuts down; a drain then ends with its batch.
        tuners: choose the batch sizes of adaptive lanes; without them no lane is.
    """

    runner: Runner
    calls: Calls
    copies: Calls
    models: ModelCache
    leases: LeaseKeeper
    board: Board
    observer: Observer
    worker: str
    lease_ms: int
    budget_s: float
    idle: Idle
    device: str = "cpu"
    stopping: Flag = field(default_factory=threading.Event)
    tuners: Tuners | None = None

    def drain(self, lane: str, token: str) -> Tally:
        """Runs batches of ``lane`` until it is empty, or the budget is spent.

        Of a shadow's lane it runs one batch: others have their turn first.

        Args:
            lane: name of the lane.
            token: name of this drain, under which the flusher counts it.

        Raises:
            OSError: the model's files cannot be read just now; no job was touched.
            ModelUnavailable: this machine lacks them, a module or memory; no job was touched.
        """
        # Not released if this raises: the flusher then waits for this drain, longer each time,
        # before it sends another. Released, it would send one at once, and again.
        order = self.board.order(lane)
        with self._model(lane, order) as model:
            return Rounds(self, lane, token, order, model).run()

    @contextmanager
    def _model(self, lane: str, order: Order) -> Iterator[LoadedModel | Failure]:
        """The model, or why every job of its lane must fail: it will not load on a second try."""
        model: LoadedModel | Failure
        if order.failure is not None:
            yield order.failure
            return
        with ExitStack() as held:
            try:
                if is_shadow(lane) and not self.models.preload(order.name):
                    raise ModelUnavailable(f"{order.name} is a shadow, and memory has no room")
                model = held.enter_context(self.models.using(order.name))
            except ModelUnavailable:
                raise
            except ModelError as error:
                log.error("lane %s: %s", lane, error)  # noqa: TRY400  (a typed error, not a bug)
                model = failure_of(error)
            yield model
