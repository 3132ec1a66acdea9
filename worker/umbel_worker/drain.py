"""Draining a lane: claim, compute, settle, again, until it is empty or the time is up."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field

import msgspec

from umbel_batching.calls import Calls
from umbel_batching.lanes import new_uid, slot_of
from umbel_batching.record import NO_REPLY, Failure, State, body_offset, reply_of, settled
from umbel_batching.replies import push
from umbel_batching.scripts import Call, Runner
from umbel_batching.values import Claimed, Settlement
from umbel_config.errors import ModelError, ModelUnavailable
from umbel_registry import LoadedModel
from umbel_worker.compute import Computed, compute
from umbel_worker.isolate import ends_the_process, failure_of
from umbel_worker.leases import LeaseKeeper
from umbel_worker.models import ModelCache
from umbel_worker.shutdown import Flag

log = logging.getLogger("umbel.worker")
_NOBODY = NO_REPLY.encode()


@dataclass(slots=True)
class Tally:
    """What one drain did; shown by Flower as the task's result."""

    jobs: int = 0
    batches: int = 0
    failed: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drainer:
    """Drains lanes in one worker process; may be used from several threads.

    Attributes:
        runner: runs scripts.
        calls: of the namespace.
        models: the loaded models.
        leases: keeps the leases of running batches.
        worker: name of this process, kept as evidence with each batch.
        lease_ms: length of a lease.
        budget_s: longest time of one drain, so that other lanes have their turn.
        device: the kind of device it runs on, for which a ceiling is remembered.
        stopping: set when the worker shuts down; a drain then ends with its batch.
    """

    runner: Runner
    calls: Calls
    models: ModelCache
    leases: LeaseKeeper
    worker: str
    lease_ms: int
    budget_s: float
    device: str = "cpu"
    stopping: Flag = field(default_factory=threading.Event)

    def drain(self, lane: str, token: str) -> Tally:
        """Runs batches of ``lane`` until it is empty, or the budget is spent.

        Args:
            lane: name of the lane.
            token: name of this drain, under which the flusher counts it.

        Raises:
            OSError: the model's files cannot be read just now; no job was touched.
            ModelUnavailable: this machine lacks them, or a module; no job was touched.
        """
        slot, tally = slot_of(lane), Tally()
        # Not released if this raises: the flusher then waits for this drain, longer each time,
        # before it sends another. Released, it would send one at once, and again.
        model = self._model(lane)
        end = time.monotonic() + self.budget_s
        try:
            claimed = self.runner.run(self._claim(slot, token))
            while claimed.uids or claimed.left:
                settle = self._process(slot, token, model, claimed, tally)
                if self.stopping.is_set() or time.monotonic() >= end:
                    self._settle(settle, claimed, tally)
                    break
                claimed = self._settle_and_claim(settle, slot, token, claimed, tally)
            else:
                return tally  # the last claim found nothing, and ended the drain in the same step
        except BaseException as error:
            self._leave(slot, token, error)
            raise
        self.runner.run(self.calls.release(slot, token))
        return tally

    def _leave(self, slot: str, token: str, error: BaseException) -> None:
        """Ends a drain that cannot go on.

        Only what was interrupted from outside goes back without penalty: an error that comes again
        and again must use up the attempts of its jobs.
        """
        call = self.calls.hand_back if ends_the_process(error) else self.calls.release
        self.runner.run(call(slot, token))

    def _model(self, lane: str) -> LoadedModel | Failure:
        """The model, or why every job of its lane must fail: it will not load on a second try."""
        try:
            return self.models.get(lane)
        except ModelUnavailable:
            raise
        except ModelError as error:
            log.error("lane %s: %s", lane, error)  # noqa: TRY400  (a typed error, not a bug)
            return failure_of(error)

    def _claim(self, slot: str, token: str) -> Call[Claimed]:
        return self.calls.claim(
            slot,
            batch=new_uid(),
            token=token,
            worker=self.worker,
            lease_ms=self.lease_ms,
            device=self.device,
        )

    def _process(
        self,
        slot: str,
        token: str,
        model: LoadedModel | Failure,
        claimed: Claimed,
        tally: Tally,
    ) -> Call[bool] | None:
        """Computes a batch and prepares its settling; ``None`` when all of its jobs had expired."""
        if not claimed.uids:
            return None
        with self.leases.hold(slot, claimed.batch, token):
            started = time.perf_counter()
            computed = self._computed(model, claimed)
            micros = round((time.perf_counter() - started) * 1e6)
            outcome = settlement(slot, claimed, computed, micros, self.device)
        if outcome.ceiling:
            _say_ceiling(outcome, claimed)
        count = len(claimed.uids)
        tally.jobs += count
        tally.batches += 1
        tally.failed += count - outcome.succeeded
        log.debug(
            "batch %s: %d jobs by %s in %.1f ms", claimed.batch, count, claimed.reason, micros / 1e3
        )
        return self.calls.settle(slot, claimed.batch, outcome)

    def _computed(self, model: LoadedModel | Failure, claimed: Claimed) -> Computed:
        if isinstance(model, Failure):
            return Computed([model] * len(claimed.uids))
        payloads = [memoryview(raw)[body_offset(raw) :] for raw in claimed.records]
        return compute(model, payloads, claimed.ceiling)

    def _settle(self, settle: Call[bool] | None, claimed: Claimed, tally: Tally) -> None:
        if settle is not None:
            self._note(self.runner.run(settle), claimed, tally)

    def _settle_and_claim(
        self, settle: Call[bool] | None, slot: str, token: str, claimed: Claimed, tally: Tally
    ) -> Claimed:
        """Settles one batch and claims the next in one round trip."""
        claim = self._claim(slot, token)
        if settle is None:
            return self.runner.run(claim)
        written, following = self.runner.run_together([settle, claim])
        self._note(written, claimed, tally)
        return following  # type: ignore[no-any-return]

    def _note(self, written: bool, claimed: Claimed, tally: Tally) -> None:  # noqa: FBT001
        if not written:
            tally.lost += len(claimed.uids)
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


def settlement(
    slot: str, claimed: Claimed, computed: Computed, compute_us: int, device: str
) -> Settlement:
    """Turns the results of a batch into records, and into one message per waiting client.

    Args:
        slot: the lane.
        claimed: the batch.
        computed: one result per job, in order, and what was learned about its size.
        compute_us: microseconds that computing took.
        device: the kind of device it ran on.
    """
    results = computed.results
    states = [State.FAILED if isinstance(out, Failure) else State.SUCCEEDED for out in results]
    bodies = [msgspec.msgpack.encode(out) if isinstance(out, Failure) else out for out in results]
    records = [
        settled(raw, state, body)
        for raw, state, body in zip(claimed.records, states, bodies, strict=True)
    ]
    waiting: defaultdict[bytes, list[int]] = defaultdict(list)
    for place, raw in enumerate(claimed.records):
        waiting[reply_of(raw)].append(place)
    waiting.pop(_NOBODY, None)
    messages = {
        client.decode(): push(
            slot,
            [claimed.uids[place] for place in places],
            [states[place] for place in places],
            [bodies[place] for place in places],
        )
        for client, places in waiting.items()
    }
    succeeded = states.count(State.SUCCEEDED)
    return Settlement(
        uids=claimed.uids,
        records=records,
        succeeded=succeeded,
        messages=messages,
        compute_us=compute_us,
        device=device,
        ceiling=computed.ceiling,
    )
