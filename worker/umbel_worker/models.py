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
        self._device = pick_device(settings.device)
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
        manifest = self._manifest(lane)
        folder = self._store.fetch(manifest, self._settings.state_dir / "model-cache")
        model = load_model(folder, manifest, self._device, self._settings.allowed_modules)
        warm_up(model, manifest.policy.max_batch_size)
        log.info("loaded %s on %s in %.1f s", lane, self._device, time.monotonic() - started)
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


def pick_device(wanted: str) -> str:
    """The device to run on: ``auto`` is a GPU where torch finds one, else the CPU."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


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
            return


def _rows(model: LoadedModel, size: int) -> list[object]:
    examples = [model.signature.validate_input(value) for value in model.manifest.examples]
    if examples:
        return [examples[place % len(examples)] for place in range(size)]
    return example_inputs(model.signature, size)
