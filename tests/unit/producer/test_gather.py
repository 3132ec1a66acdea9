"""Threads that submit at the same time share calls, and each gets what it would have got alone."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from umbel import _gather, _submission
from umbel._gather import Gather
from umbel._inbox import Inbox
from umbel._singles import Gathering, twin
from umbel._way import Target
from umbel_batching.lanes import Lane, keyed_uid, new_uid
from umbel_batching.record import encode_callback, tail
from umbel_batching.values import Accepted, Known, NewJob
from umbel_config.errors import (
    IdempotencyConflict,
    LaneFull,
    ReceiverFull,
    StoreFull,
    StoreUnavailable,
)
from umbel_registry import Signature, TensorSpec

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import WaitUntil

SPEC = {"x": TensorSpec(dtype="float32")}
SIGNATURE = Signature(inputs=SPEC, outputs=SPEC)
TARGET, OTHER = (Target(Lane(model="m", version=each), SIGNATURE) for each in "12")


class FakeSession:
    """A store that answers as the script does, one call at a time, once its gate is open.

    Attributes:
        gate: closed, it holds calls; ``held`` counts those that came to it.
        room: jobs that the lane still takes; ``room_bytes`` likewise.
        full_receiver: takes no callbacks.
        before, after: errors of the next calls, raised before or after they run.
        calls: the uids of each call that ran.
    """

    store = "one"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.held = 0
        self.room, self.room_bytes = 10_000, 10**9
        self.full_receiver = b""
        self.before: list[BaseException | None] = []
        self.after: list[BaseException | None] = []
        self.calls: list[list[str]] = []
        self.queued: Counter[str] = Counter()
        self.keys: dict[str, str] = {}
        self._inbox = Inbox()

    def inbox(self) -> Inbox:
        return self._inbox

    def submit(self, target: Target, jobs: Sequence[NewJob]) -> Accepted:
        self.held += 1
        assert self.gate.wait(20)
        error = self.before.pop(0) if self.before else None
        if error is not None:
            raise error
        answer = self._run(target, jobs)
        error = self.after.pop(0) if self.after else None
        if error is not None:
            raise error
        return answer

    def _run(self, target: Target, jobs: Sequence[NewJob]) -> Accepted:
        self.calls.append([job.uid for job in jobs])
        slot = target.lane.slot
        known, fresh, keys = {}, [], dict(self.keys)
        for place, job in enumerate(jobs):
            if job.uid in keys:
                known[place] = Known(slot, job.uid, same=keys[job.uid] == job.fingerprint)
                continue
            fresh.append(job)
            if job.fingerprint:
                keys[job.uid] = job.fingerprint
        plain = [job for job in fresh if not job.fingerprint]
        repeated = bool(plain) and plain[0].uid in self.queued  # the script looks at one alone
        if repeated or not fresh or not all(each.same for each in known.values()):
            return Accepted(0, known)
        size = sum(len(job.tail) for job in fresh)
        if len(fresh) > self.room or size > self.room_bytes:
            raise LaneFull("full", retry_after=1)
        if self.full_receiver and any(self.full_receiver in job.tail for job in fresh):
            raise ReceiverFull("behind", retry_after=2)
        self.room -= len(fresh)
        self.room_bytes -= size
        self.queued.update(job.uid for job in fresh)
        self.keys = keys
        return Accepted(0, known)


def plain(size: int = 1, url: str = "") -> NewJob:
    callback = encode_callback(url) if url else b""
    return NewJob(new_uid(), tail(" " * 16, b"", callback=callback) + b"x" * size)


def keyed(key: str, fingerprint: str = "f") -> NewJob:
    return NewJob(keyed_uid("m", key), plain().tail, 0, fingerprint * 32)


Outcome = Any  # a job, or what its caller's submit raised


class Crowd:
    """Threads that submit one job each through one ``Gather``."""

    def __init__(self, wait_until: WaitUntil) -> None:
        self.session = FakeSession()
        self.gather = Gather(self.session)  # type: ignore[arg-type]
        self._wait_until = wait_until
        self._pool = ThreadPoolExecutor(40)

    def start(self, new: NewJob, target: Target = TARGET) -> Future[Outcome]:
        def submit() -> Outcome:
            try:
                return self.gather.submit(self.session.inbox(), target, new)
            except BaseException as error:  # noqa: BLE001
                return error

        return self._pool.submit(submit)

    def lead(self, new: NewJob | None = None) -> Future[Outcome]:
        """Has one job under way, held at the gate."""
        self.session.gate.clear()
        held = self.session.held
        started = self.start(new or plain())
        self._wait_until(lambda: self.session.held > held, "the leader's call is under way")
        return started

    def follow(self, jobs: Sequence[NewJob]) -> list[Future[Outcome]]:
        """Has jobs wait, in their order, while a call is under way."""
        started = []
        for new in jobs:
            started.append(self.start(new))
            self._wait_until(lambda: self.waiting == len(started), "it waits")
        return started

    @property
    def waiting(self) -> int:
        return len(self.gather._lanes._lanes["m@1"].gathering._waiting)

    def end(
        self, started: Sequence[Future[Outcome]], more: Sequence[Future[Outcome]] = ()
    ) -> list[Outcome]:
        """Opens the gate; what became of the jobs, and of more that are started meanwhile."""
        self.session.gate.set()
        outcomes = [future.result(20) for jobs in (started, more) for future in jobs]
        assert self.gather._lanes._lanes == {}, "nothing is left of a lane where nobody waits"
        return outcomes

    def close(self) -> None:
        self.session.gate.set()
        self._pool.shutdown()


@pytest.fixture
def crowd(wait_until: WaitUntil) -> Iterator[Crowd]:
    made = Crowd(wait_until)
    yield made
    made.close()


def kinds(outcomes: Sequence[Outcome]) -> list[str]:
    return [type(each).__name__ for each in outcomes]


def uids(jobs: Sequence[NewJob]) -> list[str]:
    return [job.uid for job in jobs]


def test_lone_job_goes_at_once_and_those_that_come_meanwhile_go_together(crowd: Crowd) -> None:
    first, rest = plain(), [plain() for _ in range(5)]
    started = [crowd.lead(first), *crowd.follow(rest)]
    jobs = crowd.end(started)
    assert crowd.session.calls == [[first.uid], uids(rest)]
    assert [job.id for job in jobs] == [f"{TARGET.lane.slot}-{uid}" for uid in uids([first, *rest])]
    assert sorted(crowd.session.inbox().expected()) == sorted(job.id for job in jobs)


def test_calls_are_bounded(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_submission, "BUNDLE", 2)
    monkeypatch.setattr(_submission, "BUNDLE_BYTES", 1000)
    rest = [plain(), plain(980), plain(980), plain(), plain(), plain()]
    crowd.end([crowd.lead(), *crowd.follow(rest)])
    assert [len(call) for call in crowd.session.calls] == [1, 1, 1, 1, 2, 1]


def test_lanes_do_not_wait_for_each_other(crowd: Crowd) -> None:
    ours = crowd.lead()
    theirs = crowd.start(plain(), OTHER)
    crowd._wait_until(lambda: crowd.session.held == 2, "both are under way")
    assert kinds(crowd.end([ours, theirs])) == ["Job", "Job"]


@pytest.mark.parametrize("room", range(7))
def test_full_lane_takes_as_many_as_it_has_room_for(crowd: Crowd, room: int) -> None:
    started, rest = crowd.lead(), [plain() for _ in range(6)]
    followers = crowd.follow(rest)
    crowd.session.room = room + 1
    outcomes = crowd.end([started, *followers])[1:]
    assert kinds(outcomes) == ["Job"] * room + ["LaneFull"] * (6 - room)
    errors = outcomes[room:]
    assert len({id(error) for error in errors}) == len(errors), "each has its own"
    assert all(error.retry_after == 1 and error.accepted == 0 for error in errors)
    assert len(crowd.session.calls) <= 8
    expected = crowd.session.inbox().expected()
    assert len(expected) == room + 1


def test_job_that_is_too_large_for_a_lane_keeps_no_smaller_one_out(crowd: Crowd) -> None:
    started = crowd.lead()
    sizes = [1, 500, 1, 400, 1]
    followers = crowd.follow([plain(size) for size in sizes])
    crowd.session.room_bytes = 400
    outcomes = crowd.end([started, *followers])[1:]
    assert kinds(outcomes) == ["Job", "LaneFull", "Job", "LaneFull", "Job"]


def test_known_key_needs_no_room(crowd: Crowd) -> None:
    crowd.end([crowd.start(keyed("a"))])
    started = crowd.lead()
    followers = crowd.follow([plain(), plain(), keyed("a"), keyed("b"), plain()])
    crowd.session.room = 1
    outcomes = crowd.end([started, *followers])[1:]
    assert kinds(outcomes) == ["LaneFull", "LaneFull", "Job", "LaneFull", "LaneFull"]
    assert outcomes[2].id.endswith(keyed("a").uid)


def test_conflict_is_told_to_its_caller_alone(crowd: Crowd) -> None:
    crowd.end([crowd.start(keyed("a"))])
    started = crowd.lead()
    rest = [plain(), keyed("a", "x"), keyed("a"), keyed("b"), keyed("b", "x"), plain()]
    outcomes = crowd.end([started, *crowd.follow(rest)])[1:]
    wrong = "IdempotencyConflict"
    assert kinds(outcomes) == ["Job", wrong, "Job", "Job", wrong, "Job"]
    assert outcomes[1].job_id.endswith(keyed("a").uid)
    assert outcomes[4].job_id.endswith(keyed("b").uid)
    assert [job.id[9:] for job in (outcomes[2], outcomes[3])] == [rest[2].uid, rest[3].uid]
    assert set(crowd.session.queued.values()) == {1}


def test_receiver_that_is_behind_keeps_out_its_own_jobs_alone(crowd: Crowd) -> None:
    behind, fine = "https://slow.example/a", "https://fine.example/a"
    urls = [behind, "", fine, behind + "?1", ""]
    crowd.session.full_receiver = b"slow.example"
    started = crowd.lead()
    outcomes = crowd.end([started, *crowd.follow([plain(url=url) for url in urls])])[1:]
    assert kinds(outcomes) == ["ReceiverFull", "Job", "Job", "ReceiverFull", "Job"]
    assert outcomes[0] is not outcomes[3]


def test_store_that_is_away_is_told_to_all(crowd: Crowd) -> None:
    started = crowd.lead()
    followers = crowd.follow([plain() for _ in range(4)])
    cause = OSError("refused")
    error = StoreUnavailable("gone")
    error.__cause__ = cause
    crowd.session.before = [None, error]
    outcomes = crowd.end([started, *followers])
    assert kinds(outcomes) == ["Job", *["StoreUnavailable"] * 4]
    assert len({id(each) for each in outcomes}) == 5
    assert [(str(each), each.__cause__) for each in outcomes[1:]] == [("gone", cause)] * 4
    assert crowd.session.inbox().expected() == [outcomes[0].id]


def test_full_store_still_finds_what_is_known(crowd: Crowd) -> None:
    crowd.end([crowd.start(keyed("a"))])
    started = crowd.lead()
    followers = crowd.follow([plain(), keyed("a")])
    crowd.session.before = [None, StoreFull("no memory"), StoreFull("no memory")]
    assert kinds(crowd.end([started, *followers])[1:]) == ["StoreFull", "Job"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_interrupted_leader_takes_nobody_with_it(crowd: Crowd, when: str) -> None:
    """Its call may have run: it goes again by itself, or the script would swallow newcomers."""
    first = crowd.lead()
    rest = [plain(), plain(), keyed("a")]
    setattr(crowd.session, when, [None, KeyboardInterrupt()])
    followers = crowd.follow(rest)
    outcomes = crowd.end([first, *followers])
    assert kinds(outcomes) == ["Job", "KeyboardInterrupt", "Job", "Job"]
    ran = {"before": 2, "after": 3}[when]
    assert len(crowd.session.calls) == ran
    assert crowd.session.calls[-1] == uids(rest[1:])
    assert set(crowd.session.queued.values()) == {1}
    assert set(uids(rest[1:])) <= set(crowd.session.queued)


def test_newcomers_go_in_a_call_of_their_own_after_an_interrupt(crowd: Crowd) -> None:
    crowd.session.after = [KeyboardInterrupt()]
    first = crowd.lead()
    newcomers = [plain() for _ in range(3)]
    outcomes = crowd.end([first, *crowd.follow(newcomers)])
    assert kinds(outcomes) == ["KeyboardInterrupt", "Job", "Job", "Job"]
    assert set(uids(newcomers)) <= set(crowd.session.queued)


def test_sent_part_never_shares_a_call_with_newcomers(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = crowd.lead()
    old, new = [plain() for _ in range(3)], [plain() for _ in range(2)]
    crowd.session.after = [None, KeyboardInterrupt()]
    followers, run = crowd.follow(old), crowd.session._run
    newcomers: list[Future[Outcome]] = []

    def join_meanwhile(target: Target, jobs: Sequence[NewJob]) -> Accepted:
        if uids(jobs) == uids(old):  # the call that is interrupted when it has run
            newcomers.extend(crowd.follow(new))
        return run(target, jobs)

    monkeypatch.setattr(crowd.session, "_run", join_meanwhile)
    outcomes = crowd.end([first, *followers], newcomers)
    assert kinds(outcomes) == ["Job", "KeyboardInterrupt", "Job", "Job", "Job", "Job"]
    assert crowd.session.calls[1:] == [uids(old), uids(old[1:]), uids(new)]
    assert set(crowd.session.queued.values()) == {1}
    assert len(crowd.session.queued) == 6


def test_interrupted_follower_is_not_sent_and_keeps_nobody(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, follow = crowd.lead(), _gather._follow
    rest = [plain() for _ in range(3)]
    leave = threading.Event()

    def interrupted(lanes: Any, lane: Any, single: Any) -> None:
        if single.new is rest[0]:
            assert leave.wait(20)
            raise KeyboardInterrupt
        follow(lanes, lane, single)

    monkeypatch.setattr(_gather, "_follow", interrupted)
    followers = crowd.follow(rest)
    leave.set()
    assert isinstance(followers[0].result(20), KeyboardInterrupt)
    assert kinds(crowd.end([first, *followers[1:]])) == ["Job", "Job", "Job"]
    assert crowd.session.calls[1:] == [uids(rest[1:])]


def test_jobs_that_an_interrupt_struck_while_they_were_taken_go_all_the_same(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gather, "PATIENCE_S", 0.05)
    first, take = crowd.lead(), Gathering.take
    followers = crowd.follow([plain() for _ in range(3)])
    lost: list[object] = []

    def strike(gathering: Any) -> Any:
        part = take(gathering)
        if not lost:
            lost.append(part)
            raise KeyboardInterrupt
        return part

    monkeypatch.setattr(Gathering, "take", strike)
    outcomes = crowd.end([first, *followers])
    assert kinds(outcomes) == ["Job", "KeyboardInterrupt", "Job", "Job"]


@pytest.mark.parametrize("moment", ["begin", "leave"])
def test_leader_that_is_interrupted_outside_its_call_is_followed(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Where it could not even hand over, those who wait notice that nothing goes on."""
    monkeypatch.setattr(_gather, "PATIENCE_S", 0.05)
    act: Callable[..., Any] = getattr(_gather._Lanes, moment)
    struck: list[object] = []

    def strike(lanes: Any, *arguments: Any) -> Any:
        if crowd.session.held == 1 and len(struck) < 1:
            struck.append(arguments)
            raise KeyboardInterrupt
        return act(lanes, *arguments)

    first = crowd.lead()
    followers = crowd.follow([plain() for _ in range(3)])
    monkeypatch.setattr(_gather._Lanes, moment, strike)
    outcomes = crowd.end([first, *followers])
    assert kinds(outcomes).count("Job") == 3
    assert kinds(outcomes).count("KeyboardInterrupt") == 1


