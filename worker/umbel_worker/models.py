"""The models that one worker process has loaded, each once, warm before its first job."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict

import torch

from umbel_batching.lanes import split_name
from umbel_config.errors import ModelError, ModelNotFound, VersionNotFound
from umbel_config.settings import Settings
from umbel_registry import (
    ArtifactStore,
    Catalog,
    LoadedModel,
    Manifest,
    collate,
    example_inputs,
    load_model,
)
from umbel_registry.loading import ArrayModel, WrongRowCount
from umbel_worker.memory import empty_cache, let_go, ran_out

log = logging.getLogger("umbel.worker")


class ModelCache:
    """Loads the model of a lane when it is first needed; later callers get the same one.

    Args:
        catalog: what is registered.
        store: where the files are.
        settings: device, allowed modules and the state folder for copies of remote files.
    """

    def __init__(self, catalog: Catalog, store: ArtifactStore, settings: Settings) -> None:
        self._catalog, self._store, self._settings = catalog, store, settings
        self._models: dict[str, LoadedModel] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def get(self, lane: str) -> LoadedModel:
        """The model of ``lane``, loaded and warm.

        Raises:
            ModelError: it is not registered, its files were changed, or it cannot be loaded here.
            OSError: the artifact root cannot be read just now.
        """
        model = self._models.get(lane)
        if model is not None:
            return model
        with self._locks[lane]:
            if lane not in self._models:
                self._models[lane] = self._load(lane)
            return self._models[lane]

    def _load(self, lane: str) -> LoadedModel:
        started = time.monotonic()
        model = load_warm(self._manifest(lane), self._store, self._settings)
        log.info("loaded %s on %s in %.1f s", lane, model.device, time.monotonic() - started)
        return model

    def _manifest(self, lane: str) -> Manifest:
        """The manifest; a Redis that lost its models gets them back from the artifact root."""
        name, version = split_name(lane)
        try:
            return self._catalog.get(name, version)
        except (ModelNotFound, VersionNotFound):
            stored = self._store.find(name, version)
            if stored is None:
                raise
            self._catalog.register(stored)
            return stored


def load_warm(manifest: Manifest, store: ArtifactStore, settings: Settings) -> LoadedModel:
    """Loads a version where the settings say, and runs it once with made-up rows.

    Args:
        manifest: the version.
        store: where its files are.
        settings: device, allowed modules and the state folder for copies of remote files.

    Raises:
        ModelError: its files were changed, or it cannot be loaded here.
        OSError: the artifact root cannot be read just now.
    """
    folder = store.fetch(manifest, settings.state_dir / "model-cache")
    model = load_model(folder, manifest, pick_device(settings.device), settings.allowed_modules)
    warm_up(model, manifest.policy.max_batch_size)
    return model


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


def warm_up(model: LoadedModel, max_batch_size: int) -> None:
    """Runs one row and one full batch, so that no job pays for compilation or allocation."""
    for size in sorted({1, max_batch_size}):
        rows = _rows(model, size)
        try:
            if isinstance(model, ArrayModel):
                batch = collate(model.signature, rows)
                model.forward({name: torch.from_numpy(array) for name, array in batch.items()})
            else:
                model.run(rows)
        except ModelError as error:
            if not isinstance(error, WrongRowCount):
                raise
            log.warning("warm-up with %d rows failed: %s", size, error)
            return
        except Exception as error:  # noqa: BLE001  (made-up rows may not suit a model that serves)
            log.warning("warm-up with %d rows failed: %s", size, type(error).__name__)
            let_go(error)
            if ran_out(error):
                empty_cache()
            return


def _rows(model: LoadedModel, size: int) -> list[object]:
    examples = [model.signature.validate_input(value) for value in model.manifest.examples]
    if examples:
        return [examples[place % len(examples)] for place in range(size)]
    return example_inputs(model.signature, size)
