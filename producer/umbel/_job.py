"""A job as its caller sees it: its id, its state, its result."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from umbel._inbox import Inbox
from umbel._outcome import timed_out, value_of
from umbel_batching.census import JobInfo
from umbel_batching.record import State
from umbel_batching.replies import Outcome

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

    __slots__ = ("__weakref__", "_inbox", "_session", "id", "on_done", "outcome")

    def __init__(self, session: Session, job_id: str, inbox: Inbox | None = None) -> None:
        self.id = job_id
        self.outcome: Outcome | None = None
        self.on_done: list[Callable[[Any], None]] | None = None
        self._session = session
        self._inbox = inbox  # where its outcome is pushed to, if it was submitted here

    def __repr__(self) -> str:
        state = self.outcome.state.value if self.outcome else "pending"
        return f"<Job {self.id} {state}>"

    def state(self) -> State:
        """The job's state now.

        Raises:
            JobNotFound: it is not known, or its result has expired.
        """
        if self.outcome is not None:
            return self.outcome.state
        return self._session.state(self.id)

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
            JobNotFound: it is not known, or its result has expired.
        """
        self.wait(timeout)
        if self.outcome is None:
            raise timed_out(self.id, timeout or 0)
        return value_of(self.id, self.outcome)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the job is terminal; returns whether it is.

        Args:
            timeout: seconds to wait; ``None`` waits for as long as it takes.

        Raises:
            JobNotFound: it is not known, or its result has expired.
        """
        if self.outcome is not None:
            return True
        inbox, arrived = self._session.inbox(), threading.Event()

        def wake(_: Any) -> None:
            arrived.set()

        if not inbox.when_done(self, wake):
            return True
        try:
            return self._wait(arrived, timeout, pushed=self._inbox is inbox)
        finally:
            inbox.no_longer(self, wake)

    def cancel(self) -> bool:
        """Cancels the job.

        Returns:
            True if it is cancelled, by this call or an earlier one; false if it ended otherwise.

        Raises:
            JobNotFound: it is not known, or its result has expired.
        """
        return self._session.cancel(self.id)

    def info(self) -> JobInfo:
        """The job's story: times, batch, flush reason, attempts, worker, error.

        Raises:
            JobNotFound: it is not known, or its result has expired.
        """
        return self._session.info(self.id)

    def _wait(self, arrived: threading.Event, timeout: float | None, *, pushed: bool) -> bool:
        end = float("inf") if timeout is None else time.monotonic() + timeout
        pause = PUSHED_POLL_S if pushed else 0.0
        while True:
            if arrived.wait(max(0.0, min(pause, end - time.monotonic()))):
                return True
            self._session.poll([self])
            if self.outcome is not None:
                return True
            if time.monotonic() >= end:
                return False
            pause = pause if pushed else next_pause(pause)


def next_pause(pause: float) -> float:
    """Seconds until the next look at a job of another client, after one of ``pause``."""
    return min(max(pause * 1.5, _FIRST_POLL_S), _LONGEST_POLL_S)
