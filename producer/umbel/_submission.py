"""Jobs on their way into a lane: in bundles, as many as find room, each in the inbox in time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

from umbel._inbox import Inbox, Waiting
from umbel._intake import Group, Intake
from umbel._job import Job
from umbel_batching.values import Accepted, Known, NewJob
from umbel_config.errors import IdempotencyConflict, LaneFull, StoreUnavailable

if TYPE_CHECKING:  # a session knows nothing of submissions
    from umbel._session import Session

W = TypeVar("W", bound=Waiting)
#: Jobs, and bytes of them, that one script call puts into a lane.
BUNDLE, BUNDLE_BYTES = 256, 8 * 2**20


def bundled(jobs: Sequence[NewJob]) -> Iterator[Sequence[NewJob]]:
    """Cuts jobs into bundles that one script call takes, bounded in number and in bytes.

    Redis does nothing else while it runs a script, and closes connections that send it too much.
    """
    start = 0
    while start < len(jobs):
        end = start + first_bundle(islice(jobs, start, None))
        yield jobs[start:end]
        start = end


def first_bundle(jobs: Iterable[NewJob]) -> int:
    """How many of ``jobs`` one script call takes: at least one, if there is one."""
    count = size = 0
    for job in islice(jobs, BUNDLE):
        size += len(job.tail)
        if size > BUNDLE_BYTES and count:
            break
        count += 1
    return count


def portions(count: int) -> Iterator[int]:
    """Sizes to try in turn where ``count`` jobs at once found no room: half, a quarter, ... one."""
    while count > 1:
        count //= 2
        yield count


class Bundle(Generic[W]):
    """The jobs of one script call on the caller's side, expected from before the call on.

    Args:
        inbox: where their outcomes will be delivered.
        make: makes a job by its id; the inbox is given for one that this client submits.
        slot: of their lane.
        new: the jobs.
    """

    def __init__(
        self, inbox: Inbox, make: Callable[[str, Inbox | None], W], slot: str, new: Sequence[NewJob]
    ) -> None:
        self._inbox, self._make, self._new = inbox, make, new
        self._made = [make(f"{slot}-{job.uid}", inbox) for job in new]
        self._jobs = inbox.expect(self._made)

    def accepted(self, answer: Accepted) -> list[W]:
        """The jobs as the store has them.

        Raises:
            IdempotencyConflict: the key of one of them was used before with another input.
        """
        for known in answer.known.values():
            if not known.same:
                raise conflict(known)
        for place, known in answer.known.items():
            self._found(place, f"{known.slot}-{known.uid}")
        if any(job.fingerprint for job in self._new):  # a like of it may have been forgotten since
            self._inbox.expect(self._jobs)
        return self._jobs

    def refused(self) -> None:
        """Forgets the jobs, as none was accepted."""
        self._inbox.forget(self._made)

    def _found(self, place: int, job_id: str) -> None:
        """Puts the job in place that an idempotency key belongs to."""
        made = self._made[place]
        if made.id != job_id:
            self._inbox.forget([made])
            self._jobs[place] = self._inbox.expect([self._make(job_id, None)])[0]
        elif self._jobs[place] is made:
            made.inbox = None  # submitted by whoever used the key first, and maybe done long ago


def conflict(known: Known) -> IdempotencyConflict:
    """The error for a key that was used before with another input."""
    job_id = f"{known.slot}-{known.uid}"
    return IdempotencyConflict(
        f"An idempotency key was used before with another input or version, for job {job_id}. "
        "Ask for that job, or give the new input a key of its own.",
        job_id=job_id,
    )


class Submission:
    """Jobs of one call on their way into a lane, or into several.

    Args:
        session: of the client.
        groups: the jobs by lane.
    """

    def __init__(self, session: Session, groups: Sequence[Group]) -> None:
        self._session = session
        self._intake = Intake[Job](groups)

    @property
    def left(self) -> int:
        """How many jobs have not been accepted yet."""
        return self._intake.left

    def ready(self) -> list[Job]:
        """The jobs that are in, up to the first row that is not; each is told once."""
        return self._intake.ready()

    def go(self) -> list[Job]:
        """Submits what is left, and returns its jobs; after an error it goes on where it stopped.

        A bundle whose answer was lost goes again under the same ids, which changes nothing. A full
        lane does not keep jobs out of the others.

        Raises:
            LaneFull: a lane filled up on the way.
            StoreUnavailable: the store went away, or is full.
            IdempotencyConflict: a key was used before with another input. Like the others it
                carries the jobs that this call got in.
        """
        full: LaneFull | None = None
        try:
            for group in self._intake.open():
                try:
                    self._submit_all(group)
                except LaneFull as error:
                    full = full or error
            if full is not None:
                raise full
        except (IdempotencyConflict, LaneFull, StoreUnavailable) as error:
            self._intake.tell(error)
            raise
        return self._intake.accepted()

    def _submit_all(self, group: Group) -> None:
        for new in bundled(group.waiting):
            try:
                self._submit(group, new)
            except LaneFull:
                for size in portions(len(new)):
                    with suppress(LaneFull):
                        self._submit(group, group.waiting[:size])
                raise

    def _submit(self, group: Group, new: Sequence[NewJob]) -> None:
        slot = group.target.lane.slot
        make = partial(Job, self._session, store=self._session.store)
        bundle = Bundle(self._session.inbox(), make, slot, new)
        try:
            jobs = bundle.accepted(self._session.submit(group.target, new))
        except BaseException:
            bundle.refused()
            raise
        self._intake.note(group, jobs)
