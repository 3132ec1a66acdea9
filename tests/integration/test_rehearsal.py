"""Recorded batches that run again in a process of their own, and dead letters that live again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis
from typer.testing import CliRunner

import umbel_worker.rehearsal as module
from umbel import Client, State
from umbel_batching.calls import Calls
from umbel_batching.dead_letters import RecordedBatch, dead_letters, recorded_batch
from umbel_batching.lanes import new_uid, slot_of
from umbel_batching.scripts import Runner
from umbel_cli.main import app
from umbel_config.errors import ConfigError, ModelNotFound, ModelUnavailable, NotReplayable
from umbel_config.settings import Settings, environment
from umbel_worker.rehearsal import NOTES, ORDER, Order, rehearse

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register

UNLUCKY, DEADLY = 13.0, 16.0
GUILTY = 16
HANDLERS = Path(__file__).parents[1] / "handlers"
LANE = "affine@1"
Rows = Callable[[int], Any]


@pytest.fixture
def site(settings: MakeSettings, register: Register, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A model whose batches hold 32 jobs, in settings that the command line finds, too."""
    made = settings(allowed_modules=("umbel_test_handlers",))
    register(made, max_batch_size=32, max_wait_ms=50)
    for name, value in environment(made).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(HANDLERS), prepend=os.pathsep)
    return made


@pytest.fixture
def record(
    site: Settings, client: Client, store_redis: redis.Redis, rows: Rows
) -> Callable[[float], RecordedBatch]:
    """Records a batch of 32 jobs of which the 17th begins with a value, as its worker dies."""

    def make(value: float) -> RecordedBatch:
        inputs = rows(32)
        inputs[GUILTY, 0] = value
        client.submit_many("affine", inputs)
        calls, runner, slot = Calls.of(site), Runner(store_redis), slot_of(LANE)
        batch = new_uid()
        claim = calls.claim(slot, batch=batch, token="t", worker="host:12", lease_ms=60_000)
        assert len(runner.run(claim).uids) == 32
        runner.run(calls.orphan(slot, owner="t", cause="killed by SIGKILL"))
        assert runner.run(calls.reap(slot, limit=1, max_attempts=1)).failed == 32
        found = recorded_batch(store_redis, site.namespace, batch)
        assert found is not None
        return found

    return make


def everything(client: redis.Redis, namespace: str) -> dict[bytes, Any]:
    """All that Redis holds of a namespace."""
    return {key: client.dump(key) for key in client.scan_iter(f"{namespace}*", count=1000)}


def umbel(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(words), prog_name="umbel")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.exit_code, done.stdout, done.stderr


def test_a_batch_with_one_guilty_job(record: Any, site: Settings, store_redis: redis.Redis) -> None:
    batch = record(UNLUCKY)
    before = everything(store_redis, site.namespace)
    told = rehearse(store_redis, site, batch)
    assert (told.whole, told.error) == ("raised", "ValueError: unlucky input")
    assert (told.stage, told.ended, told.device) == ("done", None, "cpu")
    assert (told.jobs, told.missing) == (32, 0)
    assert told.forwards == 11  # the whole, then two halves of 16, 8, 4, 2 and 1
    assert [each.id for each in told.results] == batch.job_ids
    assert [place for place, each in enumerate(told.results) if not each.ok] == [GUILTY]
    assert told.results[GUILTY].error == "ValueError: unlucky input"
    assert everything(store_redis, site.namespace) == before


def test_a_batch_whose_job_kills_the_process(
    record: Any, site: Settings, store_redis: redis.Redis
) -> None:
    told = rehearse(store_redis, site, record(DEADLY))
    assert (told.whole, told.ended, told.stage) == ("died", "SIGKILL", "whole")
    assert (told.forwards, told.results, told.error) == (1, [], None)
    assert not told.ok


def test_inputs_do_not_stay_on_the_disk_if_nobody_is_left_to_remove_them(
    record: Any, site: Settings, store_redis: redis.Redis, tmp_path: Path
) -> None:
    order = Order(module._manifest(store_redis, site, LANE).to_json(), record(DEADLY).payloads)
    assert module._run(tmp_path, order, site, 60.0).code == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} >= {NOTES}
    assert not (tmp_path / ORDER).exists()


def test_a_batch_that_has_nothing_wrong(
    record: Any, site: Settings, store_redis: redis.Redis
) -> None:
    told = rehearse(store_redis, site, record(100.0))
    assert (told.whole, told.error, told.forwards) == ("succeeded", None, 1)
    assert told.ok
    assert len(told.results) == 32


def test_a_process_that_takes_too_long_is_killed(
    record: Any, site: Settings, store_redis: redis.Redis
) -> None:
    told = rehearse(store_redis, site, record(100.0), timeout_s=0.2)  # torch alone takes longer
    assert (told.whole, told.ended, told.stage) == ("never ran", "out of time", "loading")
    assert (told.forwards, told.device) == (0, "")


