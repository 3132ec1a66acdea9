"""What worker processes hold is told for ten seconds, and compared with the workers of a queue."""

from __future__ import annotations

from typing import Any

import fakeredis
import msgspec
import pytest

from umbel_batching.keys import workers_key
from umbel_config.errors import StoreUnavailable
from umbel_registry import Manifest, ModelFile
from umbel_registry.fleet import (
    STALE_MS,
    Fleet,
    Held,
    LoadFailure,
    LoadState,
    Readiness,
    Report,
    readiness_of,
)
from umbel_registry.keys import failures_key, process_key, processes_key
from umbel_registry.manifest import build_manifest
from umbel_registry.paths import FileInfo

NOW = 1_800_000_000_000


def manifest(version: str = "3", content: str = "1") -> Manifest:
    model = ModelFile.model_validate(
        {
            "name": "digits",
            "format": "torch_export",
            "weights": "model.pt2",
            "inputs": {"x": {"dtype": "float32", "shape": [4]}},
            "outputs": {"y": {"dtype": "float32"}},
            "queue": "cpu",
        }
    )
    return build_manifest(model, {"model.pt2": FileInfo(bytes=1, sha256=content * 64)}, version)


THREE = manifest()


def held(state: LoadState = "ready", **changes: Any) -> Held:
    usual: dict[str, Any] = {"model": "digits", "version": "3", "digest": THREE.digest}
    return Held(**(usual | {"state": state, "since_ms": NOW} | changes))


def report(process: str, worker: str = "", slots: int = 1, **changes: Any) -> Report:
    usual: dict[str, Any] = {"process": process, "worker": worker or process, "slots": slots}
    return Report(**(usual | {"queues": ("cpu",)} | changes))


@pytest.fixture
def redis() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis()


@pytest.fixture
def fleet(redis: fakeredis.FakeRedis) -> Fleet:
    return Fleet(redis, "t")


def serving(redis: fakeredis.FakeRedis, **slots: int) -> None:
    """Has workers tell that they are alive, as their companions do."""
    redis.zadd(workers_key("t", "cpu"), {f"{name}|{count}": 1e16 for name, count in slots.items()})


def test_reports_are_read_by_name_until_their_process_leaves(fleet: Fleet) -> None:
    assert fleet.reports() == []
    second, first = report("b:2", held=(held(),), loaded_mb=5.5), report("a:1", "a:0", 4)
    fleet.tell(second, NOW)
    fleet.tell(first, NOW)
    assert fleet.reports() == [first, second]
    assert second.of("digits", "3") == held()
    assert second.of("digits", "4") is second.of("other", "3") is None
    newer = report("b:2", held=(held("failed", error="no memory"),))
    fleet.tell(newer, NOW + 2000)
    assert fleet.reports() == [first, newer]
    fleet.leave("b:2")
    fleet.leave("never:0")
    assert fleet.reports() == [first]


def test_report_that_is_not_told_again_goes_by_itself(
    redis: fakeredis.FakeRedis, fleet: Fleet
) -> None:
    fleet.tell(report("a:1"), NOW)
    assert 0 < redis.pttl(process_key("t", "a:1")) <= STALE_MS
    assert 0 < redis.ttl(processes_key("t")) <= 60
    redis.delete(process_key("t", "a:1"))  # as its TTL does
    assert fleet.reports() == []
    fleet.tell(report("b:2"), NOW + STALE_MS - 1)
    assert redis.zcard(processes_key("t")) == 2
    fleet.tell(report("b:2"), NOW + STALE_MS)
    assert redis.zrange(processes_key("t"), 0, -1) == [b"b:2"]


def test_report_of_another_release_is_as_if_not_told(
    redis: fakeredis.FakeRedis, fleet: Fleet
) -> None:
    fleet.tell(report("a:1"), NOW)
    fleet.tell(report("b:2"), NOW)
    for told in (b"{", b"{}", b"\xff", b'{"process": 1}'):
        redis.set(process_key("t", "a:1"), told)
        assert [each.process for each in fleet.reports()] == ["b:2"]
    redis.set(process_key("t", "a:1"), msgspec.json.encode({**_plain(report("a:1")), "more": 1}))
    assert [each.process for each in fleet.reports()] == ["a:1", "b:2"]


def _plain(told: Report) -> dict[str, Any]:
    return dict(msgspec.to_builtins(told))


