"""``umbel dead`` on a real Redis, with dead letters that no worker had to die for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import redis

from umbel_batching import wire
from umbel_batching.calls import Calls
from umbel_batching.dead_letters import DeadLetter
from umbel_batching.lanes import Lane, new_uid, slot_of
from umbel_batching.record import NO_REPLY, Failure, State, settled, tail
from umbel_batching.scripts import Runner
from umbel_batching.values import NewJob, Settlement

LANE = "reader@1"
#: Buries so many jobs that were in one batch, and returns their ids, first in line first.
Bury = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def _model(register: Any) -> None:
    register("reader")


@pytest.fixture
def send(store_redis: redis.Redis, namespace: str) -> Callable[[], str]:
    """Submits one job and returns its id."""

    def make(model: str = "reader") -> str:
        lane, uid = Lane(model=model, version="1"), new_uid()
        payload = wire.encode(np.array([101, 102, 103], np.float32))
        call = Calls(namespace).submit(lane, [NewJob(uid, tail(NO_REPLY, b"") + payload)])
        assert Runner(store_redis).run(call).depth > 0
        return f"{lane.slot}-{uid}"

    return make


@pytest.fixture
def claim(store_redis: redis.Redis, namespace: str) -> Callable[[], Any]:
    """Claims what waits in the lane."""

    def make(slot: str = slot_of(LANE)) -> Any:
        call = Calls(namespace).claim(
            slot, batch=new_uid(), token="drain", worker="host:12", lease_ms=60_000
        )
        return Runner(store_redis).run(call)

    return make


@pytest.fixture
def bury(send: Any, claim: Any, store_redis: redis.Redis, namespace: str) -> Bury:
    def make(count: int = 1, message: str = "unlucky [input]", model: str = "reader") -> list[str]:
        ids = [send(model) for _ in range(count)]
        slot = slot_of(f"{model}@1")
        claimed = claim(slot)
        body = msgspec.msgpack.encode(Failure("ValueError", message))
        records = [settled(raw, State.FAILED, body) for raw in claimed.records]
        outcome = Settlement(claimed.uids, records, 0, {}, 10)
        assert Runner(store_redis).run(Calls(namespace).settle(slot, claimed.batch, outcome))
        return ids

    return make


@pytest.fixture
def lose(send: Any, claim: Any, store_redis: redis.Redis, namespace: str) -> Bury:
    """Buries one job whose workers died on it."""

    def make(attempts: int = 2) -> list[str]:
        job_id = send()
        calls, runner, slot = Calls(namespace), Runner(store_redis), slot_of(LANE)
        for _ in range(attempts):
            assert claim().uids
            assert runner.run(calls.orphan(slot, owner="drain", cause="killed by SIGSEGV")) == 1
            assert runner.run(calls.reap(slot, limit=9, max_attempts=attempts)).batches == 1
        return [job_id]

    return make


def server_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()
    return seconds * 1000 + micros // 1000


def forget_inputs(client: redis.Redis, namespace: str) -> None:
    """As if the bounds of what is recorded had been reached."""
    for key in client.scan_iter(f"{namespace}:*:recording:*"):
        client.delete(key)


def test_nothing_has_died(run_here: Any) -> None:
    answer = run_here("dead", "list")
    assert (answer.code, answer.out) == (0, "No dead letters: nothing waits for a second chance.\n")
    assert run_here("dead", "list", "--json").json == []
    for words in (("replay", "--all"), ("drop", "--all")):
        assert "No dead letter in all lanes" in run_here("dead", *words).out
        assert run_here("dead", *words, "--json").json == []


def test_list_is_newest_first_bounded_and_of_a_lane(
    run_here: Any, bury: Bury, register: Any, store_redis: redis.Redis, wait_until: Any
) -> None:
    register("other")
    (old,) = bury(message="first\nline " + "long " * 100)
    before = server_ms(store_redis)
    wait_until(lambda: server_ms(store_redis) > before, "the next millisecond")
    (new,) = bury(model="other")
    answer = run_here("dead", "list")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == [new, old]
    assert "ValueError: unlucky [inp" in lines[1]
    assert "ValueError: first line" in lines[2]
    assert max(map(len, lines)) <= 120
    assert " s ago, " in lines[1]
    found = run_here("dead", "list", "--json").json
    assert list(found[0]) == list(DeadLetter.__struct_fields__)
    assert [each["id"] for each in found] == [new, old]
    assert [each["id"] for each in run_here("dead", "list", "--limit", "1", "--json").json] == [new]
    (only,) = run_here("dead", "list", "--lane", LANE, "--json").json
    assert (only["id"], only["replayable"], only["attempts"]) == (old, True, 1)


def test_a_lane_that_is_not_there_is_said(run_here: Any, bury: Bury) -> None:
    bury()
    for name in ("list", "replay", "drop"):
        answer = run_here("dead", name, "--lane", "raeder@1")
        assert (answer.code, answer.out) == (1, "")
        assert "No lane is named 'raeder@1'" in answer.err
        assert "There are: reader@1." in answer.err


def test_show_tells_everything_but_the_content(run_here: Any, bury: Bury) -> None:
    ids = bury(3)
    answer = run_here("dead", "show", ids[1])
    assert answer.code == 0
    for text in (
        *(ids[1], LANE, "unlucky [input]", "3 jobs, flushed by", "host:12", "float32 [3]"),
        *(f"umbel dead replay {ids[1]} --wait", f"umbel dead drop {ids[1]}", "--batch"),
    ):
        assert text in answer.out
    assert "101. 102." not in answer.out
    told = run_here("dead", "show", ids[1], "--json").json
    assert told["input"] == [{"name": "", "type": "float32", "shape": [3], "bytes": 34}]
    assert (told["batch"]["job_ids"], told["batch"]["missing"]) == (ids, 0)
    assert told["next"][1] == f"umbel dead replay {ids[1]} --wait"
    assert "value" not in told
    assert "payloads" not in told["batch"]


def test_show_with_input_shows_the_content(run_here: Any, bury: Bury) -> None:
    (job_id,) = bury()
    assert "[101. 102. 103.]" in run_here("dead", "show", job_id, "--input").out
    told = run_here("dead", "show", job_id, "--input", "--json").json
    assert told["value"] == [101.0, 102.0, 103.0]


def test_show_lists_each_lost_worker(run_here: Any, lose: Bury) -> None:
    (job_id,) = lose(2)
    answer = run_here("dead", "show", job_id)
    assert answer.out.count("on host:12 (killed by SIGSEGV)") == 2
    assert "WorkerLost" in answer.out
    told = run_here("dead", "show", job_id, "--json").json
    assert [event["what"] for event in told["history"]] == ["lost", "lost"]
    assert {event["cause"] for event in told["history"]} == {"killed by SIGSEGV"}
    assert len({event["batch_id"] for event in told["history"]}) == 2
    assert "killed by SIGSEGV" in run_here("job", job_id).out


def test_show_without_the_input(
    run_here: Any, bury: Bury, store_redis: redis.Redis, namespace: str
) -> None:
    (job_id,) = bury()
    forget_inputs(store_redis, namespace)
    answer = run_here("dead", "show", job_id)
    assert "no: its input is not kept" in answer.out
    assert "umbel dead replay" not in answer.out
    told = run_here("dead", "show", job_id, "--json").json
    assert (told["input"], told["batch"], told["replayable"]) == (None, None, False)
    answer = run_here("dead", "show", job_id, "--input")
    assert answer.code == 1
    assert "is not kept by itself" in answer.err


def test_show_of_what_is_no_dead_letter(run_here: Any, send: Any) -> None:
    queued = send()
    answer = run_here("dead", "show", queued)
    assert (answer.code, answer.out) == (1, "")
    assert f"is no dead letter: it is queued. See: umbel job {queued}" in answer.err
    unknown = queued[:-1] + ("0" if queued[-1] != "0" else "1")
    assert "no job of that id is known" in run_here("dead", "show", unknown).err
    assert "is no job id" in run_here("dead", "show", "nonsense").err


def test_replay_puts_letters_back_under_their_ids(run_here: Any, bury: Bury, claim: Any) -> None:
    ids = bury(2)
    answer = run_here("dead", "replay", *ids)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == "".join(f"replayed {job_id}\n" for job_id in ids)
    assert run_here("dead", "list", "--json").json == []
    told = run_here("job", ids[0], "--json").json
    assert (told["state"], [event["what"] for event in told["history"]]) == ("queued", ["replayed"])
    assert [len(claim().uids) for _ in ids] == [1, 1]


def test_one_letter_that_cannot_be_replayed_is_an_error(
    run_here: Any, bury: Bury, send: Any, store_redis: redis.Redis, namespace: str
) -> None:
    (job_id,) = bury()
    forget_inputs(store_redis, namespace)
    answer = run_here("dead", "replay", job_id, "--json")
    assert (answer.code, answer.out) == (1, "")
    told = json.loads(answer.err)
    assert told["error"] == "NotReplayable"
    assert "its input is not kept any more" in told["message"]
    queued = send()
    answer = run_here("dead", "replay", queued)
    assert "it is no dead letter: it is queued." in answer.err


def test_some_letters_that_cannot_be_replayed_are_listed(run_here: Any, bury: Bury) -> None:
    good, gone = bury()[0], bury()[0]
    assert run_here("dead", "drop", gone).out == f"dropped {gone}\n"
    unknown = good[:-1] + ("0" if good[-1] != "0" else "1")
    answer = run_here("dead", "replay", gone, good, unknown, "--json")
    assert answer.code == 1
    told = {each["id"]: each for each in answer.json}
    assert list(told) == [gone, good, unknown]
    assert (told[good]["replayed"], told[good]["why"]) == (True, None)
    assert "it failed, and was dropped" in told[gone]["why"]
    assert "no job of that id is known" in told[unknown]["why"]
    answer = run_here("dead", "replay", gone, good)
    assert (answer.code, answer.out.count("not replayed")) == (1, 1)
    assert f"\nreplayed {good}\n" in answer.out, "it waits already"


def test_a_bad_id_stops_a_replay_before_it_begins(run_here: Any, bury: Bury) -> None:
    (job_id,) = bury()
    for name in ("replay", "drop"):
        answer = run_here("dead", name, job_id, "nonsense")
        assert (answer.code, answer.out) == (1, "")
        assert "is no job id" in answer.err
    assert len(run_here("dead", "list", "--json").json) == 1


@pytest.mark.parametrize("name", ["replay", "drop"])
def test_many_letters_are_asked_about(run_here: Any, bury: Bury, name: str) -> None:
    ids = bury(3)
    answer = run_here("dead", name, "--lane", LANE, stdin="n\n")
    assert answer.code == 1
    assert "3 dead letters in reader@1" in answer.err
    assert len(run_here("dead", "list", "--json").json) == 3
    answer = run_here("dead", name, "--all", stdin="y\n")
    assert answer.code == 0
    assert all(job_id in answer.out for job_id in ids)
    assert run_here("dead", "list", "--json").json == []


@pytest.mark.parametrize("name", ["replay", "drop"])
def test_many_letters_are_not_asked_about_where_the_answer_is_given(
    run_here: Any, bury: Bury, name: str
) -> None:
    ids = bury(2)
    answer = run_here("dead", name, "--all", "--yes", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert {each["id"] for each in answer.json} == set(ids)


def test_drop_leaves_the_job_a_failed_one(run_here: Any, bury: Bury) -> None:
    (job_id,) = bury()
    assert run_here("dead", "drop", job_id, "--json").json == [{"id": job_id, "dropped": True}]
    assert run_here("job", job_id, "--json").json["state"] == "failed"
    answer = run_here("dead", "drop", job_id)
    assert (answer.code, answer.out) == (1, f"no dead letter {job_id}\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("replay",), "--lane LANE, or --all"),
        (("drop",), "--lane LANE, or --all"),
        (("replay", "--all", "--lane", LANE), "--lane LANE, or --all"),
        (("drop", "--all", "some-id"), "--lane LANE, or --all"),
        (("replay", "--batch", "0" * 32, "--all"), "--batch goes alone"),
        (("replay", "--batch", "0" * 32, "--wait"), "--batch goes alone"),
    ],
)
def test_letters_are_named_in_one_way(run_here: Any, words: tuple[str, ...], text: str) -> None:
    answer = run_here("dead", *words)
    assert answer.code == 2
    assert text in " ".join(answer.err.replace("│", " ").split())


def test_a_wait_that_is_given_up_has_its_own_exit_code(run_here: Any, bury: Bury) -> None:
    (job_id,) = bury()
    answer = run_here("dead", "replay", job_id, "--wait", "--patience", "0", "--json")
    assert answer.code == 3
    assert [(each["replayed"], each["state"]) for each in answer.json] == [(True, "queued")]


def test_a_batch_that_is_not_recorded(run_here: Any) -> None:
    answer = run_here("dead", "replay", "--batch", "0" * 32)
    assert (answer.code, answer.out) == (1, "")
    assert f"No batch {'0' * 32} is recorded" in answer.err


def test_lanes_count_dead_letters_where_there_are_any(run_here: Any, bury: Bury) -> None:
    bury(2)
    head, line = run_here("lanes").out.splitlines()
    assert line.split()[head.split().index("dead")] == "2"
    assert run_here("dead", "drop", "--all", "--yes").code == 0
    assert "dead" not in run_here("lanes").out
