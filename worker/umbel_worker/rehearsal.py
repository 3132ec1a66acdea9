"""Running a recorded batch again, exactly as it was composed, where it can harm nothing.

The batch runs in a process of its own: an input that kills its process kills that one alone. The
process never talks to Redis; its model is loaded as a worker of these settings would load it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import msgspec
import redis

from umbel_batching.dead_letters import RecordedBatch
from umbel_batching.lanes import split_name
from umbel_config import errors
from umbel_config.errors import (
    ConfigError,
    ModelError,
    ModelLoadFailed,
    ModelNotFound,
    NotReplayable,
    VersionNotFound,
)
from umbel_config.settings import Settings, environment
from umbel_registry import Catalog, Manifest

_NEEDED = ("torch", "fsspec", "safetensors")
_PROCESS = "umbel_worker.rehearsal_process"
#: How much of what the process printed is kept, in characters.
_LAST_WORDS = 4_000
#: The files by which the two processes talk.
ORDER, NOTES, WORDS = "order", "notes", "words"


class Order(msgspec.Struct, frozen=True):
    """What the process is to do.

    Attributes:
        manifest: of the model version, as JSON.
        payloads: the encoded inputs of the batch, in order.
    """

    manifest: bytes
    payloads: list[bytes]


class Note(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the process's diary.

    Attributes:
        what: ``loaded``, ``refused`` (the model), ``forward``, ``returned``, ``raised`` or
            ``results``.
        at: seconds since 1970.
        device: where the model was loaded to.
        kind: class name of an error.
        message: what it says.
        failures: for each job why it failed, or ``None``.
    """

    what: str
    at: float
    device: str = ""
    kind: str = ""
    message: str = ""
    failures: list[str | None] = []


