"""A rolling restart: two versions of the code on the wire at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from faults.processes import HERE, Process
from faults.result import Row
from faults.scenario import Scenario
from faults.stage import Stage
from faults.trial import Trial
from faults.waiting import until
from umbel_batching.scripts import source

PACKAGES = ("batching", "cli", "configs", "producer", "registry", "worker")
#: More than a client can submit while the scenario lasts.
_MOST_JOBS = 20_000
_COMMENT = "\n-- another version of this script\n"
_VERSION = ('__version__ = _version("umbel")', '__version__ = "0.0.0+other"')


def other_version(folder: Path) -> list[Path]:
    """Copies the packages, with another version number and a comment added to each Lua script.

    So nothing that one version has loaded into Redis is known to the other by its hash.

    Args:
        folder: where the copies go.

    Returns:
        The folders to put on the path.
    """
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(HERE.parent / name, folder / name, ignore=ignored)
    for script in folder.rglob("*.lua"):
        script.write_text(script.read_text(encoding="utf-8") + _COMMENT, encoding="utf-8")
    package = folder / "producer" / "umbel" / "__init__.py"
    text = package.read_text(encoding="utf-8")
    assert _VERSION[0] in text
    package.write_text(text.replace(*_VERSION), encoding="utf-8")
    return [folder / name for name in PACKAGES]


def rolling_restart(stage: Stage, name: str, title: str) -> Row:
    """Workers and clients of one version give way to those of another, under load."""
    trial = stage.trial(name, title)
    paths = other_version(stage.folder / "other")
    (old,) = stage.ensure_workers(1)
    producers = [_producer(stage, name)]
    trial.await_done(64)
    new = stage.start_worker(paths=paths)
    producers.append(_producer(stage, name, paths))
    until(lambda: new.pid in stage.serving(), "the new version serves beside it")
    until(lambda: new.pid in trial.witness.held().values(), "the new version runs a batch")
    trial.strike(trial.witness.held([old.pid]))
    trial.check(old.close(), "the old worker ended by itself after SIGTERM")
    trial.await_more(64)
    for producer in producers:
        trial.check(producer.alive(), "clients of both versions were at work until the end")
        producer.hang_up()
        _adopt(trial, producer)
    _both_were_there(trial, paths)
    return trial.finish("the same code under two version numbers; every Lua script differs")


def _producer(stage: Stage, name: str, paths: list[Path] | None = None) -> Process:
    numbers = [next(stage.numbers) for _ in range(_MOST_JOBS)]
    first, count = str(numbers[0]), str(len(numbers))
    return stage.start_producer(name, first, count, "60", paths=paths or ())


def _adopt(trial: Trial, producer: Process) -> None:
    until(lambda: not producer.alive(), "a client is done")
    lines = [line.split() for line in producer.text().splitlines()]
    trial.load.adopt(
        (int(number) for number, _ in lines),
        (trial.stage.client.job(job_id) for _, job_id in lines),
    )


def _both_were_there(trial: Trial, paths: list[Path]) -> None:
    """Checks by the scripts that Redis has loaded that both versions ran all of them."""
    for name in ("submit", "claim", "settle"):
        hashes = (source(name).sha, _other_hash(name, paths))
        trial.check(hashes[0] != hashes[1], f"the versions differ in {name}")
        known = trial.witness.client.script_exists(*hashes)
        trial.check(all(known), f"both versions ran {name}")


def _other_hash(name: str, paths: list[Path]) -> str:
    code = f"from umbel_batching.scripts import source; print(source({name!r}).sha)"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        text=True,
    )
    return answer.stdout.strip()


ON_THREADS = (
    Scenario("rolling-restart", "rolling restart, two versions at once", rolling_restart, 150),
)
