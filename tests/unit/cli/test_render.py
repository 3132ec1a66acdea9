"""Tables and lines for people, JSON for programs."""

from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from umbel import JobInfo
from umbel_batching.census import LaneStatus
from umbel_batching.deliveries import Attempt, Callback
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import Event
from umbel_batching.tuning import Tuned
from umbel_cli.render import (
    callback_text,
    job_line,
    job_table,
    lanes_table,
    print_json,
    size_text,
    value_text,
)
from umbel_cli.tuning_tables import mode_text, tuning_lines, tuning_table

INFO = JobInfo(
    id="k3f9x2ab-0193",
    model="digits",
    version="3",
    state="succeeded",
    created_at=1_700_000_000_000,
    started_at=1_700_000_000_004,
    finished_at=1_700_000_000_006,
    batch_id="b" * 32,
    batch_size=7,
    flush_reason="size",
    wait_ms=4,
    compute_ms=1.25,
    attempts=1,
    worker="host:12",
    error=None,
    metadata={"tag": "[red]"},
)
CALLBACK = Callback(
    url="https://hooks.example.com:8443/umbel?token=hunter2",
    state="pending",
    attempts=2,
    last_status=503,
    next_at=32_503_680_000_000,
    log=[Attempt(1, 503, 9, "Service [Unavailable]"), Attempt(2, 0, 0, "replayed")],
)
LANE = LaneStatus(
    lane="digits@3",
    model="digits",
    version="3",
    queue="umbel",
    waiting=1200,
    waiting_bytes=5,
    running=1,
    oldest_ms=1500,
    submitted=3000,
    succeeded=1790,
    failed=10,
    expired=0,
    cancelled=0,
    batches=100,
    leases_lost=0,
    shared=0,
    replayed=0,
    dead=0,
    rate=950.4,
    slots=2,
    max_batch_size=64,
    max_wait_ms=5,
)


def drawn(table: Table) -> str:
    file = io.StringIO()
    Console(file=file, width=200).print(table)
    return file.getvalue()


def printed(value: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    print_json(value)
    return json.loads(capsys.readouterr().out)


def test_json_of_arrays_bytes_and_nan(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": np.array([1.5, np.nan]), "b": b"\x00\xff", "c": np.float32(2), "d": [np.int8(3)]}
    assert printed(value, capsys) == {"a": [1.5, None], "b": "AP8=", "c": 2.0, "d": [3]}


def test_json_keys_are_those_of_the_structs(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(printed(INFO, capsys)) == list(INFO.__struct_fields__)
    assert list(printed([LANE], capsys)[0]) == list(LANE.__struct_fields__)


def test_json_refuses_what_has_no_json_form() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        print_json({"x": object()})


def test_values_for_people() -> None:
    assert value_text(np.array([0.125, 2.0])) == "[0.125 2.   ]"
    assert "..." in value_text(np.zeros(10_000))
    assert value_text({"a": np.array([1]), "b": "hello"}) == "a: [1]\nb: hello"
    assert value_text("hello") == "hello"
    assert value_text([1, None]) == "[1, None]"


def test_a_job_in_one_line() -> None:
    assert job_line(INFO) == (
        "digits 3 · batch of 7 (flushed by size) · waited 4 ms · computed in 1.2 ms"
    )


def test_a_job_that_waits_says_only_what_is_known() -> None:
    unknown = ("started_at", "finished_at", "batch_id", "batch_size", "wait_ms", "compute_ms")
    waiting = msgspec.structs.replace(INFO, state="queued", **dict.fromkeys(unknown))
    assert job_line(waiting) == "digits 3"
    text = drawn(job_table(waiting))
    assert "queued" in text
    assert "started" not in text


def test_the_class_of_a_job_is_told_if_it_is_no_normal_one() -> None:
    assert "priority" not in drawn(job_table(INFO))
    text = drawn(job_table(msgspec.structs.replace(INFO, priority="low")))
    assert "priority" in text
    assert "low" in text


def test_the_story_of_a_job_keeps_brackets() -> None:
    text = drawn(job_table(INFO))
    assert "7 jobs, flushed by size" in text
    assert "{'tag': '[red]'}" in text


def test_the_story_of_a_job_has_its_losses_and_replays() -> None:
    lost = Event("lost", 1_700_000_000_000, "c" * 32, "host:9", "killed by [SIGSEGV]")
    again = Event("replayed", 1_700_000_001_000, "c" * 32, "", "")
    text = drawn(job_table(msgspec.structs.replace(INFO, history=[lost, again])))
    assert f"batch {'c' * 32} on host:9 (killed by [SIGSEGV])" in text
    line = next(line for line in text.splitlines() if line.startswith("replayed"))
    assert line.rstrip().endswith("c" * 32)


def test_the_story_of_a_job_has_its_callback_without_its_url(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "callback" not in drawn(job_table(INFO))
    info = msgspec.structs.replace(INFO, callback=CALLBACK)
    line = next(each for each in drawn(job_table(info)).splitlines() if "callback" in each)
    text = "pending · hooks.example.com:8443 · 2 attempts · last: 503 Service [Unavailable] · next"
    assert text in line
    assert "hunter2" not in line
    told = printed(info, capsys)["callback"]
    assert (told["url"], told["log"][0]["status"]) == (CALLBACK.url, 503)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"state": "waiting"}, "waiting for the end of the job · hooks.example.com:8443"),
        ({"next_at": 1}, "pending · hooks.example.com:8443 · next attempt is due"),
        ({"next_at": None}, "pending · hooks.example.com:8443 · next attempt is due"),
        (
            {"state": "delivered", "attempts": 1, "log": [Attempt(1, 200, 9, "")]},
            "delivered · hooks.example.com:8443 · 1 attempt · last: 200",
        ),
    ],
)
def test_callbacks_in_one_line(changes: dict[str, Any], text: str) -> None:
    fresh = msgspec.structs.replace(CALLBACK, attempts=0, log=[])
    assert callback_text(msgspec.structs.replace(fresh, **changes)) == text


