"""Single submits of many threads in common calls: one thread sends for all that came meanwhile."""

from __future__ import annotations

import threading
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from umbel._inbox import Inbox
from umbel._job import Job
from umbel._singles import Gathering, Part, Single
from umbel._submission import Bundle
from umbel._way import Target
from umbel_batching.values import NewJob

if TYPE_CHECKING:  # a session knows nothing of submissions
    from umbel._session import Session

#: Seconds without any call after which those who wait take their leader for gone. It hands over
#: on its way out; an interrupt at the very moment in which it does could keep it from that.
PATIENCE_S = 10.0


class _Single(Single[Job]):
    """A job whose thread sleeps until its bell rings: it is answered, or leads."""

    __slots__ = ("bell",)

    def __init__(self, new: NewJob) -> None:
        super().__init__(new)
        self.bell: SimpleQueue[None] = SimpleQueue()

    def told(self) -> None:
        self.bell.put(None)


class _Lane:
    """The submits of one lane.

    Attributes:
        target: where they go.
        gathering: those that wait.
        leader: whose thread sends; ``None`` only before the first and after the last.
        under_way: what it sends.
        calls: how many were begun.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.gathering: Gathering[_Single, Job] = Gathering()
        self.leader: _Single | None = None
        self.under_way: Part[_Single] | None = None
        self.calls = 0

    def recall(self) -> None:
        """Puts back what a leader does not finish."""
        if self.under_way is not None:
            self.gathering.recall(self.under_way)
            self.under_way = None


class _Lanes:
    """All lanes with single submits under way in one process.

    Args:
        inbox: of that process; a forked child has another one.
    """

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self._lock = threading.Lock()
        self._lanes: dict[str, _Lane] = {}

    def join(self, name: str, target: Target, single: _Single) -> _Lane:
        """Has a job wait in its lane; where nobody leads, it does."""
        with self._lock:
            lane = self._lanes.get(name)
            if lane is None:
                lane = self._lanes[name] = _Lane(target)
            lane.gathering.add(single)
            if lane.leader is None:
                lane.leader = single
            return lane

    def begin(self, lane: _Lane, leader: _Single) -> Part[_Single]:
        """Takes what the leader is to send."""
        with self._lock:
            lane.calls += 1
            # An interrupt may have struck while jobs were taken; then they are nowhere.
            lane.under_way = lane.gathering.take() or Part([leader])
            return lane.under_way

    def leave(self, name: str, single: _Single) -> None:
        """Lets a caller go, however its call ended; a leader names its successor."""
        with self._lock:
            single.gone = True
            lane = self._lanes.get(name)
            if lane is None or lane.leader is not single:
                return
            lane.recall()
            lane.leader = lane.gathering.front()
            if lane.leader is None:
                del self._lanes[name]
            else:
                lane.leader.told()

    def take_over(self, lane: _Lane, single: _Single, calls: int) -> None:
        """Makes a job the leader whose leader has begun no call since there were ``calls``."""
        with self._lock:
            if lane.calls == calls and single.pending:
                lane.recall()
                lane.leader = single


class Gather:
    """Brings single jobs into their lanes, those that come at the same time together.

    The first thread sends its job at once. Those that come until the answer is there leave theirs
    and sleep; then one of them sends all that gathered, for the others too, and so on. Whatever
    happens to a thread, the jobs of the others go on: what it did not finish is sent again under
    the same ids, which changes nothing.

    Args:
        session: of the client.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lanes = _Lanes(session.inbox())

    def submit(self, inbox: Inbox, target: Target, new: NewJob) -> Job:
        """Submits one job.

        Args:
            inbox: of this process.
            target: where it goes.
            new: the job.

        Raises:
            LaneFull: there is no room for it.
            StoreUnavailable: the store is away, or full.
            IdempotencyConflict: its key was used before with another input.
        """
        if self._lanes.inbox is not inbox:  # forked since; its threads and locks are not here
            self._lanes = _Lanes(inbox)
        lanes, name, single = self._lanes, target.lane.name, _Single(new)
        try:
            lane = lanes.join(name, target, single)
            while single.pending:
                if lane.leader is single:
                    self._send(lanes, lane, single)
                else:
                    _follow(lanes, lane, single)
        finally:
            lanes.leave(name, single)
        if single.job is None:
            raise single.error or AssertionError("a caller is told a job or an error")
        return single.job

    def _send(self, lanes: _Lanes, lane: _Lane, leader: _Single) -> None:
        part = lanes.begin(lane, leader)
        new, make = part.new, partial(Job, self._session, store=self._session.store)
        bundle = Bundle(lanes.inbox, make, lane.target.lane.slot, new)
        try:
            answer = self._session.submit(lane.target, new)
        except Exception as error:  # noqa: BLE001  (it is raised by those whom it concerns)
            lane.gathering.failed(part, bundle, error)
        except BaseException:
            bundle.refused()
            raise
        else:
            lane.gathering.accepted(part, bundle, answer)
        if lane.under_way is part:  # and not what another sends, who took over meanwhile
            lane.under_way = None


def _follow(lanes: _Lanes, lane: _Lane, single: _Single) -> None:
    calls = lane.calls
    try:
        single.bell.get(timeout=PATIENCE_S)
    except Empty:
        lanes.take_over(lane, single, calls)
