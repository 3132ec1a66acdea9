"""Draining: batches claimed, settled with one message per client, and given back on trouble."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from umbel_batching import replies
from umbel_batching.census import lane_statuses
from umbel_batching.keys import reply_channel
from umbel_batching.lanes import new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import Failure, State, parse
from umbel_batching.values import Claimed
from umbel_config.errors import ModelLoadFailed, ModelUnavailable
from umbel_registry import TensorSpec
from umbel_registry.loading import ArrayModel
from umbel_worker.board import Board
from umbel_worker.compute import Computed
from umbel_worker.settlement import settlement
from umbel_worker.tuners import Tuners

if TYPE_CHECKING:
    from tests.unit.worker.conftest import Bench

ONE, TWO = "1" * 16, "2" * 16


def test_drain_empties_the_lane_in_batches(bench: Any, double: ArrayModel) -> None:
    made = bench(lambda: double)
    uids = made.submit(10)
    tally = made.drainer.drain(made.lane.name, made.send())
    assert (tally.jobs, tally.batches, tally.failed, tally.lost) == (10, 3, 0, 0)
    assert made.states(uids) == [State.SUCCEEDED] * 10
    assert [made.count(what) for what in ("waiting", "leases", "sent", "drains")] == [0] * 4


def test_padding_is_counted_as_it_was_computed(bench: Any, array_model: Any) -> None:
    spec = TensorSpec(dtype="float32", shape=(-1,))
    model = array_model(lambda x: x, {"x": spec}, {"y": spec})
    made = bench(lambda: model)
    made.submit_sized([np.ones(length, np.float32) for length in (25, 27, 10)])
    made.drainer.drain(made.lane.name, made.send())
    (figures,) = made.tallies.take().values()
    assert (figures.real_cells, figures.padded_cells) == (62, 3 * 27 - 62)


def test_padding_of_a_handler_is_estimated_from_lengths(bench: Any, handler_model: Any) -> None:
    text = TensorSpec(dtype="string")
    model = handler_model(lambda rows: rows, {"x": text}, {"y": text})
    made = bench(lambda: model)
    made.submit_sized(["a" * 3, "b" * 10])
    made.drainer.drain(made.lane.name, made.send())
    (figures,) = made.tallies.take().values()
    assert (figures.real_cells, figures.padded_cells, figures.padding) == (13, 7, 7 / 13)


def test_an_adaptive_lane_is_claimed_and_learned_by_its_tuner(
    bench: Any, double: ArrayModel
) -> None:
    made = bench(lambda: double)
    policy = BatchPolicy(max_batch_size=4, max_wait_ms=0, mode="adaptive", latency_objective_ms=50)
    double.manifest = double.manifest.model_copy(update={"policy": policy})
    made.lane = replace(made.lane, policy=policy)
    tuners = Tuners(made.runner, made.calls, Board(made.store, "t"), "cpu/1")
    uids = made.submit(10)
    token = made.send()
    assert replace(made.drainer, tuners=tuners).drain(made.lane.name, token).batches > 3
    assert made.states(uids) == [State.SUCCEEDED] * 10
    tuners.tell()
    (told,) = lane_statuses(made.store, "t")[0].tuned
    assert (told.size, told.objective_ms) == (4, 50)


def test_model_is_in_use_until_the_drain_ends(bench: Any, array_model: Any) -> None:
    made: Bench
    users: list[int] = []

    def counted(x: Any) -> Any:
        users.append(made.models.users)
        return x

    model = array_model(counted)
    made = bench(lambda: model)
    made.submit(10)
    made.drainer.drain(made.lane.name, made.send())
    assert (users, made.models.users) == ([1, 1, 1], 0)


def test_empty_lane_ends_the_drain(bench: Any, double: ArrayModel) -> None:
    made = bench(lambda: double)
    assert made.drainer.drain(made.lane.name, "token").batches == 0


def test_shutdown_ends_the_drain_with_its_batch(bench: Any, double: ArrayModel) -> None:
    made = bench(lambda: double)
    uids = made.submit(10)
    made.stopping.set()
    assert made.drainer.drain(made.lane.name, made.send()).jobs == 4
    assert made.states(uids).count(State.QUEUED) == 6
    assert made.count("leases") == made.count("drains") == 0


def test_model_that_will_never_load_fails_the_jobs_with_the_reason(bench: Any) -> None:
    def broken() -> Any:
        raise ModelLoadFailed("no such operator")

    made = bench(broken)
    (uid,) = made.submit(1)
    assert made.drainer.drain(made.lane.name, made.send()).failed == 1
    record = parse(made.store.get(made.keys.job + uid))
    assert record.state is State.FAILED
    assert b"ModelLoadFailed" in bytes(record.body)


@pytest.mark.parametrize(
    "error", [OSError("network share is away"), ModelUnavailable("share: no such module")], ids=repr
)
def test_what_this_worker_lacks_leaves_the_jobs_to_others(bench: Any, error: Exception) -> None:
    """The token stays noted as sent: the flusher's patience is the pause before the next try."""

    def unreachable() -> Any:
        raise error

    made = bench(unreachable)
    uids = made.submit(3)
    token = made.send()
    with pytest.raises(type(error), match="share"):
        made.drainer.drain(made.lane.name, token)
    assert made.states(uids) == [State.QUEUED] * 3
    assert made.store.zscore(made.keys.sent, token) is not None


