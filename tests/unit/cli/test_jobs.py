"""``umbel submit``, ``job``, ``cancel``, ``forget`` and ``lanes`` while no worker is there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from umbel import JobInfo
from umbel_batching.census import LaneStatus


@pytest.fixture(autouse=True)
def _model(register: Any) -> None:
    register("reader")


def test_submit_without_waiting_prints_the_id_alone(run_here: Any) -> None:
    answer = run_here("submit", "reader", "[1, 2, 3]", "--no-wait")
    assert (answer.code, answer.err) == (0, "")
    job_id = answer.out.strip()
    told = run_here("job", job_id, "--json").json
    assert list(told) == [*JobInfo.__struct_fields__, "result"]
    assert (told["id"], told["state"], told["result"]) == (job_id, "queued", None)


def test_json_of_a_queued_job_has_the_same_keys(run_here: Any) -> None:
    words = ("--metadata", "user=7", "--no-wait", "--json")
    told = run_here("submit", "reader", "--example", *words).json
    assert list(told) == [*JobInfo.__struct_fields__, "result"]
    assert told["metadata"] == {"user": 7}


def test_input_from_standard_input(run_here: Any) -> None:
    answer = run_here("submit", "reader", "-", "--no-wait", stdin="[1, 2, 3]")
    assert answer.code == 0, answer.err


def test_patience_that_runs_out_has_its_own_exit_code(run_here: Any) -> None:
    answer = run_here("submit", "reader", "--example", "--patience", "0")
    assert answer.code == 3
    assert "no worker serves queue umbel" in answer.err
    assert "has no result after 0 s. It goes on; ask for it with: umbel job " in answer.err


@pytest.mark.parametrize("words", [(), ("[1]", "--example")])
def test_an_input_or_an_example_not_both(run_here: Any, words: tuple[str, ...]) -> None:
    answer = run_here("submit", "reader", *words)
    assert answer.code == 2
    assert "--example" in answer.err


def test_cancel(run_here: Any) -> None:
    job_id = run_here("submit", "reader", "--example", "--no-wait").out.strip()
    assert run_here("cancel", job_id).out == f"cancelled {job_id}\n"
    told = run_here("cancel", job_id, "--json").json
    assert told == {"id": job_id, "cancelled": True, "state": "cancelled"}
    assert "cancelled" in run_here("job", job_id).out


def test_priority_is_kept_and_shown(run_here: Any) -> None:
    words = ("submit", "reader", "--example", "--no-wait")
    job_id = run_here(*words, "--priority", "high").out.strip()
    assert run_here("job", job_id, "--json").json["priority"] == "high"
    assert "high" in run_here("job", job_id).out
    assert "priority" not in run_here("job", run_here(*words).out.strip()).out
    refused = run_here(*words, "--priority", "urgent")
    assert refused.code == 2
    assert "high" in refused.err


def test_same_key_prints_the_same_job_and_another_input_names_it(run_here: Any) -> None:
    words = ("submit", "reader", "[1, 2, 3]", "--no-wait", "--idempotency-key", "order 7")
    first, second = run_here(*words), run_here(*words)
    assert first.out == second.out
    answer = run_here("submit", "reader", "[1, 2, 4]", *words[3:], "--json")
    assert answer.code == 1
    told = json.loads(answer.err)
    assert (told["error"], told["job_id"]) == ("IdempotencyConflict", first.out.strip())


def test_forgotten_job_is_told_as_such(run_here: Any) -> None:
    job_id = run_here("submit", "reader", "--example", "--no-wait").out.strip()
    assert run_here("forget", job_id).out == f"forgotten {job_id}\n"
    assert run_here("forget", job_id, "--json").json == {"id": job_id, "forgotten": True}
    answer = run_here("job", job_id)
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith(f"error: Job {job_id} was cancelled at ")
    assert len(answer.err.splitlines()) == 1
    told = json.loads(run_here("job", job_id, "--json").err)
    assert (told["error"], told["state"], told["job_id"]) == ("ResultExpired", "cancelled", job_id)
    assert told["finished_at"] > 1_700_000_000_000


def test_lanes_warn_of_jobs_that_nobody_serves(run_here: Any) -> None:
    assert "No lane yet" in run_here("lanes").out
    run_here("submit", "reader", "--example", "--no-wait")
    answer = run_here("lanes")
    assert "reader@1" in answer.out
    assert "warning: 1 job waits in reader@1, and no worker serves queue umbel." in answer.err
    (lane,) = run_here("lanes", "--json").json
    assert list(lane) == list(LaneStatus.__struct_fields__)
    assert (lane["waiting"], lane["slots"]) == (1, 0)


def test_errors_of_every_kind_are_one_line(run_here: Any) -> None:
    known = run_here("submit", "reader", "--example", "--no-wait").out.strip()
    unknown = known[:-1] + ("0" if known[-1] != "0" else "1")
    for words, text in (
        (("submit", "raeder", "--example"), "Did you mean 'reader'"),
        (("submit", "reader", "[1, 2]"), "shape [3]"),
        (("submit", "reader", "hello"), "INPUT is no JSON"),
        (("submit", "reader", "--example", "--metadata", "x"), "NAME=VALUE"),
        (("submit", "reader", "--example", "--max-payload-bytes", "1"), "max_payload_bytes"),
        (("job", unknown), "No job"),
        (("cancel", "nonsense"), "is no job id"),
        (("forget", "nonsense"), "is no job id"),
        (("forget", unknown), "No job"),
        (("submit", "reader", "--example", "--idempotency-key", ""), "printable text"),
    ):
        answer = run_here(*words)
        assert (answer.code, answer.out) == (1, ""), words
        assert text in answer.err
        assert len(answer.err.splitlines()) == 1
        assert answer.err.startswith("error: ")
