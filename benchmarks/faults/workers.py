"""Faults of workers and clients: killed, killed again and again, frozen, gone."""

from __future__ import annotations

import os
import signal
import time

from faults.processes import Process
from faults.result import Row
from faults.scenario import Scenario
from faults.stage import Stage
from faults.trial import Trial
from faults.waiting import until

#: Seconds between two kills of the storm.
_STORM_PAUSE_S = 2.0
_STORM_WORKERS = 3
#: Whoever kills without end hits some innocent job three times, which then counts as deadly.
_STORM_ATTEMPTS = 10
#: What a worker logs when the fence refuses what it wanted to write.
_TOO_LATE = "nothing was written"


def kill_worker(stage: Stage, name: str, title: str) -> Row:
    """SIGKILL for a worker in the middle of a batch; its supervisor starts another."""
    trial = stage.trial(name, title)
    stage.ensure_workers(2)
    trial.load.feed(stage.scale.per_s)
    for _ in range(stage.scale.strikes):
        workers = {worker.pid: worker for worker in stage.ensure_workers(2)}
        pid, uids = trial.catch(workers)
        trial.strike(uids)
        workers[pid].kill()
        trial.await_jobs(uids)
    return trial.finish(f"{stage.scale.strikes} kills, each inside a batch; two workers")


def kill_pool_child(stage: Stage, name: str, title: str) -> Row:
    """SIGKILL for the process of a prefork pool that runs a batch."""
    trial = stage.trial(name, title)
    (worker,) = stage.ensure_workers(1)
    trial.load.feed(stage.scale.per_s)
    for _ in range(min(2, stage.scale.strikes)):
        until(lambda: set(trial.witness.held().values()) & set(worker.children()), "a child works")
        children = dict.fromkeys(worker.children(), worker)
        pid, uids = trial.catch(children)
        trial.strike(uids)
        os.kill(pid, signal.SIGKILL)
        trial.await_jobs(uids)
    return trial.finish("prefork pool with one process, which Celery starts again")


def freeze_worker(stage: Stage, name: str, title: str) -> Row:
    """SIGSTOP for longer than the lease, then SIGCONT: the zombie must write nothing."""
    trial = stage.trial(name, title)
    stage.ensure_workers(2)
    trial.load.feed(stage.scale.per_s)
    for _ in range(min(3, stage.scale.strikes)):
        workers = {worker.pid: worker for worker in stage.ensure_workers(2)}
        pid, uids = trial.catch(workers)
        zombie = workers[pid]
        noticed = zombie.text().count(_TOO_LATE)
        trial.strike(uids)
        trial.await_jobs(uids)
        zombie.signal(signal.SIGCONT)
        _await_line(zombie, noticed + 1)
        trial.witness.look()
    return trial.finish("frozen inside a batch; woken when its jobs had results from elsewhere")


def _await_line(zombie: Process, times: int) -> None:
    until(
        lambda: zombie.text().count(_TOO_LATE) >= times, "the zombie notices that its lease is gone"
    )


def storm(stage: Stage, name: str, title: str) -> Row:
    """SIGKILL inside a batch every two seconds under load; each worker is started again at once."""
    trial = stage.trial(name, title)
    for worker in stage.workers:
        worker.kill()
    stage.ensure_workers(_STORM_WORKERS, max_attempts=_STORM_ATTEMPTS)
    trial.load.feed(stage.scale.per_s)
    begin, kills = time.monotonic(), round(stage.scale.storm_s / _STORM_PAUSE_S)
    last_kill = begin
    for _ in range(kills):
        time.sleep(max(0.0, last_kill + _STORM_PAUSE_S - time.monotonic()))
        # On a machine that takes long to start workers nobody would ever get to work otherwise.
        trial.await_more(1)
        last_kill = time.monotonic()
        _kill_one(stage, trial)
    took_s = last_kill - begin
    return trial.finish(
        f"{kills} kills in {took_s:.0f} s, each inside a batch; three workers, started again at "
        f"once; "
        f"max_attempts {_STORM_ATTEMPTS}"
    )


def _kill_one(stage: Stage, trial: Trial) -> None:
    """Kills a worker that runs a batch."""
    workers = {worker.pid: worker for worker in stage.workers}
    pid, uids = trial.catch(workers)
    stage.workers.remove(workers[pid])
    trial.strike(uids)
    workers[pid].kill()
    stage.start_worker(max_attempts=_STORM_ATTEMPTS)


def kill_client(stage: Stage, name: str, title: str) -> Row:
    """SIGKILL for a client that is submitting; another one collects by id."""
    trial = stage.trial(name, title)
    stage.ensure_workers(1)
    numbers = [next(stage.numbers) for _ in range(stage.scale.jobs)]
    producer = stage.start_producer(name, str(numbers[0]), str(len(numbers)), "5")
    until(lambda: producer.text().count("\n") >= len(numbers) / 3, "a third is accepted")
    trial.check(producer.alive(), "the client was still submitting when it was killed")
    trial.strike([*trial.witness.waiting(), *trial.witness.held()])
    producer.kill()
    whole_lines = producer.text().rpartition("\n")[0].splitlines()
    accepted = [line.split() for line in whole_lines]
    trial.load.adopt(
        (int(number) for number, _ in accepted),
        (stage.client.job(job_id) for _, job_id in accepted),
    )
    return trial.finish("killed while it was submitting; another client asked by id")


ON_THREADS = (
    Scenario("kill-worker", "SIGKILL of a worker", kill_worker),
    Scenario("freeze-worker", "SIGSTOP of a worker past its lease, then SIGCONT", freeze_worker),
    Scenario("storm", "a worker SIGKILLed every 2 s", storm, deadline_s=180),
    Scenario("kill-client", "SIGKILL of the client", kill_client),
)
ON_PREFORK = (Scenario("kill-pool-child", "SIGKILL of a pool child (prefork)", kill_pool_child),)
