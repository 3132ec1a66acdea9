"""Draining a lane: claim, compute, settle, again, until it is empty or the time is up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from umbel_batching.calls import Calls
from umbel_batching.lanes import is_shadow, new_uid, slot_of
from umbel_batching.record import Failure, body_offset
from umbel_batching.scripts import Call, Runner
from umbel_batching.values import Claimed, Settlement
from umbel_config.errors import ModelError, ModelUnavailable
from umbel_registry import LoadedModel
from umbel_worker.board import Board, Order
from umbel_worker.compute import Computed, compute
from umbel_worker.isolate import ends_the_process, failure_of
from umbel_worker.leases import LeaseKeeper
from umbel_worker.models import ModelCache
from umbel_worker.observer import Observer
from umbel_worker.settlement import settlement
from umbel_worker.shutdown import Flag
from umbel_worker.tuners import Tuners

log = logging.getLogger("umbel.worker")


@dataclass(slots=True)
class Tally:
    """What one drain did; shown by Flower as the task's result."""

    jobs: int = 0
    batches: int = 0
    failed: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class _Ready:
    """A batch that is computed and not settled yet."""

    claimed: Claimed
    computed: Computed
    outcome: Settlement
    call: Call[bool]
    began: float


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
            return _Drain(self, lane, token, order, model).run()

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


class _Drain:
    """One drain of one lane.

    Args:
        drainer: whose it is.
        lane: name of the lane.
        token: name of the drain.
        order: what runs its jobs.
        model: that model, or why all jobs fail.
    """

    def __init__(
        self, drainer: Drainer, lane: str, token: str, order: Order, model: LoadedModel | Failure
    ) -> None:
        self._by, self._lane, self._token = drainer, lane, token
        self._order, self._model = order, model
        self._slot, self._tally = slot_of(lane), Tally()
        self._calls = drainer.copies if is_shadow(lane) else drainer.calls

    def run(self) -> Tally:
        """Claims, computes and settles until there is a reason to end."""
        end = time.monotonic() + (0 if is_shadow(self._lane) else self._by.budget_s)
        runner = self._by.runner
        try:
            claimed = runner.run(self._claim())
            while claimed.uids or claimed.left:
                ready = self._process(claimed)
                if self._by.stopping.is_set() or time.monotonic() >= end:
                    if ready is not None:
                        self._note(runner.run(ready.call), ready)
                    break
                claimed = self._settle_and_claim(ready)
            else:
                # The last claim found nothing, and ended the drain in the same step.
                return self._tally
        except BaseException as error:
            self._leave(error)
            raise
        runner.run(self._calls.release(self._slot, self._token))
        return self._tally

    def _leave(self, error: BaseException) -> None:
        """Ends a drain that cannot go on.

        Only what was interrupted from outside goes back without penalty: an error that comes again
        and again must use up the attempts of its jobs.
        """
        call = self._calls.hand_back if ends_the_process(error) else self._calls.release
        self._by.runner.run(call(self._slot, self._token))

    def _claim(self) -> Call[Claimed]:
        return self._calls.claim(
            self._slot,
            batch=new_uid(),
            token=self._token,
            worker=self._by.worker,
            lease_ms=self._by.lease_ms,
            device=self._by.device,
            ran=self._order.ran,
            size=self._size(),
        )

    def _size(self) -> int:
        """The size chosen for an adaptive lane; 0: none."""
        tuners, model = self._by.tuners, self._model
        if tuners is None or isinstance(model, Failure):
            return 0
        return tuners.limit(self._lane, model, self._by.models.timings(self._order.name))

    def _process(self, claimed: Claimed) -> _Ready | None:
        """Computes a batch and prepares its settling; ``None`` when all of its jobs had expired."""
        if not claimed.uids:
            return None
        with self._by.leases.hold(self._slot, claimed.batch, self._token):
            started = time.perf_counter()
            computed = self._computed(claimed)
            micros = round((time.perf_counter() - started) * 1e6)
            outcome = settlement(self._slot, claimed, computed, micros, self._by.device)
        if outcome.ceiling:
            _say_ceiling(outcome, claimed)
        count, tally = len(claimed.uids), self._tally
        tally.jobs += count
        tally.batches += 1
        tally.failed += count - outcome.succeeded
        log.debug(
            "batch %s: %d jobs by %s in %.1f ms", claimed.batch, count, claimed.reason, micros / 1e3
        )
        call = self._calls.settle(self._slot, claimed.batch, outcome)
        return _Ready(claimed, computed, outcome, call, started)

    def _computed(self, claimed: Claimed) -> Computed:
        if isinstance(self._model, Failure):
            return Computed([self._model] * len(claimed.uids))
        payloads = [memoryview(raw)[body_offset(raw) :] for raw in claimed.records]
        return compute(self._model, payloads, claimed.ceiling)

    def _settle_and_claim(self, ready: _Ready | None) -> Claimed:
        """Settles one batch and claims the next in one round trip."""
        claim = self._claim()
        if ready is None:
            return self._by.runner.run(claim)
        written, following = self._by.runner.run_together([ready.call, claim])
        self._note(written, ready)
        return following  # type: ignore[no-any-return]

    def _note(self, written: bool, ready: _Ready) -> None:  # noqa: FBT001
        claimed = ready.claimed
        if written:
            results = ready.computed.results
            ran = self._order.ran
            if self._by.tuners is not None and not isinstance(self._model, Failure):
                self._by.tuners.note(self._lane, ready.outcome, time.perf_counter() - ready.began)
            self._by.observer.settled(self._lane, ran, claimed, results, ready.outcome)
            return
        self._tally.lost += len(claimed.uids)
        log.warning(
            "batch %s: lease lost before it was settled; nothing was written", claimed.batch
        )


def _say_ceiling(outcome: Settlement, claimed: Claimed) -> None:
    if outcome.ceiling < 0:
        log.info("batch %s: full batches fit into the memory of %s", claimed.batch, outcome.device)
    elif outcome.ceiling != claimed.ceiling:
        log.warning(
            "batch %s: of %d jobs, %d at once fit into the memory of %s; batches are that large "
            "now, and a larger one is tried now and then",
            *(claimed.batch, len(claimed.uids), outcome.ceiling, outcome.device),
        )
