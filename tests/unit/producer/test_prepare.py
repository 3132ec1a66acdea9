"""What a caller gives is checked and bounded before anything is queued."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from umbel._prepare import Options, check_routing_key, options, prepare, prepare_many
from umbel._way import Target, Turns, Way
from umbel_batching import wire
from umbel_batching.lanes import Lane, keyed_uid
from umbel_batching.length import code_of
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import MAX_META, Priority
from umbel_batching.values import NewJob
from umbel_config.errors import InvalidInput, PayloadTooLarge
from umbel_registry import Route, Signature, TensorSpec
from umbel_registry.route import position_of

REPLY = "0123456789abcdef"
ROW = np.arange(4, dtype=np.float32)


def make(**given: Any) -> Options:
    usual: dict[str, Any] = {"reply": REPLY, "version": None, "timeout": None, "metadata": None}
    return options(**(usual | {"priority": "normal", "max_bytes": 1000} | given))


def target(**batching: int) -> Target:
    signature = Signature(
        inputs={"x": TensorSpec(dtype="float32", shape=(4,), allow_nan=False)},
        outputs={"y": TensorSpec(dtype="float32", shape=(4,))},
    )
    lane = Lane(model="digits", version="1", policy=BatchPolicy(**batching))
    return Target(lane, signature)


def many(values: Any, chosen: Options, keys: Any = None) -> list[NewJob]:
    """The jobs of a call whose way leads to one lane."""
    way = Way(Route.of({"1": 1.0}), {"1": target()}, Turns())
    (group,) = prepare_many(way, values, chosen, keys)
    assert group.rows == range(len(group.new))
    return list(group.new)


@pytest.mark.parametrize(
    ("timeout", "expected"),
    [(None, 0), (1, 1000), (0.5, 500), (1e-9, 1), (30 * 24 * 3600, 2_592_000_000)],
)
def test_timeout_becomes_milliseconds(timeout: float | None, expected: int) -> None:
    assert make(timeout=timeout).timeout_ms == expected


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, 2_592_001, "5", [1], True])
def test_wrong_timeout_is_refused(timeout: Any) -> None:
    with pytest.raises(InvalidInput, match="timeout must be seconds"):
        make(timeout=timeout)


@pytest.mark.parametrize(
    "metadata", [[1], "text", {1: "a"}, {"a": object()}, {"a": {1, 2}.__iter__()}]
)
def test_metadata_that_is_no_plain_dict_is_refused(metadata: Any) -> None:
    with pytest.raises(InvalidInput, match="metadata"):
        make(metadata=metadata)


def test_metadata_over_its_limit_is_refused() -> None:
    with pytest.raises(InvalidInput, match=str(MAX_META)):
        make(metadata={"a": "x" * MAX_META})


def test_job_carries_priority_reply_metadata_and_payload() -> None:
    new = prepare(target(), ROW, make(metadata={"a": 1}, timeout=2, priority="high"))
    assert new.tail.startswith(b"h000" + REPLY.encode())
    assert new.timeout_ms == 2000
    assert new.tail.endswith(wire.encode(ROW))


@pytest.mark.parametrize(
    ("spec", "value", "length"),
    [
        (TensorSpec(dtype="string"), "x" * 300, 300),
        (TensorSpec(dtype="string"), "", 1),
        (TensorSpec(dtype="int64", shape=(-1,)), np.ones(64, np.int64), 64),
    ],
)
def test_job_carries_the_length_of_its_input(spec: TensorSpec, value: Any, length: int) -> None:
    signature = Signature(inputs={"x": spec}, outputs={"y": TensorSpec(dtype="float32")})
    where = Target(target().lane, signature)
    new = prepare(where, value, make(metadata={"a": 1}, priority="low"))
    plain = make(metadata={"a": 1}, priority="low").tail + wire.encode(value)
    assert new.tail == b"l%03d" % code_of(length) + plain[4:]


def test_payload_at_the_limit_passes_and_one_byte_more_does_not() -> None:
    size = len(wire.encode(ROW))
    prepare(target(), ROW, make(max_bytes=size))
    with pytest.raises(PayloadTooLarge, match=f"{size} bytes.*max_payload_bytes"):
        prepare(target(), ROW, make(max_bytes=size - 1))


def test_job_that_no_lane_could_ever_hold_is_too_large_not_a_full_lane() -> None:
    with pytest.raises(PayloadTooLarge, match="max_queue_bytes"):
        prepare(target(max_queue_bytes=100), ROW, make())


@pytest.mark.parametrize(
    "value",
    [
        ROW.astype(np.float64),
        ROW[:3],
        ROW.reshape(1, 4),
        np.full(4, np.nan, dtype=np.float32),
        [1.0, "a", 2.0, 3.0],
        [[1.0], [1.0, 2.0]],
        "text",
        b"bytes",
        None,
        object(),
        {"x": ROW, "z": ROW},
        {},
    ],
    ids=repr,
)
def test_value_that_does_not_fit_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput):
        prepare(target(), value, make())


def test_many_are_all_checked_before_the_first_is_made() -> None:
    with pytest.raises(InvalidInput, match="Row 2"):
        many([ROW, ROW, ROW[:2]], make())


def test_rows_of_one_array_are_jobs_of_their_own() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    jobs = many(rows, make())
    assert len({job.uid for job in jobs}) == 3
    head = len(make().tail)
    decoded = [wire.decode(job.tail[head:]) for job in jobs]
    np.testing.assert_array_equal(np.stack(decoded), rows)
    assert many(rows[:0], make()) == []


@pytest.mark.parametrize("priority", ["high", "normal", "low", *Priority])
def test_priority_is_one_letter_of_the_record(priority: Priority | str) -> None:
    assert make(priority=priority).tail[:1].decode() == str(priority)[0]


@pytest.mark.parametrize("priority", ["urgent", "HIGH", "", None, 1, True, ["high"], {}])
def test_priority_that_is_none_of_the_three_is_refused(priority: Any) -> None:
    with pytest.raises(InvalidInput, match="high, normal, low"):
        make(priority=priority)


def test_key_names_the_job_and_the_fingerprint_its_input_and_version() -> None:
    first = prepare(target(), ROW, make(), "order 7")
    assert first.uid == keyed_uid("digits", "order 7")
    assert len(first.fingerprint) == 32
    again = prepare(target(), ROW.copy(), make(metadata={"a": 1}, timeout=3), "order 7")
    assert (again.uid, again.fingerprint) == (first.uid, first.fingerprint)
    for other in (
        prepare(target(), ROW + 1, make(), "order 7"),
        prepare(target(), ROW, make(version="1"), "order 7"),
    ):
        assert other.uid == first.uid
        assert other.fingerprint != first.fingerprint
    assert prepare(target(), ROW, make(), "order 8").uid != first.uid
    assert prepare(target(), ROW, make()).fingerprint == ""


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "\x00", "\ud800", 7, b"key", ["key"]])
def test_key_that_is_no_printable_text_is_refused_and_not_repeated(key: Any) -> None:
    for refuse in (
        lambda: prepare(target(), ROW, make(), key),
        lambda: many([ROW, ROW], make(), [None, key]),
    ):
        with pytest.raises(InvalidInput, match="idempotency key") as caught:
            refuse()
        assert not key or str(key) not in str(caught.value)
    with pytest.raises(InvalidInput, match="of row 1"):
        many([ROW, ROW], make(), [None, key])


@pytest.mark.parametrize("key", ["x" * 255, "ä ö", "0"])
def test_key_at_its_limits_passes(key: str) -> None:
    assert prepare(target(), ROW, make(), key).uid == keyed_uid("digits", key)


@pytest.mark.parametrize("keys", [[], ["a"], ["a", "b", "c"], "ab", iter(["a", "b"]), {"a": 1}])
def test_keys_must_be_as_many_as_the_rows(keys: Any) -> None:
    with pytest.raises(InvalidInput, match="one key for each of the 2 rows"):
        many([ROW, ROW], make(), keys)


def test_rows_without_a_key_stand_among_those_with_one() -> None:
    jobs = many([ROW, ROW, ROW], make(), ["a", None, "a"])
    assert [bool(job.fingerprint) for job in jobs] == [True, False, True]
    assert jobs[0].uid == jobs[2].uid != jobs[1].uid


def test_one_key_at_two_inputs_of_a_call_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Rows 0 and 2") as caught:
        many([ROW, ROW, ROW + 1], make(), ["secret", "b", "secret"])
    assert "secret" not in str(caught.value)


HALVES = Route.of({"1": 50, "2": 50})


def halves() -> Way:
    first = target()
    lane = Lane(model="digits", version="2", policy=first.lane.policy)
    return Way(HALVES, {"1": first, "2": Target(lane, first.signature)}, Turns())


def test_rows_go_to_the_lanes_of_their_routing_keys() -> None:
    rows = np.arange(400, dtype=np.float32).reshape(100, 4)
    keys = [f"customer {number}" for number in range(100)]
    groups = prepare_many(halves(), rows, make(), None, keys)
    assert {group.target.lane.version for group in groups} == {"1", "2"}
    assert sorted(row for group in groups for row in group.rows) == list(range(100))
    head = len(make().tail)
    for group in groups:
        for row, job in zip(group.rows, group.new, strict=True):
            owner = HALVES.at(position_of("digits", keys[row]))
            assert owner == group.target.lane.version
            np.testing.assert_array_equal(wire.decode(job.tail[head:]), rows[row])


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "\x00", "\ud800", 7, b"key", ["key"]])
def test_routing_key_that_is_no_printable_text_is_refused_and_not_repeated(key: Any) -> None:
    with pytest.raises(InvalidInput, match="The routing key must be printable") as caught:
        check_routing_key(key)
    assert not key or str(key) not in str(caught.value)
    one = Way(Route.of({"1": 1.0}), {"1": target()}, Turns())
    for way in (halves(), one):  # also where no route looks at it
        with pytest.raises(InvalidInput, match="The routing key of row 1"):
            prepare_many(way, [ROW, ROW], make(), None, [None, key])
    check_routing_key(None)
    check_routing_key("x" * 255)


@pytest.mark.parametrize("keys", [[], ["a"], ["a", "b", "c"], "ab", iter(["a", "b"]), {"a": 1}])
def test_routing_keys_must_be_as_many_as_the_rows(keys: Any) -> None:
    with pytest.raises(InvalidInput, match="routing_keys must be a list with one key for each"):
        prepare_many(halves(), [ROW, ROW], make(), None, keys)


def test_one_idempotency_key_at_two_inputs_is_refused_across_lanes() -> None:
    apart = [
        next(k for k in map(str, range(99)) if HALVES.at(position_of("digits", k)) == v)
        for v in ("2", "1")
    ]
    groups = prepare_many(halves(), [ROW, ROW], make(), ["a", "a"], apart)
    assert [[*group.rows] for group in groups] == [[0], [1]]
    first, second = (group.new[0] for group in groups)
    assert (first.uid, first.fingerprint) == (second.uid, second.fingerprint)
    with pytest.raises(InvalidInput, match="Rows 0 and 1"):
        prepare_many(halves(), [ROW, ROW + 1], make(), ["a", "a"], apart)


def test_row_that_is_too_large_for_one_of_the_lanes_queues_nothing() -> None:
    small = Target(
        Lane(model="digits", version="2", policy=BatchPolicy(max_queue_bytes=100)),
        target().signature,
    )
    way = Way(HALVES, {"1": target(), "2": small}, Turns())
    with pytest.raises(PayloadTooLarge, match="digits@2"):
        prepare_many(way, [ROW] * 10, make())
