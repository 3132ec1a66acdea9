"""The process that a rehearsal happens in: loads the model, runs the batch, keeps a diary.

Started by ``rehearsal.py`` with a folder and a time limit. Each line of the diary is written
before what it speaks of, so that it tells how far the process came, whatever becomes of it.
"""

from __future__ import annotations

import faulthandler
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch

from umbel_batching.record import Failure
from umbel_config.errors import ModelError
from umbel_config.settings import Settings, load_settings
from umbel_registry import ArtifactStore, LoadedModel, Manifest
from umbel_registry.loading import ArrayModel
from umbel_worker.compute import compute
from umbel_worker.isolate import Result, failure_of
from umbel_worker.rehearsal import NOTES, ORDER, Note, Order
from umbel_worker.runtime import threads_per_batch
from umbel_worker.warmup import load_warm

T = TypeVar("T")
#: Makes one more line of the diary.
Write = Callable[..., None]
#: Seconds beyond its time limit after which the process ends itself, should nobody be left to.
_ORPHAN_S = 5.0


def main(folder: Path, timeout_s: float) -> None:
    """Does what the order in ``folder`` says.

    Args:
        folder: holds the order; the diary goes there too.
        timeout_s: seconds after which the process would have been killed.
    """
    faulthandler.enable()
    faulthandler.dump_traceback_later(timeout_s + _ORPHAN_S, exit=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it may well be going to crash
    order = msgspec.msgpack.decode((folder / ORDER).read_bytes(), type=Order)
    (folder / ORDER).unlink()  # nobody may be left to clear the inputs away
    with (folder / NOTES).open("ab", buffering=0) as diary:

        def write(what: str, **more: Any) -> None:
            diary.write(msgspec.json.encode(Note(what=what, at=time.time(), **more)) + b"\n")

        _rehearse(order, load_settings(), write)


def _rehearse(order: Order, settings: Settings, write: Write) -> None:
    torch.set_num_threads(threads_per_batch(settings))
    try:
        manifest = Manifest.from_json(order.manifest, "the order of this rehearsal")
        model = load_warm(manifest, ArtifactStore(settings.artifacts), settings).model
    except ModelError as error:
        write("refused", kind=type(error).__name__, message=str(error))
        return
    write("loaded", device=model.device)
    _watch(model, write)
    write("results", failures=[_failure_text(each) for each in _results(model, order.payloads)])


def _results(model: LoadedModel, payloads: list[bytes]) -> list[Result]:
    """What a worker would write for each job."""
    return compute(model, payloads).results


def _failure_text(result: Result) -> str | None:
    return f"{result.kind}: {result.message}" if isinstance(result, Failure) else None


def _watch(model: LoadedModel, write: Write) -> None:
    """Has each forward of ``model`` written down: that it begins, and how it ends."""
    name = "forward" if isinstance(model, ArrayModel) else "run"
    setattr(model, name, _noted(getattr(model, name), write))


def _noted(forward: Callable[[Any], T], write: Write) -> Callable[[Any], T]:
    def run(batch: Any) -> T:
        write("forward")
        try:
            outputs = forward(batch)
        except BaseException as error:
            failure = failure_of(error)
            write("raised", kind=failure.kind, message=failure.message)
            raise
        write("returned")
        return outputs

    return run


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
