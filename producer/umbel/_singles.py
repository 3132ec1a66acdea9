"""Single submits of one lane that share script calls: which go together, who gets which answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from umbel._inbox import Waiting
from umbel._submission import Bundle, conflict, first_bundle
from umbel_batching.record import receiver_of
from umbel_batching.values import Accepted, NewJob
from umbel_config.errors import LaneFull, ReceiverFull, StoreFull

W = TypeVar("W", bound=Waiting)
#: Refusals of a whole call that may not concern each of its jobs.
_Full = LaneFull | StoreFull


class Single(Generic[W]):
    """One job of one caller that waits for what becomes of it.

    Args:
        new: the job.

    Attributes:
        new: the job.
        gone: whether its caller does not wait any more.
        job: the job as its caller gets it, once it is accepted.
        error: why it is not, once that is known.
    """

    __slots__ = ("error", "gone", "job", "new")

    def __init__(self, new: NewJob) -> None:
        self.new = new
        self.gone = False
        self.job: W | None = None
        self.error: Exception | None = None

    @property
    def pending(self) -> bool:
        """Whether somebody still waits for an answer."""
        return self.job is None and self.error is None and not self.gone

    def accept(self, job: W) -> None:
        """Gives the caller its job; the first answer counts."""
        if self.pending:
            self.job = job
            self.told()

    def refuse(self, error: Exception) -> None:
        """Gives the caller its error; the first answer counts."""
        if self.pending:
            self.error = error
            self.told()

    def told(self) -> None:
        """Wakes the caller."""


S = TypeVar("S", bound=Single[Any])


@dataclass(slots=True)
class Part(Generic[S]):
    """Jobs that go in one script call.

    Attributes:
        singles: the jobs.
        sent: whether a call with these jobs may have run whose answer nobody heard. Such a part
            must go by itself: the script takes a call whose first job it knows for one that is
            sent again, and would queue no other job of it.
    """

    singles: list[S]
    sent: bool = False

    @property
    def new(self) -> list[NewJob]:
        """The jobs as the script call takes them."""
        return [single.new for single in self.singles]


class Gathering(Generic[S, W]):
    """The single submits of one lane that wait for a call, and the answers of calls.

    A call that is refused as a whole is cut and goes again, until each of its jobs has the answer
    that it would have had alone. Nothing here is I/O, or locked.
    """

    def __init__(self) -> None:
        self._waiting: deque[S] = deque()
        self._again: deque[Part[S]] = deque()

    def add(self, single: S) -> None:
        """Has a job wait for the next call."""
        self._waiting.append(single)

    def front(self) -> S | None:
        """The first job that waits; ``None`` if none does."""
        parts = (single for part in self._again for single in part.singles)
        for waiting in (parts, self._waiting):
            found = next((single for single in waiting if single.pending), None)
            if found is not None:
                return found
        return None

    def take(self) -> Part[S] | None:
        """The jobs of the next call, bounded in number and bytes; ``None`` if no job waits."""
        while self._again:
            part = self._again.popleft()
            part.singles = [single for single in part.singles if single.pending]
            if part.singles:
                return part
        while self._waiting:
            count = first_bundle(single.new for single in self._waiting)
            taken = [self._waiting.popleft() for _ in range(count)]
            part = Part([single for single in taken if single.pending])
            if part.singles:
                return part
        return None

    def recall(self, part: Part[S]) -> None:
        """Puts a part back whose answer nobody heard; to send it again changes nothing."""
        part.sent = True
        self._again.appendleft(part)

    def accepted(self, part: Part[S], bundle: Bundle[W], answer: Accepted) -> None:
        """Tells callers what the script answered to the call of a part.

        A key that was used with another input keeps nobody else out: the others go again.

        Args:
            part: the jobs of the call.
            bundle: the same jobs on the side of their callers.
            answer: of the script.
        """
        conflicts = {place: known for place, known in answer.known.items() if not known.same}
        if not conflicts:
            for single, job in zip(part.singles, bundle.accepted(answer), strict=True):
                single.accept(job)
            return
        bundle.refused()
        for place, known in conflicts.items():
            part.singles[place].refuse(conflict(known))
        self._cut([part.singles])

    def failed(self, part: Part[S], bundle: Bundle[W], error: Exception) -> None:
        """Tells callers why the call of a part failed, or has it go again in smaller parts.

        Args:
            part: the jobs of the call.
            bundle: the same jobs on the side of their callers.
            error: what the call raised; nothing of it was queued, if it says that all is full.
        """
        bundle.refused()
        if isinstance(error, _Full) and len(part.singles) > 1:
            self._cut(_smaller(part.singles, error))
            return
        for place, single in enumerate(part.singles):
            single.refuse(twin(error) if place else error)
        if isinstance(error, _Full):
            self._rule_out(part.singles[0].new, error)

    def abandon(self, act: Callable[[S], object]) -> None:
        """Calls ``act`` with every job that waits, and lets go of them all."""
        while (part := self.take()) is not None:
            for single in part.singles:
                act(single)

    def _cut(self, pieces: Iterable[Sequence[S]]) -> None:
        parts = [Part([single for single in piece if single.pending]) for piece in pieces]
        self._again.extendleft(reversed(parts))

    def _rule_out(self, refused: NewJob, error: _Full) -> None:
        """Refuses what was cut off with a job that has no room alone, and needs as much room.

        Not what has a key: that may be known, and needs none then. Nor what may be in already.
        """
        out = _needs_as_much(refused, error)
        for part in self._again:
            for single in () if part.sent else part.singles:
                if not single.new.fingerprint and out(single.new):
                    single.refuse(twin(error))


def _smaller(singles: list[S], error: _Full) -> list[list[S]]:
    """Cuts a refused call: by receivers, if one of them is full, or into halves."""
    if isinstance(error, ReceiverFull):
        by_receiver: dict[bytes, list[S]] = {}
        for single in singles:
            by_receiver.setdefault(receiver_of(single.new.tail), []).append(single)
        if len(by_receiver) > 1:
            return list(by_receiver.values())
    half = len(singles) // 2
    return [singles[:half], singles[half:]]


def _needs_as_much(refused: NewJob, error: _Full) -> Callable[[NewJob], bool]:
    if isinstance(error, ReceiverFull):
        receiver = receiver_of(refused.tail)
        return lambda new: receiver_of(new.tail) == receiver
    size = len(refused.tail)
    return lambda new: len(new.tail) >= size


def twin(error: Exception) -> Exception:
    """An error like ``error`` for another caller: each adds its own traceback to its own."""
    kind = type(error)
    # Not by ``copy``: that calls the class with the message alone, and some take more.
    other: Exception = kind.__new__(kind, *error.args)
    other.__dict__.update(error.__dict__)
    other.__cause__, other.__suppress_context__ = error.__cause__, error.__suppress_context__
    return other