def test_forked_child_has_no_leader(crowd: Crowd) -> None:
    """There its inbox is another; what waits for the parent's leader is none of its business."""
    first = crowd.lead()
    held, crowd.session._inbox = crowd.gather._lanes, Inbox()
    second = crowd.start(plain())
    crowd._wait_until(lambda: crowd.session.held == 2, "the child leads its own")
    assert crowd.gather._lanes is not held
    assert kinds(crowd.end([first, second])) == ["Job", "Job"]


def test_many_threads_lose_and_double_nothing(crowd: Crowd) -> None:
    crowd.session.room = 700
    jobs = [plain() for _ in range(1000)]
    outcomes = crowd.end([crowd.start(new) for new in jobs])
    assert Counter(kinds(outcomes)) == {"Job": 700, "LaneFull": 300}
    accepted = {job.id[9:] for job in outcomes if not isinstance(job, LaneFull)}
    assert accepted == set(crowd.session.queued)
    assert set(crowd.session.queued.values()) == {1}


@pytest.mark.parametrize(
    "error",
    [
        LaneFull("full", retry_after=3),
        IdempotencyConflict("used", job_id="x"),
        StoreUnavailable("gone"),
        OSError(2, "no such file"),
    ],
)
def test_twin_is_another_error_that_says_the_same(error: Exception) -> None:
    other = twin(error)
    assert other is not error
    assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))
