"""The rounds of one drain: claim, compute, settle, again, until its lane stays empty."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from umbel_batching.lanes import is_shadow, new_uid, slot_of
from umbel_batching.record import Failure, body_offsets
from umbel_batching.scripts import Call
from umbel_batching.underway import Underway
from umbel_batching.values import Claimed, Settlement
from umbel_registry import LoadedModel
from umbel_worker.board import Order
from umbel_worker.compute import Computed, compute
from umbel_worker.isolate import ends_the_process
from umbel_worker.settlement import settlement

if TYPE_CHECKING:  # a drainer makes its drains
    from umbel_worker.drain import Drainer

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
    """A batch that is computed and not settled yet; ``began`` by ``time.perf_counter``."""

    claimed: Claimed
    computed: Computed
    outcome: Settlement
    began: float


class Rounds:
    """One drain of one lane.

    While a batch computes, Redis settles the one before it and hands out the next, if the lane
    holds a full one: a batch that could still grow is claimed only when it can begin.

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
        self._copies = is_shadow(lane)
        self._calls = drainer.copies if self._copies else drainer.calls
        self._end = time.monotonic() + (0 if self._copies else drainer.budget_s)

    def run(self) -> Tally:
        """Claims, computes and settles until there is a reason to end."""
        try:
            self._go_round()
        except BaseException as error:
            self._leave(error)
            raise
        return self._tally

    def _go_round(self) -> None:
        """Ends when the last claim found nothing, and so ended the drain, or the time is up."""
        ready: _Ready | None = None  # of the round before, where its successor was claimed ahead
        claimed = self._claim_now(was_idle=True)
        while claimed.uids or claimed.left or claimed.stays:
            if claimed.stays:
                called = self._by.idle.wait(self._slot, self._token, self._by.stopping)
                if self._over():
                    self._by.runner.run(self._calls.release(self._slot, self._token))
                    return
                claimed = self._claim_now(was_idle=True, stays=called)
                continue
            ready, ahead = self._round(claimed, ready)
            if self._over():
                self._finish(ready)
                return
            if ahead is None:
                ready, claimed = None, self._settle_and_claim(ready)
            elif _too_large(ahead, ready):
                self._finish(ready)
                ready, claimed = None, self._claim_now(was_idle=False)
            else:
                claimed = ahead

    def _round(
        self, claimed: Claimed, before: _Ready | None
    ) -> tuple[_Ready | None, Claimed | None]:
        """Computes a batch; returns it, and the full one behind it that was claimed meanwhile."""
        following = new_uid() if self._may_claim_ahead(claimed) else ""
        calls: list[Call[Any]] = []
        if before is not None:
            calls.append(self._settle(before, begins=claimed.batch))
        if following:
            calls.append(self._claim(following, ahead=True))
        with ExitStack() as held:
            if following:
                held.enter_context(self._hold(following, unsure=True))
            if before is not None:  # its settling may have to be sent again, behind this batch
                held.enter_context(self._hold(before.claimed.batch, unsure=True))
            underway = held.enter_context(Underway(self._by.runner, calls))
            over = time.perf_counter()  # the slot is this batch's from here on
            ready = self._process(claimed)
            replies = underway.replies()
        if before is not None:
            self._note(replies[0], before, over)
        return ready, replies[-1] if following and replies[-1].uids else None

    def _hold(self, batch: str, *, unsure: bool = False) -> AbstractContextManager[None]:
        return self._by.leases.hold(self._slot, batch, self._token, unsure=unsure)

    def _may_claim_ahead(self, claimed: Claimed) -> bool:
        full = claimed.reason == "size" and claimed.left >= len(claimed.uids)
        return full and not self._copies and not self._over()

    def _over(self) -> bool:
        return self._by.stopping.is_set() or time.monotonic() >= self._end

    def _finish(self, ready: _Ready | None) -> None:
        """Settles what is computed and ends the drain; what was claimed ahead goes back."""
        back = self._calls.hand_back(self._slot, self._token)
        if ready is None:
            self._by.runner.run(back)
            return
        written, _ = self._by.runner.run_together([self._settle(ready), back])
        self._note(written, ready)

    def _leave(self, error: BaseException) -> None:
        """Ends a drain that cannot go on.

        Only what was interrupted from outside goes back without penalty: an error that comes again
        and again must use up the attempts of its jobs.
        """
        call = self._calls.hand_back if ends_the_process(error) else self._calls.release
        self._by.runner.run(call(self._slot, self._token))

    def _claim(
        self, batch: str, *, ahead: bool = False, was_idle: bool = False, stays: bool = True
    ) -> Call[Claimed]:
        stays = stays and not ahead and not self._copies
        return self._calls.claim(
            self._slot,
            batch=batch,
            token=self._token,
            worker=self._by.worker,
            lease_ms=self._by.lease_ms,
            device=self._by.device,
            ran=self._order.ran,
            stay_ms=self._by.idle.stay_ms if stays else 0,
            ahead=ahead,
            was_idle=was_idle,
            size=self._size(),
        )

    def _size(self) -> int:
        """The size chosen for an adaptive lane; 0: none."""
        tuners, model = self._by.tuners, self._model
        if tuners is None or isinstance(model, Failure):
            return 0
        return tuners.limit(self._lane, model, self._by.models.timings(self._order.name))

    def _claim_now(self, *, was_idle: bool, stays: bool = True) -> Claimed:
        return self._by.runner.run(self._claim(new_uid(), was_idle=was_idle, stays=stays))

    def _settle(self, ready: _Ready, begins: str = "") -> Call[bool]:
        return self._calls.settle(self._slot, ready.claimed.batch, ready.outcome, begins)

    def _process(self, claimed: Claimed) -> _Ready | None:
        """Computes a batch and prepares its settling; ``None`` when all of its jobs had expired."""
        if not claimed.uids:
            return None
        with self._hold(claimed.batch):
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
        return _Ready(claimed, computed, outcome, started)

    def _computed(self, claimed: Claimed) -> Computed:
        if isinstance(self._model, Failure):
            return Computed([self._model] * len(claimed.uids))
        places = body_offsets(claimed.records)
        payloads = [memoryview(raw)[at:] for raw, at in zip(claimed.records, places, strict=True)]
        return compute(self._model, payloads, claimed.ceiling)

    def _settle_and_claim(self, ready: _Ready | None) -> Claimed:
        """Settles one batch and claims the next in one round trip."""
        calls: list[Call[Any]] = [] if ready is None else [self._settle(ready)]
        replies = self._by.runner.run_together([*calls, self._claim(new_uid())])
        if ready is not None:
            self._note(replies[0], ready)
        return replies[-1]  # type: ignore[no-any-return]

    def _note(self, written: bool, ready: _Ready, over: float | None = None) -> None:  # noqa: FBT001
        """Takes note of what became of a batch that held the slot until ``over``, or until now."""
        claimed = ready.claimed
        if written:
            if self._by.tuners is not None and not isinstance(self._model, Failure):
                took_s = (over or time.perf_counter()) - ready.began
                self._by.tuners.note(self._lane, ready.outcome, took_s)
            ran, computed = self._order.ran, ready.computed
            self._by.observer.settled(self._lane, ran, claimed, computed, ready.outcome)
            return
        self._tally.lost += len(claimed.uids)
        log.warning(
            "batch %s: lease lost before it was settled; nothing was written", claimed.batch
        )


def _too_large(ahead: Claimed, ready: _Ready | None) -> bool:
    """Whether a batch was claimed before it was learnt that so many do not fit into memory."""
    return ready is not None and 0 < ready.outcome.ceiling < len(ahead.uids)


def _say_ceiling(outcome: Settlement, claimed: Claimed) -> None:
    if outcome.ceiling < 0:
        log.info("batch %s: full batches fit into the memory of %s", claimed.batch, outcome.device)
    elif outcome.ceiling != claimed.ceiling:
        log.warning(
            "batch %s: of %d jobs, %d at once fit into the memory of %s; batches are that large "
            "now, and a larger one is tried now and then",
            *(claimed.batch, len(claimed.uids), outcome.ceiling, outcome.device),
        )
