"""Rounds: while a batch computes the one before is settled and the next, if full, is claimed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from umbel_batching.record import State, parse
from umbel_batching.scripts import Call
from umbel_config.errors import ModelLoadFailed
from umbel_registry.loading import ArrayModel
from umbel_worker.settlement import settlement

if TYPE_CHECKING:
    from tests.unit.worker.conftest import Bench

SIZE = 4
QUEUED, RUNNING, DONE = State.QUEUED, State.RUNNING, State.SUCCEEDED


@dataclass
class Seen:
    """What there was at one forward of the model: states by batch of four, and leases."""

    states: list[State | None]
    leased: int
    ahead: int
    held: int


@dataclass
class Watch:
    """A model that looks around at each forward, and then does what a test asks for."""

    make: Callable[..., ArrayModel]
    made: Bench | None = None
    uids: list[str] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    acts: dict[int, Callable[[], None]] = field(default_factory=dict)

    def __call__(self) -> ArrayModel:
        return self.make(self._forward)

    def _forward(self, x: Any) -> Any:
        self.seen.append(self._look())
        self.acts.get(len(self.seen), lambda: None)()
        return x

    def _look(self) -> Seen:
        assert self.made is not None
        leases = leases_of(self.made)
        ahead = [self.made.store.hexists(self.made.keys.batch + each, "ahead") for each in leases]
        held = set(leases) & set(self.made.leases._held)
        states = self.made.states(self.uids)[::SIZE]
        return Seen(states, len(leases), sum(ahead), len(held))


def leases_of(made: Bench) -> list[str]:
    found: Any = made.store.zrange(made.keys.leases, 0, -1)
    return [batch.decode() for batch in found]


@pytest.fixture
def watch(bench: Any, array_model: Callable[..., ArrayModel]) -> Watch:
    made = Watch(array_model)
    model = made()
    made.made = bench(lambda: model)
    return made


def begin(watch: Watch, count: int) -> Bench:
    assert watch.made is not None
    watch.uids = watch.made.submit(count)
    return watch.made


def attempts(made: Bench, uids: list[str]) -> list[int]:
    records: list[Any] = [made.store.get(made.keys.job + uid) for uid in uids]
    return [parse(record).attempts for record in records]


def left_of(made: Bench) -> list[int]:
    return [made.count(what) for what in ("waiting", "leases", "sent", "drains")]


def test_full_lane_is_claimed_ahead_and_settled_behind(watch: Watch) -> None:
    made = begin(watch, 3 * SIZE)
    tally = made.drainer.drain(made.lane.name, made.send())
    assert (tally.jobs, tally.batches, tally.lost) == (12, 3, 0)
    assert watch.seen == [
        Seen([RUNNING, RUNNING, QUEUED], leased=2, ahead=1, held=2),
        Seen([DONE, RUNNING, RUNNING], leased=2, ahead=1, held=2),
        Seen([DONE, DONE, RUNNING], leased=1, ahead=0, held=1),
    ]
    assert left_of(made) == [0] * 4


@pytest.mark.parametrize("more", [0, 1, 3])
def test_what_is_less_than_a_batch_is_not_claimed_ahead(watch: Watch, more: int) -> None:
    """It may grow until it can begin."""
    made = begin(watch, SIZE + more)
    late: list[str] = []
    watch.acts[1] = lambda: late.extend(made.submit(SIZE - more - 1))
    tally = made.drainer.drain(made.lane.name, made.send())
    assert (watch.seen[0].leased, tally.jobs) == (1, 2 * SIZE - 1)
    assert tally.batches == 2, "what came meanwhile shares the batch of those that waited"
    assert made.states(watch.uids + late) == [DONE] * (2 * SIZE - 1)


def test_batch_that_fills_too_late_is_claimed_when_it_can_begin(watch: Watch) -> None:
    made = begin(watch, SIZE)
    late: list[str] = []
    watch.acts[1] = lambda: late.extend(made.submit(SIZE))
    assert made.drainer.drain(made.lane.name, made.send()).batches == 2
    assert [seen.leased for seen in watch.seen] == [1, 1]


@pytest.mark.parametrize(("forward", "done"), [(1, 1), (2, 2)])
def test_shutdown_settles_what_is_computed_and_hands_back_what_is_ahead(
    watch: Watch, forward: int, done: int
) -> None:
    made = begin(watch, 4 * SIZE)
    watch.acts[forward] = made.stopping.set
    assert made.drainer.drain(made.lane.name, made.send()).batches == done
    assert watch.seen[-1].ahead == 1
    assert made.states(watch.uids)[::SIZE] == [DONE] * done + [QUEUED] * (4 - done)
    assert attempts(made, watch.uids)[done * SIZE :] == [0] * SIZE * (4 - done)
    assert left_of(made) == [(4 - done) * SIZE, 0, 0, 0]


def test_spent_budget_does_so_too(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def slow() -> None:
        now[0] += 20

    monkeypatch.setattr("umbel_worker.rounds.time.monotonic", lambda: now[0])
    made = begin(watch, 5 * SIZE)
    watch.acts = {1: slow, 2: slow}
    assert made.drainer.drain(made.lane.name, "token").batches == 2
    assert attempts(made, watch.uids) == [1] * 2 * SIZE + [0] * 3 * SIZE
    assert left_of(made) == [3 * SIZE, 0, 0, 0]


def is_clean(made: Bench) -> bool:
    """Whether all connections are back in the pool, and none holds an old reply."""
    pool: Any = made.store.connection_pool
    return not pool._in_use_connections and made.store.echo("mine") == b"mine"


def test_error_of_our_own_leaves_leases_that_run_out(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch that ran uses up an attempt, the one ahead does not, the one before is settled."""
    made, usual, calls = begin(watch, 3 * SIZE), settlement, []

    def bug(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise TypeError("bug")
        return usual(*args)

    monkeypatch.setattr("umbel_worker.rounds.settlement", bug)
    with pytest.raises(TypeError, match="bug"):
        made.drainer.drain(made.lane.name, made.send())
    assert made.states(watch.uids)[::SIZE] == [DONE, RUNNING, RUNNING]
    assert left_of(made) == [0, 2, 0, 0]
    assert (made.leases._held, is_clean(made)) == ({}, True)
    made.store.zadd(made.keys.leases, dict.fromkeys(leases_of(made), 1))
    reap = made.calls.reap(made.lane.slot, limit=9, max_attempts=3)
    assert made.runner.run(reap).again == 2 * SIZE
    assert attempts(made, watch.uids)[::SIZE] == [1, 1, 0]


def test_process_that_is_ended_hands_both_batches_back(watch: Watch) -> None:
    made = begin(watch, 3 * SIZE)

    def ended() -> None:
        raise SystemExit(-241)  # what billiard raises in a process that gets SIGTERM

    watch.acts[2] = ended
    with pytest.raises(SystemExit):
        made.drainer.drain(made.lane.name, made.send())
    assert made.states(watch.uids)[::SIZE] == [DONE, QUEUED, QUEUED]
    assert attempts(made, watch.uids)[::SIZE] == [1, 0, 0]
    assert left_of(made) == [2 * SIZE, 0, 0, 0]
    assert is_clean(made)


class Breaks:
    """A connection that hands over what it was given, and then breaks."""

    def __init__(self, connection: Any, *, sends: bool) -> None:
        self._connection, self._sends = connection, sends

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def send_packed_command(self, packed: Any) -> None:
        if self._sends:
            self._connection.send_packed_command(packed)
            return
        self._connection.disconnect()
        raise RedisConnectionError("broken")

    def read_response(self) -> Any:
        self._connection.disconnect()
        raise RedisConnectionError("broken")


@pytest.mark.parametrize("sends", [True, False], ids=["after sending", "before"])
def test_broken_connection_has_each_call_take_effect_once(
    watch: Watch, sends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch before keeps its lease until it is settled, behind the one that computes."""
    made = begin(watch, 3 * SIZE)
    pool: Any = made.store.connection_pool
    get, release = pool.get_connection, pool.release

    def once() -> Any:
        monkeypatch.setattr(pool, "get_connection", get)
        return Breaks(get(), sends=sends)

    def unpacked(connection: Any) -> None:
        release(getattr(connection, "_connection", connection))

    monkeypatch.setattr(pool, "release", unpacked)
    watch.acts[1] = lambda: monkeypatch.setattr(pool, "get_connection", once)
    tally = made.drainer.drain(made.lane.name, made.send())
    assert (tally.jobs, tally.batches, tally.lost) == (12, 3, 0)
    assert made.states(watch.uids) == [DONE] * 3 * SIZE
    assert attempts(made, watch.uids) == [1] * 3 * SIZE
    second = watch.seen[1]
    assert second.held == second.leased == 2
    assert left_of(made) == [0] * 4


def test_model_that_does_not_load_fails_all_batches(bench: Any) -> None:
    def broken() -> Any:
        raise ModelLoadFailed("no such operator")

    made = bench(broken)
    uids = made.submit(3 * SIZE)
    tally = made.drainer.drain(made.lane.name, made.send())
    assert (tally.failed, tally.batches) == (12, 3)
    assert made.states(uids) == [State.FAILED] * 12
    assert left_of(made) == [0] * 4


def test_batches_ahead_are_not_claimed_from_other_drains(watch: Watch) -> None:
    """A hint that is on its way finds the batch that it was sent for."""
    made = begin(watch, 2 * SIZE)
    tokens = ["one", "two"]
    call: Call[Any] = made.calls.flush(made.lane.slot, slots=2, patience_ms=60_000, tokens=tokens)
    assert made.runner.run(call).sent == 2
    tally = made.drainer.drain(made.lane.name, "one")
    assert (watch.seen[0].leased, tally.batches) == (1, 2)
