"""A job as its caller sees it: its id, its state, its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from umbel._inbox import Inbox
from umbel._outcome import timed_out, value_of
from umbel_batching.census import JobInfo
from umbel_batching.record import State
from umbel_batching.replies import Outcome
from umbel_config.errors import StoreUnavailable

if TYPE_CHECKING:  # a job is made by its client, and asks it for everything
    from umbel._session import Session

#: Seconds between two looks at the store while waiting for an outcome that is pushed.
PUSHED_POLL_S = 1.0
#: The same for a job of another client: nothing is pushed here, so look soon, then less often.
_FIRST_POLL_S, _LONGEST_POLL_S = 0.003, 0.25


class Job:
    """One submitted job; made by ``Client.submit`` and ``Client.job``.

    Safe to use from several threads. The methods raise ``StoreUnavailable`` when Redis is away.

    Attributes:
        id: the job's id; any process can ask for the job by it.
    """

    __slots__ = ("__weakref__", "_session", "id", "inbox", "on_done", "outcome", "store")

    def __init__(
        self,
        session: Session,
        job_id: str,
        inbox: Inbox | None = None,
        *,
        store: str | None = None,
    ) -> None:
        self.id = job_id
        self.outcome: Outcome | None = None
        self.on_done: list[Callable[[Any], None]] | None = None
        self.inbox = inbox
        self.store = session.store if store is None else store
        self._session = session

    def __repr__(self) -> str:
        state = self.outcome.state.value if self.outcome else "pending"
        return f"<Job {self.id} {state}>"

    def state(self) -> State:
        """The job's state now.

        Raises:
            ResultExpired: it ended, and its result is not kept any more.
            JobLost: Redis has lost its data since.
            JobNotFound: it is not known.
        """
        if self.outcome is not None:
            return self.outcome.state
        return self._session.state(self)

    def done(self) -> bool:
        """Whether the job is terminal."""
        return self.state().terminal

    def result(self, timeout: float | None = None) -> Any:
        """Waits for the job's output.

        Args:
            timeout: seconds to wait; ``None`` waits for as long as it takes.

        Returns:
            The output of a model with one output, a dict by name for one with several.

        Raises:
            ResultTimeout: there is none yet; the job goes on.
            JobFailed: the model or its worker failed on it.
            JobExpired: its timeout passed first.
            JobCancelled: it was cancelled.
            ResultExpired: it ended, and its result is not kept any more.
            JobLost: Redis has lost its data since; submit the job again.
            JobNotFound: it is not known.
            StoreUnavailable: Redis never answered this client, or refuses it.
        """
        while True:
            outage = self._await(timeout)
            outcome = self.outcome
            if outcome is not None:
                return value_of(self.id, outcome)
            if timeout is not None:
                raise timed_out(self.id, timeout, outage) from outage

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the job is terminal, also while Redis is away; returns whether it is.

        Args:
            timeout: seconds to wait; ``None`` waits for as long as it takes.

        Raises:
            JobNotFound: it is not known any more; see ``result`` for the kinds.
        """
        self._await(timeout)
        return self.outcome is not None

    def cancel(self) -> bool:
        """Cancels the job.

        Returns:
            True if it is cancelled, by this call or an earlier one; false if it ended otherwise.

        Raises:
            JobNotFound: it is not known any more; see ``state`` for the kinds.
        """
        return self._session.cancel(self)

    def forget(self) -> None:
        """Deletes what is kept of the job: input, result, metadata, evidence, idempotency key.

        A job that has not ended is cancelled first. That it existed stays known for a while: asking
        for it raises ``ResultExpired`` then. To forget it again changes nothing.

        Raises:
            JobLost: Redis has lost its data since.
            JobNotFound: it is not known.
        """
        self._session.forget(self)

    def info(self) -> JobInfo:
        """The job's story: times, batch, flush reason, attempts, worker, history, error.

        Raises:
            JobNotFound: it is not known any more; see ``state`` for the kinds.
        """
        return self._session.info(self)

    def _await(self, timeout: float | None) -> StoreUnavailable | None:
        """Waits for the outcome; returns why the store could not be asked at the end, if so."""
        if self.outcome is not None:
            return None
        inbox, arrived = self._session.inbox(), SimpleQueue[Any]()
        if not inbox.when_done(self, arrived.put):
            return None
        try:
            pushed = self.inbox is inbox and self.store == self._session.store
            return self._watch(arrived, timeout, pushed=pushed)
        finally:
            inbox.no_longer(self, arrived.put)

    def _watch(
        self, arrived: SimpleQueue[Any], timeout: float | None, *, pushed: bool
    ) -> StoreUnavailable | None:
        end = float("inf") if timeout is None else time.monotonic() + timeout
        pause = PUSHED_POLL_S if pushed else 0.0
        while True:
            with suppress(Empty):
                arrived.get(timeout=max(0.0, min(pause, end - time.monotonic())))
                return None
            outage = self._session.look([self])
            if self.outcome is not None:
                return None
            if time.monotonic() >= end:
                return outage
            pause = PUSHED_POLL_S if pushed or outage else next_pause(pause)


def next_pause(pause: float) -> float:
    """Seconds until the next look at a job of another client, after one of ``pause``."""
    return min(max(pause * 1.5, _FIRST_POLL_S), _LONGEST_POLL_S)