def test_jobs_that_are_not_kept_are_left_out_and_counted(
    record: Any, site: Settings, store_redis: redis.Redis
) -> None:
    batch = record(100.0)
    (key,) = list(store_redis.scan_iter(f"{site.namespace}:*:recording:{batch.batch_id}"))
    gone = batch.job_ids[3]
    assert store_redis.hdel(key.decode(), gone.partition("-")[2]) == 1
    less = recorded_batch(store_redis, site.namespace, batch.batch_id)
    assert less is not None
    told = rehearse(store_redis, site, less)
    assert (told.jobs, told.missing) == (31, 1)
    assert gone not in [each.id for each in told.results]
    assert told.ok


def test_nothing_kept_is_nothing_to_run(site: Settings, store_redis: redis.Redis) -> None:
    batch = RecordedBatch(
        batch_id="b" * 32,
        lane=LANE,
        worker="",
        reason="size",
        started_at=0,
        cause=None,
        job_ids=["x"],
        payloads=[b""],
        missing=2,
    )
    with pytest.raises(NotReplayable, match=r"No input of batch b+ is kept"):
        rehearse(store_redis, site, batch)


def test_a_model_that_cannot_be_loaded_here(
    record: Any, site: Settings, store_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = record(100.0)
    strict = site.model_copy(update={"allowed_modules": ()})
    with pytest.raises(ModelUnavailable, match="umbel_test_handlers"):
        rehearse(store_redis, strict, batch)
    elsewhere = strict.model_copy(update={"namespace": "nobody", "artifact_root": "/nowhere"})
    with pytest.raises(ModelNotFound):
        rehearse(store_redis, elsewhere, batch)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'umbel\[worker\]'"):
        rehearse(store_redis, site, batch)


def test_a_process_that_never_comes_to_its_model(
    record: Any, site: Settings, store_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = record(100.0)
    monkeypatch.setattr(module, "_PROCESS", "umbel_worker.no_such_module")
    told = rehearse(store_redis, site, batch)
    assert (told.whole, told.ended, told.stage) == ("never ran", "exit code 1", "loading")
    assert "no_such_module" in told.last_words


def test_the_command_tells_of_each_job(record: Any, site: Settings) -> None:
    batch = record(UNLUCKY)
    code, out, _ = umbel("dead", "replay", "--batch", batch.batch_id)
    assert code == 1
    assert "32 jobs on cpu (first run" in out
    assert "raised ValueError: unlucky input after" in out
    assert "31 succeed, 1 fails (11 forwards)" in out
    assert f"{batch.job_ids[GUILTY]}  ValueError: unlucky input" in out
    assert sum(line.endswith("  ok") for line in map(str.rstrip, out.splitlines())) == 31
    code, out, _ = umbel("dead", "replay", "--batch", batch.batch_id, "--json")
    told = json.loads(out)
    assert (code, told["whole"], len(told["results"])) == (1, "raised", 32)


def test_the_command_survives_a_deadly_batch(record: Any, site: Settings) -> None:
    batch = record(DEADLY)
    code, out, _ = umbel("dead", "replay", "--batch", batch.batch_id)
    assert code == 1
    assert "the process died of SIGKILL after" in out
    assert "in the whole batch, after 1 forward." in out


def test_a_letter_replayed_with_a_worker_at_hand(
    site: Settings, client: Client, serve: Any, rows: Rows, store_redis: redis.Redis
) -> None:
    serve(site)
    inputs = rows(4)
    inputs[1, 0] = UNLUCKY
    jobs = client.submit_many("affine", inputs)
    assert [job.wait(20) for job in jobs] == [True] * 4
    (letter,) = dead_letters(store_redis, site.namespace)
    assert letter.id == jobs[1].id
    code, out, _ = umbel("dead", "replay", letter.id, "--wait")
    assert code == 1
    assert out == f"replayed {letter.id}  failed: ValueError: unlucky input\n"
    info = client.job(letter.id).info()
    assert (info.state, [event.what for event in info.history]) == (State.FAILED, ["replayed"])
    code, out, _ = umbel("dead", "list", "--json")
    assert [each["id"] for each in json.loads(out)] == [letter.id]


def test_a_letter_that_lives_when_the_world_is_better(
    site: Settings, client: Client, serve: Any, record: Any
) -> None:
    batch = record(100.0)  # its worker died, but not of these inputs
    serve(site)
    code, out, _ = umbel("dead", "replay", "--lane", LANE, "--yes", "--wait", "--json")
    assert code == 0
    told = json.loads(out)
    assert {each["id"] for each in told} == set(batch.job_ids)
    assert {each["state"] for each in told} == {"succeeded"}
    np.testing.assert_allclose(client.job(batch.job_ids[0]).result(5)[1], 203.0)
