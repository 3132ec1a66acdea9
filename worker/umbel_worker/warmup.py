"""Loading a version where the settings say, and running it before its first job does."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import torch

from umbel_batching.lines import Point
from umbel_config.errors import ModelError
from umbel_config.settings import Settings
from umbel_registry import (
    ArtifactStore,
    LoadedModel,
    Manifest,
    collate,
    example_inputs,
    load_model,
)
from umbel_registry.loading import ArrayModel, WrongRowCount
from umbel_worker.memory import empty_cache, let_go, ran_out
from umbel_worker.pauses import short_turns

log = logging.getLogger("umbel.worker")


@dataclass(frozen=True, slots=True)
class Warm:
    """A model that is ready for its first job.

    Attributes:
        model: loaded, and run once with made-up rows.
        load_s: seconds to fetch, check and load its files.
        warm_s: seconds of those runs.
        timings: what a batch took, by its size.
    """

    model: LoadedModel
    load_s: float
    warm_s: float
    timings: tuple[Point, ...] = ()


def load_warm(manifest: Manifest, store: ArtifactStore, settings: Settings) -> Warm:
    """Loads a version where the settings say, and runs it once with made-up rows.

    Args:
        manifest: the version.
        store: where its files are.
        settings: device, allowed modules and the state folder for copies of remote files.

    Raises:
        ModelError: its files were changed, or it cannot be loaded here.
        OSError: the artifact root cannot be read just now.
    """
    began = time.monotonic()
    with short_turns:
        folder = store.fetch(manifest, settings.state_dir / "model-cache")
        model = load_model(folder, manifest, pick_device(settings.device), settings.allowed_modules)
        loaded = time.monotonic()
        again = manifest.policy.mode == "adaptive"
        timings = warm_up(model, manifest.policy.max_batch_size, again=again)
    return Warm(model, loaded - began, time.monotonic() - loaded, tuple(timings))


def pick_device(wanted: str) -> str:
    """The device to run on: ``auto`` is a GPU where torch finds one, else the CPU."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def kind_of(device: str) -> str:
    """A name for devices with as much memory as this one: ``cpu``, ``cuda:NVIDIA-H100-80GB``.

    Args:
        device: as ``pick_device`` returns it.
    """
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return device.partition(":")[0]
    return "cuda:" + "-".join(torch.cuda.get_device_name(device).split())


def warm_up(model: LoadedModel, max_batch_size: int, *, again: bool = False) -> list[Point]:
    """Runs one row and one full batch, so that no job pays for compilation or allocation.

    Args:
        model: as loaded.
        max_batch_size: jobs of a full batch.
        again: whether each is run twice, for the sake of what the second one takes.

    Returns:
        What they took, the last time.
    """
    timings: list[Point] = []
    for size in sorted({1, max_batch_size}):
        rows = _rows(model, size)
        try:
            for _ in range(1 + again):
                began = time.perf_counter()
                _run(model, rows)
                took_ms = (time.perf_counter() - began) * 1000
        except ModelError as error:
            if not isinstance(error, WrongRowCount):
                raise
            log.warning("warm-up with %d rows failed: %s", size, error)
            break
        except Exception as error:  # noqa: BLE001  (made-up rows may not suit a model that serves)
            log.warning("warm-up with %d rows failed: %s", size, type(error).__name__)
            let_go(error)
            if ran_out(error):
                empty_cache()
            break
        timings.append(Point(size, took_ms, 1.0))
    return timings


def _run(model: LoadedModel, rows: list[object]) -> None:
    if isinstance(model, ArrayModel):
        batch = collate(model.signature, rows)
        model.forward({name: torch.from_numpy(array) for name, array in batch.items()})
    else:
        model.run(rows)


def _rows(model: LoadedModel, size: int) -> list[object]:
    examples = [model.signature.validate_input(value) for value in model.manifest.examples]
    if examples:
        return [examples[place % len(examples)] for place in range(size)]
    return example_inputs(model.signature, size)