class Rehearsed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one job of the batch; ``error`` is ``None`` where ``ok``."""

    id: str
    ok: bool
    error: str | None


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """How a recorded batch fared when it ran again.

    Attributes:
        jobs: how many of its jobs ran.
        missing: how many others are not kept; the batch ran without them.
        device: where it ran; empty if the process ended before the model was loaded.
        whole: how the one forward over the whole batch went: ``succeeded``, ``raised``, ``died``
            with its process, ``timed out``, or ``never ran``.
        error: what that forward raised.
        ended: what the process died of, or that it ran out of time; ``None`` if it ended well.
        stage: how far it came: ``loading``, ``whole``, ``apart`` (jobs run apart after the whole
            had raised) or ``done``.
        seconds: the first forward took, until it returned, raised or died; 0 if it never ran.
        forwards: how many there were, the whole one included.
        results: of each job, in the order of the batch; empty unless the process ended well.
        last_words: the end of what the process printed.
    """

    batch_id: str
    lane: str
    jobs: int
    missing: int
    device: str
    whole: str
    error: str | None
    ended: str | None
    stage: str
    seconds: float
    forwards: int
    results: list[Rehearsed]
    last_words: str

    @property
    def ok(self) -> bool:
        """Whether every job succeeded."""
        return self.ended is None and all(each.ok for each in self.results)


@dataclass(frozen=True, slots=True)
class _Ending:
    """How the process ended, and what it left behind; no ``code``: it ran out of time."""

    code: int | None
    at: float
    notes: list[Note]
    words: str


def rehearse(
    client: redis.Redis, settings: Settings, batch: RecordedBatch, *, timeout_s: float = 60.0
) -> Rehearsal:
    """Runs a recorded batch again, whole, in a process of its own; writes nothing into Redis.

    Args:
        client: of the Redis in which the model is registered; only read from.
        settings: device, allowed modules, threads and artifacts, as a worker has them.
        batch: from ``umbel_batching.dead_letters.recorded_batch``.
        timeout_s: seconds after which the process is killed, loading included.

    Raises:
        ConfigError: this installation lacks what a worker needs.
        NotReplayable: no input of the batch is kept.
        ModelError: its model is not registered, or cannot be loaded here.
        OSError: the artifact root cannot be read just now.
    """
    _need_a_worker()
    # What was cancelled while the batch ran has left an id and no input.
    kept = [(uid, raw) for uid, raw in zip(batch.job_ids, batch.payloads, strict=True) if raw]
    if not kept:
        raise NotReplayable(f"No input of batch {batch.batch_id} is kept any more.")
    manifest = _manifest(client, settings, batch.lane)
    order = Order(manifest.to_json(), [raw for _, raw in kept])
    with tempfile.TemporaryDirectory(prefix="umbel-rehearsal-") as folder:
        ending = _run(Path(folder), order, settings, timeout_s)
    _raise_if_refused(ending.notes)
    missing = batch.missing + len(batch.job_ids) - len(kept)
    return _told(batch, [uid for uid, _ in kept], missing, ending)


def _need_a_worker() -> None:
    for name in _NEEDED:
        if find_spec(name) is None:
            raise ConfigError(
                f"Running a batch needs {name}, which is not installed here. Install it with: "
                "pip install 'umbel[worker]'"
            )


def _manifest(client: redis.Redis, settings: Settings, lane: str) -> Manifest:
    """The manifest; unlike a worker, this puts nothing back that Redis has lost."""
    from umbel_registry import ArtifactStore  # noqa: PLC0415  (needs fsspec)

    name, version = split_name(lane)
    try:
        return Catalog(client, settings.namespace).get(name, version)
    except (ModelNotFound, VersionNotFound):
        stored = ArtifactStore(settings.artifacts).find(name, version)
        if stored is None:
            raise
        return stored


def _run(folder: Path, order: Order, settings: Settings, timeout_s: float) -> _Ending:
    (folder / ORDER).write_bytes(msgspec.msgpack.encode(order))
    with (folder / WORDS).open("wb") as words:
        process = subprocess.Popen(
            [sys.executable, "-m", _PROCESS, str(folder), str(timeout_s)],
            env={**os.environ, **environment(settings)},
            start_new_session=True,
            stderr=words,
            stdin=subprocess.DEVNULL,
            stdout=words,
        )
        code = _code(process, timeout_s)
    at = time.time()
    notes = folder / NOTES
    lines = notes.read_bytes().splitlines() if notes.exists() else []
    text = (folder / WORDS).read_text("utf-8", errors="replace")[-_LAST_WORDS:]
    return _Ending(code, at, [msgspec.json.decode(line, type=Note) for line in lines], text)


def _code(process: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _raise_if_refused(notes: list[Note]) -> None:
    refused = next((note for note in notes if note.what == "refused"), None)
    if refused is None:
        return
    named = getattr(errors, refused.kind, None)
    if isinstance(named, type) and issubclass(named, ModelError):
        raise named(refused.message)
    raise ModelLoadFailed(refused.message)


def _told(batch: RecordedBatch, ids: list[str], missing: int, ending: _Ending) -> Rehearsal:
    notes = ending.notes
    loaded = next((note for note in notes if note.what == "loaded"), None)
    forwards = [note for note in notes if note.what == "forward"]
    ends = [note for note in notes if note.what in {"returned", "raised"}]
    results = next((note.failures for note in notes if note.what == "results"), None)
    finished = results is not None and ending.code == 0
    first = ends[0] if ends else None
    return Rehearsal(
        batch_id=batch.batch_id,
        lane=batch.lane,
        jobs=len(ids),
        missing=missing,
        device=loaded.device if loaded else "",
        whole=_whole(first, forwards, ending),
        error=f"{first.kind}: {first.message}" if first and first.what == "raised" else None,
        ended=None if finished else _cause(ending.code),
        stage=_stage(loaded, first, finished=finished),
        seconds=(first.at if first else ending.at) - forwards[0].at if forwards else 0.0,
        forwards=len(forwards),
        results=_results(ids, results or []) if finished else [],
        last_words=ending.words,
    )


def _whole(first: Note | None, forwards: list[Note], ending: _Ending) -> str:
    if first is not None:
        return "raised" if first.what == "raised" else "succeeded"
    if not forwards:
        return "never ran"
    return "timed out" if ending.code is None else "died"


def _stage(loaded: Note | None, first: Note | None, *, finished: bool) -> str:
    if finished:
        return "done"
    if loaded is None:
        return "loading"
    return "whole" if first is None else "apart"


def _results(ids: list[str], failures: list[str | None]) -> list[Rehearsed]:
    return [
        Rehearsed(id=uid, ok=failure is None, error=failure)
        for uid, failure in zip(ids, failures, strict=True)
    ]


def _cause(code: int | None) -> str:
    if code is None:
        return "out of time"
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal has no name
        return f"signal {-code}"