def test_lanes_show_counts_and_workers() -> None:
    text = drawn(lanes_table([LANE]))
    for word in ("digits@3", "1,200", "1.5 s", "950/s", "1,790", "18.0"):
        assert word in text
    assert "none" not in text


def test_rare_columns_of_lanes_are_there_where_there_is_something_to_count() -> None:
    plain = drawn(lanes_table([LANE]))
    assert max(map(len, map(str.rstrip, plain.splitlines()))) <= 100
    assert not any(name in plain for name in ("dead", "expired", "cancelled"))
    some = msgspec.structs.replace(LANE, lane="other@1", dead=4, cancelled=5)
    head, first, second = drawn(lanes_table([LANE, some])).splitlines()
    assert "expired" not in head
    place = head.index("dead")
    assert first[place : place + 4].strip() == "0"
    assert second[place : place + 4].strip() == "4"


def test_a_lane_without_workers_says_so() -> None:
    empty = msgspec.structs.replace(LANE, slots=0, waiting=0, batches=0)
    assert "none" in drawn(lanes_table([empty]))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 * 2**20, "3.0 MiB"),
        (2**41, "2048.0 GiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text


TUNED = Tuned(
    kind="cpu/2",
    objective_ms=50,
    size=48,
    wait_ms=3,
    why="objective",
    fixed_ms=5.25,
    per_job_ms=0.125,
    cost_ms=11.25,
    latency_ms=52.5,
    observed_ms=11.5,
    error=0.021,
)


def adaptive(**changes: Any) -> LaneStatus:
    given = {"mode": "adaptive", "latency_objective_ms": 50, "tuned": [TUNED], **changes}
    return msgspec.structs.replace(LANE, **given)


def test_what_workers_chose_is_shown_beside_what_came_of_it() -> None:
    told = drawn(tuning_table([LANE, adaptive()]))
    words = ("digits@3", "cpu/2", "50 ms", "48", "3 ms", "5.25 + 0.125·n", "11.2 ms", "11.5 ms")
    for word in (*words, "2%", "52.5 ms", "a larger one would miss it"):
        assert word in told
    assert told.count("digits@3") == 1, "static lanes have no row"


def test_an_adaptive_lane_without_batches_says_so() -> None:
    assert "no batch yet" in drawn(tuning_table([adaptive(tuned=[])]))
    assert [*tuning_lines(adaptive(tuned=[]))] == ["adaptive: no batch yet"]
    unseen = msgspec.structs.replace(TUNED, observed_ms=None, error=None)
    assert "none ran lately" in next(tuning_lines(adaptive(tuned=[unseen])))
    assert "-" in drawn(tuning_table([adaptive(tuned=[unseen])]))


def test_a_static_lane_has_nothing_to_tell_of_sizes() -> None:
    assert [*tuning_lines(LANE), *tuning_lines(None)] == []
    assert mode_text(BatchPolicy(latency_objective_ms=5)) == "static"


def test_programs_read_what_was_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([adaptive()])
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["mode"], told["tuned"][0]["size"]) == ("adaptive", 48)
    assert told["tuned"][0]["per_job_ms"] == 0.125
