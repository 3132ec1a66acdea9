"""What a Redis says of itself, put into words: version, eviction, memory, persistence."""

from __future__ import annotations

from typing import Any

import pytest

from umbel_cli.doctor.findings import Finding, Level
from umbel_cli.doctor.server import Facts, judge_server, parse_save

GOOD = {
    "redis_version": "7.2.4",
    "redis_mode": "standalone",
    "role": "master",
    "used_memory": 2**20,
    "maxmemory": 2**30,
    "maxmemory_policy": "noeviction",
    "total_system_memory": 2**33,
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "connected_slaves": 0,
}
CONFIG = {
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
    "min-replicas-to-write": "0",
    "save": "",
}


def judged(
    check: str, *, config: dict[str, str] | None = CONFIG, embedded: bool = False, **info: Any
) -> Finding:
    facts = Facts("redis://here:6379/0", GOOD | info, config, embedded)
    (found,) = (each for each in judge_server(facts) if each.check == f"redis.{check}")
    return found


def test_a_good_server_has_no_finding_but_good_ones() -> None:
    found = list(judge_server(Facts("redis://here:6379/0", GOOD, CONFIG)))
    assert {each.level for each in found} == {Level.OK}
    assert len({each.check for each in found}) == len(found) == 6


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"redis_version": "6.0.16"}, "6.0.16"),
        ({"redis_version": ""}, "version unknown"),
        ({"redis_mode": "cluster"}, "runs as cluster"),
        ({"role": "slave"}, "read-only replica"),
    ],
)
def test_a_server_that_cannot_serve_is_a_problem(info: dict[str, Any], words: str) -> None:
    found = judged("version", **info)
    assert found.level is Level.PROBLEM
    assert words in found.summary
    assert found.advice


def test_valkey_is_named() -> None:
    assert "Valkey" in judged("version", server_name="valkey").summary


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_eviction_is_a_problem(policy: str) -> None:
    found = judged("eviction", maxmemory_policy=policy)
    assert (found.level, policy in found.summary) == (Level.PROBLEM, True)
    assert "CONFIG SET maxmemory-policy noeviction" in found.advice


def test_eviction_is_read_from_the_configuration_where_info_is_silent() -> None:
    config = CONFIG | {"maxmemory-policy": "allkeys-random"}
    assert judged("eviction", maxmemory_policy=None, config=config).level is Level.PROBLEM
    assert judged("eviction", maxmemory_policy=None, config=None).level is Level.SKIPPED


@pytest.mark.parametrize(
    ("share", "level"),
    [(0.5, Level.OK), (0.81, Level.WARNING), (0.96, Level.PROBLEM), (1.02, Level.PROBLEM)],
)
def test_memory_against_its_limit(share: float, level: Level) -> None:
    found = judged("memory", used_memory=int(share * 2**30))
    assert found.level is level
    assert f"of 1.0 GiB used ({share:.0%})" in found.summary


@pytest.mark.parametrize(
    ("embedded", "used", "level"),
    [
        (True, 2**20, Level.OK),
        (True, 2**32 + 1, Level.WARNING),
        (False, 2**20, Level.WARNING),
    ],
)
def test_memory_without_a_limit(embedded: bool, used: int, level: Level) -> None:
    found = judged("memory", maxmemory=0, used_memory=used, embedded=embedded)
    assert (found.level, "no limit set" in found.summary) == (level, True)


@pytest.mark.parametrize(
    ("fsync", "level", "words"),
    [
        ("always", Level.OK, "loses no accepted job"),
        ("everysec", Level.OK, "last one or two seconds"),
        ("no", Level.WARNING, "often 30 s"),
    ],
)
def test_an_append_only_file_by_how_often_it_is_synced(
    fsync: str, level: Level, words: str
) -> None:
    found = judged("persistence", config=CONFIG | {"appendfsync": fsync})
    assert (found.level, words in found.summary) == (level, True)


def test_snapshots_alone_say_how_much_a_crash_loses() -> None:
    config = CONFIG | {"save": "3600 1 300 100 60 10000"}
    found = judged("persistence", aof_enabled=0, rdb_changes_since_last_save=1234, config=config)
    assert found.level is Level.WARNING
    assert "up to 1 h; 1,234 changes at this moment" in found.summary
    assert "appendonly yes" in found.advice


@pytest.mark.parametrize(("rule", "words"), [("900 1", "15 min"), ("30 1", "30 s")])
def test_snapshots_in_minutes_and_seconds(rule: str, words: str) -> None:
    found = judged("persistence", aof_enabled=0, config=CONFIG | {"save": rule})
    assert f"up to {words}; no changes" in found.summary


def test_no_persistence_is_a_problem() -> None:
    found = judged("persistence", aof_enabled=0)
    assert (found.level, "loses all jobs" in found.summary) == (Level.PROBLEM, True)


@pytest.mark.parametrize(("aof", "level"), [(1, Level.OK), (0, Level.WARNING)])
def test_what_cannot_be_seen_is_said(aof: int, level: Level) -> None:
    found = judged("persistence", aof_enabled=aof, config=None)
    assert (found.level, "cannot be seen" in found.summary) == (level, True)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"aof_last_write_status": "err"}, "The last write to the append-only file has failed"),
        ({"rdb_last_bgsave_status": "err"}, "The last snapshot has failed"),
        (
            {"aof_last_bgrewrite_status": "err", "rdb_last_bgsave_status": "err"},
            "The last rewrite of the append-only file and the last snapshot have failed",
        ),
    ],
)
def test_a_disk_that_takes_no_writes_is_a_problem(info: dict[str, Any], words: str) -> None:
    found = judged("disk", **info)
    assert (found.level, words in found.summary) == (Level.PROBLEM, True)


@pytest.mark.parametrize(
    ("info", "wanted", "level", "words"),
    [
        ({}, "0", Level.OK, "None"),
        ({"connected_slaves": 1}, "0", Level.OK, "1 replica. They"),
        ({"connected_slaves": 2, "min_slaves_good_slaves": 2}, "2", Level.OK, "writes need 2"),
        ({"connected_slaves": 2, "min_slaves_good_slaves": 1}, "2", Level.PROBLEM, "1 good"),
        ({}, "1", Level.PROBLEM, "writes are refused"),
    ],
)
def test_replicas(info: dict[str, Any], wanted: str, level: Level, words: str) -> None:
    found = judged("replicas", config=CONFIG | {"min-replicas-to-write": wanted}, **info)
    assert (found.level, words in found.summary) == (level, True)


def test_save_rules_are_read_slowest_first() -> None:
    assert parse_save("60 10000 3600 1") == [(3600, 1), (60, 10000)]
    assert parse_save("") == []
