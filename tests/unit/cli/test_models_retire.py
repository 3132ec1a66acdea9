"""``umbel models retire`` and ``policy``: versions that leave, and how jobs are gathered."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from umbel import Client
from umbel_batching.census import lane_statuses
from umbel_registry import TensorSpec, Traffic, TrafficControl


@pytest.fixture
def control(store_redis: redis.Redis, namespace: str, register: Any) -> TrafficControl:
    """Of a model ``reader``: versions 1 to 3, the last of which answers, and a wide one."""
    for version in ("1", "2", "3"):
        register("reader", version)
    register("reader", "wide", x=TensorSpec(dtype="float32", shape=(9,)))
    control = TrafficControl(store_redis, namespace, who="ann@test")
    control.route("reader", {"3": 1})
    return control


@pytest.fixture
def three_wait(control: TrafficControl, settings: Any) -> None:
    """Three jobs in the lane of version 1."""
    with Client(settings=settings()) as client:
        client.submit_many("reader", [[1.0, 2.0, 3.0]] * 3, version="1")


def traffic(control: TrafficControl) -> Traffic:
    return control.read("reader").traffic


@pytest.mark.parametrize(
    ("words", "changed", "told"),
    [
        ((), "finish", "they still run on it, then workers unload it."),
        (("--queued", "fail"), "fail", "they fail."),
        (("--queued", "reroute"), "reroute on 3", "they run on 3 instead."),
        (("--queued", "reroute", "--to", "2"), "reroute on 2", "they run on 2 instead."),
    ],
)
def test_a_version_is_withdrawn_and_what_waits_is_told(
    run_here: Any,
    control: TrafficControl,
    three_wait: None,
    words: tuple[str, ...],
    changed: str,
    told: str,
) -> None:
    answer = run_here("models", "retire", "reader", "1", *words)
    assert answer.out.splitlines() == [
        f"retired 1: none -> {changed}",
        f"3 jobs wait for it now: {told}",
    ]
    assert list(traffic(control).retired) == ["1"]


def test_an_undo_brings_it_back(run_here: Any, control: TrafficControl) -> None:
    assert run_here("models", "retire", "reader", "1", "--json").json["waiting"] == 0
    answer = run_here("models", "retire", "reader", "1", "--undo")
    assert answer.out == "retired 1: finish -> none\n"
    assert traffic(control).retired == {}
    assert "is so already" in run_here("models", "retire", "reader", "1", "--undo").out


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("3",), 1, "the route points to it"),
        (("2",), 1, "alias old points to it"),
        (("9",), 1, "no version '9'"),
        (("wide", "--queued", "reroute"), 1, "take different inputs"),
        (("1", "--queued", "reroute", "--to", "1"), 1, "another version to go to"),
        (("1", "--queued", "later"), 2, "'later'"),
        (("1", "--to", "2"), 2, "goes with --queued reroute"),
        (("1", "--undo", "--queued", "fail"), 2, "--undo goes with neither"),
    ],
)
def test_versions_that_cannot_be_withdrawn_so(
    run_here: Any, control: TrafficControl, words: tuple[str, ...], code: int, told: str
) -> None:
    control.alias("reader", {"old": "2"})
    answer = run_here("models", "retire", "reader", *words)
    assert (answer.code, told in answer.err) == (code, True)
    assert traffic(control).retired == {}


def test_it_tells_where_jobs_go_that_ask_for_no_version(
    run_here: Any, register: Any, store_redis: redis.Redis, namespace: str
) -> None:
    register("sum", "1")
    register("sum", "2")
    answer = run_here("models", "retire", "sum", "2")
    assert "Jobs that ask for no version go to 1." in answer.out
    answer = run_here("models", "retire", "sum", "1")
    assert "No version of sum is left that answers." in answer.out


def test_a_dry_run_withdraws_nothing(
    run_here: Any, control: TrafficControl, three_wait: None
) -> None:
    answer = run_here("models", "retire", "reader", "1", "--dry-run")
    assert "3 jobs wait for it now" in answer.out
    assert "nothing was changed" in answer.out
    assert traffic(control).retired == {}


def test_a_policy_changes_while_its_lane_is_in_use(
    run_here: Any,
    control: TrafficControl,
    three_wait: None,
    store_redis: redis.Redis,
    namespace: str,
) -> None:
    answer = run_here("models", "policy", "reader", "1", "max_wait_ms=2", "max_batch_size=16")
    assert answer.out == "batching 1: none -> max_batch_size=16 max_wait_ms=2\n"
    (lane,) = lane_statuses(store_redis, namespace)
    assert (lane.max_batch_size, lane.max_wait_ms, lane.waiting) == (16, 2, 3)
    answer = run_here("models", "policy", "reader", "1", "max_wait_ms=reset")
    assert "max_batch_size=16 max_wait_ms=2 -> max_batch_size=16" in answer.out
    assert "batching 1: max_batch_size=16 -> none" in (
        run_here("models", "policy", "reader", "1", "--reset").out
    )
    (lane,) = lane_statuses(store_redis, namespace)
    assert (lane.max_batch_size, lane.max_wait_ms) == (8, 5)


def test_without_a_version_it_is_about_those_of_the_route(
    run_here: Any, control: TrafficControl
) -> None:
    control.route("reader", {"1": 1, "3": 2})
    told = run_here("models", "policy", "reader", "single_flight=on", "--json").json
    assert told["versions"] == ["3", "1"]
    assert traffic(control).policies == {"3": {"single_flight": 1}, "1": {"single_flight": 1}}
    shown = run_here("models", "policy", "reader").out
    assert [line.split()[:2] for line in shown.splitlines() if "in force" in line] == [
        ["reader", "3"],
        ["reader", "1"],
    ]
    assert ["single_flight", "no", "yes"] in [line.split() for line in shown.splitlines()]
    told = run_here("models", "policy", "reader", "1", "--json").json["1"]
    assert (told["pushed"]["single_flight"], told["in_force"]["single_flight"]) == (False, True)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("max_wait=2",), 1, "max_wait: unknown key. It has max_batch_size, max_wait_ms"),
        (("max_batch_size=0",), 1, "max_batch_size: Input should be greater than or equal to 1"),
        (("max_wait_ms=soon",), 1, "max_wait_ms: Input should be a valid integer"),
        (("9", "max_wait_ms=2"), 1, "no version '9'"),
        (("1", "2"), 2, "not of the form NAME=VALUE"),
        (("max_wait_ms=2", "--reset"), 2, "NAME=reset"),
    ],
)
def test_policies_that_cannot_be(
    run_here: Any, control: TrafficControl, words: tuple[str, ...], code: int, told: str
) -> None:
    answer = run_here("models", "policy", "reader", *words)
    assert (answer.code, told in answer.err) == (code, True)
    assert traffic(control).policies == {}


def test_where_all_are_retired_a_policy_needs_a_version(run_here: Any, register: Any) -> None:
    register("sum")
    run_here("models", "retire", "sum", "1")
    answer = run_here("models", "policy", "sum", "max_wait_ms=2")
    assert (answer.code, "say which one you mean" in answer.err) == (1, True)


def test_a_dry_run_changes_no_policy(run_here: Any, control: TrafficControl) -> None:
    answer = run_here("models", "policy", "reader", "max_wait_ms=2", "--dry-run")
    assert answer.out.splitlines() == [
        "batching 3: none -> max_wait_ms=2",
        "A dry run: nothing was changed.",
    ]
    assert traffic(control).policies == {}