def test_lost_lease_writes_nothing(bench: Any, array_model: Any) -> None:
    made: Bench

    def sluggish(x: Any) -> Any:
        made.store.delete(made.keys.leases)
        return x

    model = array_model(sluggish)
    made = bench(lambda: model)
    uids = made.submit(2)
    tally = made.drainer.drain(made.lane.name, made.send())
    assert (tally.jobs, tally.lost) == (2, 2)
    assert made.states(uids) == [State.RUNNING] * 2


def test_batch_of_a_process_that_is_ended_goes_back_without_penalty(
    bench: Any, array_model: Any
) -> None:
    def ended(x: Any) -> Any:
        raise SystemExit(-241)  # what billiard raises in a process that gets SIGTERM

    made = bench(lambda: array_model(ended))
    uids = made.submit(2)
    with pytest.raises(SystemExit):
        made.drainer.drain(made.lane.name, made.send())
    assert made.states(uids) == [State.QUEUED] * 2
    assert parse(made.store.get(made.keys.job + uids[0])).attempts == 0
    assert made.count("leases") == made.count("drains") == 0


def test_error_of_our_own_uses_up_an_attempt(
    bench: Any, double: ArrayModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given back without penalty, a batch that trips over a bug would come again for ever."""

    def bug(*_: Any) -> Any:
        raise TypeError("bug")

    monkeypatch.setattr("umbel_worker.rounds.settlement", bug)
    made = bench(lambda: double)
    uids = made.submit(2)
    with pytest.raises(TypeError, match="bug"):
        made.drainer.drain(made.lane.name, made.send())
    assert made.states(uids) == [State.RUNNING] * 2
    assert (made.count("leases"), made.count("drains")) == (1, 0)


def test_each_waiting_client_gets_one_message_for_its_jobs(bench: Any, double: ArrayModel) -> None:
    made = bench(lambda: double)
    heard = made.store.pubsub(ignore_subscribe_messages=True)
    heard.subscribe(reply_channel("t", ONE), reply_channel("t", TWO))
    first, second, nobody = made.submit(1, ONE), made.submit(1, TWO), made.submit(1)
    first += made.submit(1, ONE)
    made.drainer.drain(made.lane.name, made.send())
    messages = {}
    for message in filter(None, [heard.get_message(timeout=0.05) for _ in range(6)]):
        assert message["channel"].decode() not in messages
        messages[message["channel"].decode()], _ = replies.read(message["data"])
    told = {name[-16:]: [job for job, _ in outcomes] for name, outcomes in messages.items()}
    assert told == {
        ONE: [f"{made.lane.slot}-{uid}" for uid in first],
        TWO: [f"{made.lane.slot}-{uid}" for uid in second],
    }
    assert made.states(nobody) == [State.SUCCEEDED]
    heard.close()


def test_settlement_counts_and_keeps_order() -> None:
    head = "r01" + "00000" + "b" * 32 + "1".zfill(13) + "0" * 26 + "n" + "000"
    raws = [(head + ONE + "00000" + "0000000" + "0000").encode() + b"payload"] * 2
    claimed = Claimed("b" * 32, "size", 1, 2, 0, [new_uid(), new_uid()], raws)
    computed = Computed([b"\x01", Failure("ValueError", "bad")], ceiling=1)
    outcome = settlement("a" * 8, claimed, computed, 5, "cuda:X")
    assert (outcome.succeeded, outcome.compute_us) == (1, 5)
    assert (outcome.device, outcome.ceiling) == ("cuda:X", 1)
    assert [parse(raw).state for raw in outcome.records] == [State.SUCCEEDED, State.FAILED]
    assert list(outcome.messages) == [ONE]
    told, _ = replies.read(outcome.messages[ONE])
    assert [(job[-32:], out.state) for job, out in told] == list(
        zip(claimed.uids, [State.SUCCEEDED, State.FAILED], strict=True)
    )