def test_failures_outlive_their_worker_and_go_with_success(
    redis: fakeredis.FakeRedis, fleet: Fleet
) -> None:
    failure = LoadFailure(NOW, "a:1", "no such file")
    fleet.note_failure("digits", "3", failure)
    fleet.note_failure("digits", "4", LoadFailure(NOW, "a:1", "first"))
    fleet.note_failure("digits", "4", LoadFailure(NOW + 1, "b:2", "second"))
    found = fleet.failures("digits")
    assert found == {"3": failure, "4": LoadFailure(NOW + 1, "b:2", "second")}
    assert fleet.failures("other") == {}
    redis.hset(failures_key("t", "digits"), "5", b"of a later release")
    fleet.note_failure("digits", "4", None)
    fleet.note_failure("digits", "4", None)
    assert fleet.failures("digits") == {"3": failure}


def test_client_that_decodes_works_too() -> None:
    fleet = Fleet(fakeredis.FakeRedis(decode_responses=True), "t")
    fleet.tell(report("a:1"), NOW)
    fleet.note_failure("digits", "3", LoadFailure(NOW, "a:1", "no"))
    assert fleet.reports() == [report("a:1")]
    assert [*fleet.failures("digits")] == ["3"]


def test_store_that_is_away_is_told_as_such() -> None:
    server = fakeredis.FakeServer()
    fleet = Fleet(fakeredis.FakeRedis(server=server), "t")
    server.connected = False
    for call in (
        fleet.reports,
        lambda: fleet.tell(report("a:1"), NOW),
        lambda: fleet.leave("a:1"),
        lambda: fleet.failures("digits"),
        lambda: fleet.note_failure("digits", "3", None),
        lambda: fleet.readiness(THREE),
    ):
        with pytest.raises(StoreUnavailable):
            call()


def test_readiness_compares_live_workers_with_what_they_told(
    redis: fakeredis.FakeRedis, fleet: Fleet
) -> None:
    nobody = fleet.readiness(THREE)
    assert nobody == Readiness(slots=0, ready=0, missing=(), failed={})
    assert not nobody.enough(0)
    serving(redis, a=2, b=2)
    fleet.tell(report("a", slots=2, held=(held(),)), NOW)
    fleet.tell(report("gone", slots=8, held=(held(),)), NOW)
    fleet.tell(report("b", slots=2, held=(held("failed", error="no room"),)), NOW)
    found = fleet.readiness(THREE)
    assert found == Readiness(slots=4, ready=2, missing=("b",), failed={"b": "no room"})
    assert found.enough(0.5)
    assert not found.enough(0.51)


def test_children_of_a_prefork_worker_are_counted_one_by_one() -> None:
    children = [report(f"a:{pid}", "a:0", held=(held(),)) for pid in (1, 2, 3)]
    loading = report("a:4", "a:0", held=(held("loading"),))
    found = readiness_of(THREE, {"a:0": 4}, [*children, loading])
    assert (found.ready, found.missing) == (3, ("a:0",))
    fourth = report("a:4", "a:0", held=(held(),))
    assert readiness_of(THREE, {"a:0": 4}, [*children, fourth]).enough(1.0)


def test_child_that_was_replaced_counts_no_more_than_the_worker_has_slots() -> None:
    """The report of a dead child lives on for some seconds beside that of its successor."""
    told = [report(f"a:{pid}", "a:0", held=(held(),)) for pid in (1, 2, 3)]
    found = readiness_of(THREE, {"a:0": 2, "b:0": 2}, told)
    assert (found.slots, found.ready, found.missing) == (4, 2, ("b:0",))
    assert not found.enough(1.0)


def test_only_the_very_content_that_is_registered_is_ready() -> None:
    """A version of that name and other content may be left from before Redis lost its data."""
    older = manifest(content="2")
    assert older.digest != THREE.digest
    told = [report("a", held=(held(digest=older.digest),)), report("b", held=(held(version="4"),))]
    found = readiness_of(THREE, {"a": 1, "b": 1}, told)
    assert (found.ready, found.missing, found.failed) == (0, ("a", "b"), {})


@pytest.mark.parametrize(
    ("ready", "slots", "share", "enough"),
    [
        (3, 3, 1.0, True),
        (2, 3, 1.0, False),
        (1, 3, 1 / 3, True),
        (2, 3, 2 / 3, True),
        (1, 10, 0.0, True),
        (0, 10, 0.0, False),
        (7, 10, 0.7, True),
        (0, 0, 0.0, False),
    ],
)
def test_enough_is_a_share_of_the_slots(ready: int, slots: int, share: float, enough: bool) -> None:
    assert Readiness(slots, ready, (), {}).enough(share) is enough
