"""Faults of Redis: connections cut, restarted, killed, its last second lost, its memory full."""

from __future__ import annotations

import threading
import time
from typing import Any, cast

from redis.exceptions import OutOfMemoryError

from faults.result import Row
from faults.rows import BATCH
from faults.scenario import Scenario
from faults.server import MortalRedis
from faults.stage import Stage
from faults.stages import MortalStage
from faults.trial import Trial
from faults.waiting import until
from umbel_config.errors import StoreFull

#: What `appendfsync everysec` may cost, in seconds.
_EVERYSEC = 1.0
_ROOM_BYTES = 2 * 2**20
#: Others leave less than this, for this long.
_LAST_BYTES, _FULL_S = 64, 3.0


def drop_connections(stage: Stage, name: str, title: str) -> Row:
    """Redis closes the connections of everybody."""
    trial = _flowing(stage, name, title)
    for _ in range(stage.scale.strikes):
        trial.strike()
        for kind in ("normal", "pubsub"):
            stage.redis.execute_command("CLIENT", "KILL", "TYPE", kind)
        trial.await_more(100)
    return trial.finish(f"{stage.scale.strikes} times all connections of workers and clients")


def restart(stage: Stage, name: str, title: str) -> Row:
    """Redis is stopped and started again, as for an upgrade."""
    server = _server(stage)
    trial = _flowing(stage, name, title)
    for _ in range(stage.scale.strikes):
        trial.strike(trial.witness.held())
        server.stop()
        server.start()
        trial.await_more(100)
    return trial.finish(f"{stage.scale.strikes} restarts")


def kill_always(stage: Stage, name: str, title: str) -> Row:
    """SIGKILL for a Redis that writes each change to disk before it answers."""
    server = _server(stage)
    server.stop()
    server.start("always")
    trial = _flowing(stage, name, title)
    for _ in range(stage.scale.strikes):
        trial.strike(trial.witness.held())
        server.kill()
        server.start("always")
        trial.await_more(100)
    return trial.finish(f"{stage.scale.strikes} kills")


def kill_everysec(stage: Stage, name: str, title: str) -> Row:
    """SIGKILL for a Redis that writes to disk once a second; the kernel keeps what was written."""
    server = _server(stage)
    server.stop()
    server.start("everysec")
    trial = _flowing(stage, name, title)
    at_risk = 0
    for _ in range(stage.scale.strikes):
        trial.strike(trial.witness.held())
        server.kill()
        at_risk += _accepted_since(trial, time.monotonic() - _EVERYSEC)
        server.start("everysec")
        trial.await_more(100)
    note = f"{stage.scale.strikes} kills; {at_risk} jobs were accepted in the last second before"
    return trial.finish(note, allowed_loss=at_risk)


def power_cut(stage: Stage, name: str, title: str) -> Row:
    """As above, and the file is cut back to what it was a second before: the worst case."""
    server = _server(stage)
    server.stop()
    server.start("everysec")
    # Small batches, so that jobs come faster than they are done and the last second holds some.
    trial = _flowing(stage, name, title, max_batch_size=2)
    stop = threading.Event()
    watcher = threading.Thread(target=server.watch_file, args=(stop,), daemon=True)
    watcher.start()
    start = time.monotonic()
    until(lambda: time.monotonic() - start > 2 * _EVERYSEC, "the file has a past")
    trial.strike(trial.witness.held())
    stop.set()
    watcher.join()
    server.kill()
    cut_at = server.cut_file(_EVERYSEC)
    at_risk = _accepted_since(trial, cut_at)
    server.start("everysec")
    trial.load.stop()
    return trial.finish(
        f"the file lost what was written since; {at_risk} jobs were accepted after that",
        allowed_loss=at_risk,
    )


def full_memory(stage: Stage, name: str, title: str) -> Row:
    """Redis reaches `maxmemory`: new jobs are refused, those it holds all get their results."""
    trial = stage.trial(name, title)
    stage.ensure_workers(1)
    trial.load.submit(256)
    trial.await_done(256)
    used = cast("dict[str, Any]", stage.redis.info("memory"))["used_memory"]
    stage.redis.config_set("maxmemory", used + _ROOM_BYTES)
    try:
        while not trial.load.refused:
            trial.load.submit(256)
        trial.strike(trial.witness.waiting())
        for _ in range(20):
            trial.load.submit(64)
        held = len(trial.load.jobs)
        trial.await_done(held)
        _fill_to_the_brim(stage, trial)
    finally:
        stage.redis.config_set("maxmemory", 0)
    trial.check(
        trial.load.refused.keys() == {StoreFull.__name__},
        f"refused with {', '.join(trial.load.refused)} instead of {StoreFull.__name__}",
    )
    trial.check(stage.workers[0].alive(), "the worker outlives a full Redis")
    refused = trial.load.refused.total()
    trial.load.submit(64)
    return trial.finish(
        f"filled with jobs, then by others; {refused} jobs refused with {StoreFull.__name__}"
    )


def _fill_to_the_brim(stage: Stage, trial: Trial) -> None:
    """Others take what is left of the memory, while jobs wait, and give it back after a while."""
    trial.load.submit(10 * BATCH)
    size = 2**16
    kept: list[str] = []
    while size >= _LAST_BYTES:
        try:
            stage.redis.set(f"ballast:{len(kept)}", b"x" * size)
            kept.append(f"ballast:{len(kept)}")
        except OutOfMemoryError:
            size //= 2
    refused = trial.load.refused.total()
    trial.load.submit(BATCH)
    trial.check(trial.load.refused.total() == refused + BATCH, "a full Redis takes no new job")
    time.sleep(_FULL_S)
    stage.redis.delete(*kept)


def _server(stage: Stage) -> MortalRedis:
    return cast("MortalStage", stage).server


def _flowing(stage: Stage, name: str, title: str, **batching: int) -> Trial:
    """A trial whose jobs flow already."""
    trial = stage.trial(name, title, **batching)
    stage.ensure_workers(2)
    trial.load.feed(stage.scale.per_s)
    trial.await_done(100)
    return trial


def _accepted_since(trial: Trial, moment: float) -> int:
    return sum(at >= moment for at in trial.load.times)


ON_MORTAL_REDIS = (
    Scenario("drop-connections", "connections to Redis dropped", drop_connections),
    Scenario("restart-redis", "Redis restarted", restart, 120),
    Scenario("kill-redis-always", "Redis kill -9, AOF always", kill_always, 120),
    Scenario("kill-redis-everysec", "Redis kill -9, AOF everysec", kill_everysec, 120),
    Scenario("power-cut", "power cut, AOF everysec: its last second gone", power_cut),
)
ON_FULL_MEMORY = (Scenario("maxmemory", "Redis reaches maxmemory", full_memory, 150),)
