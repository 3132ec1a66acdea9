"""The models that one worker process has loaded, each once, warm, within its share of memory."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Final

from umbel_batching.lanes import split_name
from umbel_batching.lines import Point
from umbel_config.errors import ModelNotFound, ModelUnavailable, StoreUnavailable, VersionNotFound
from umbel_config.settings import Settings
from umbel_registry import ArtifactStore, Catalog, LoadedModel, Manifest
from umbel_registry.loads import Loads
from umbel_worker.footprint import Scale, give_back, held_bytes, trim, watch
from umbel_worker.holdings import Holding, Holdings, Place
from umbel_worker.warmup import load_warm, pick_device

log = logging.getLogger("umbel.worker")

#: Seconds beyond the time of a drain that a load waits for memory: for the batch a drain is at.
BATCH_S: Final = 30.0
#: Seconds after its last use in which a model does not give way to one that is loaded ahead.
FRESH_S: Final = 60.0


class NoRoom(ModelUnavailable):
    """Others are in use, and hold the memory that a model needs; it can be tried again."""


class ModelCache:
    """Loads models when they are first needed, and unloads the least recently used for others.

    What is loaded takes at most ``max_loaded_mb``, as measured. A model that somebody uses, or
    that is pinned, is never unloaded. All methods may be called from any thread.

    Args:
        catalog: what is registered.
        store: where the files are.
        settings: device, allowed modules, bounds of memory, and the state folder for copies.
        on_change: called when a holding appears, changes its state or goes. It may ask for
            ``holdings``, but load or unload nothing.
        loads: where each load is noted, lest one that kills be repeated without end.
        clock: seconds that only ever grow.
    """

    def __init__(
        self,
        catalog: Catalog,
        store: ArtifactStore,
        settings: Settings,
        *,
        on_change: Callable[[], None] | None = None,
        loads: Loads | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog, self._store, self._settings = catalog, store, settings
        self._on_change, self._loads, self._clock = on_change, loads, clock
        self._held = Holdings(settings.max_loaded_mb, settings.pinned_models, clock)
        self._scale, self._device = Scale(), pick_device(settings.device)
        #: Guards the holdings; notified when a model is there, gone, or free again.
        self._changed = threading.Condition()
        # One load at a time, or growths of memory could not be told apart.
        self._loading: AbstractContextManager[Any] = nullcontext()
        if settings.max_loaded_mb:
            self._loading = threading.Lock()
        self._warned: set[str] = set()

    @contextmanager
    def using(self, name: str) -> Iterator[LoadedModel]:
        """The model ``name``, loaded and warm; it stays loaded while the block runs.

        Args:
            name: ``model@version``.

        Raises:
            ModelError: it is not registered, its files were changed, or it cannot be loaded here.
            ModelUnavailable: this machine lacks what it needs: files, a module, or memory.
            OSError: the artifact root cannot be read just now.
        """
        place = self._enter(name)
        try:
            yield place.model
        finally:
            self._leave(place)

    def preload(self, name: str, sparing: Iterable[str] = ()) -> bool:
        """Loads a model ahead of need, at the cost only of those that nobody has used for a minute.

        Args:
            name: ``model@version``.
            sparing: those that are wanted more, and do not go for its sake.

        Returns:
            Whether it is loaded; it is not where the others leave it no room.

        Raises:
            ModelError: as ``using``.
            OSError: as ``using``.
        """
        while True:
            with self._changed:
                place = self._held.get(name)
                if place is not None and place.state == "ready":
                    return not place.leaving
                flight = place.flight if place else None
                if flight is None:
                    place = self._held.begin(name)
                    place.sparing = frozenset(sparing)
            if flight is None and place is not None:
                return self._load(place, ahead=True)
            if flight is not None:
                flight.result()

    def unload(self, name: str) -> bool:
        """Unloads a model now.

        Args:
            name: ``model@version``.

        Returns:
            Whether it is gone; it is not if it is in use, pinned or not loaded.
        """
        with self._changed:
            place = self._held.get(name)
            if place is None or place.state != "ready" or place.users or place.pinned:
                return False
            self._held.remove(place)
        self._drop([place])
        return True

    def timings(self, name: str) -> tuple[Point, ...]:
        """What batches of a model took when it was warmed up; empty if it is not loaded.

        Args:
            name: ``model@version``.
        """
        with self._changed:
            place = self._held.get(name)
            return place.warm.timings if place is not None and place.warm is not None else ()

    def holdings(self) -> list[Holding]:
        """All that is loaded or being loaded, and what failed in the last ten minutes; by name."""
        with self._changed:
            return self._held.shown()

    def _enter(self, name: str) -> Place:
        """The place of a model, with one more user; whoever comes first loads it."""
        while True:
            with self._changed:
                place = self._held.get(name)
                if place is not None and place.state == "ready":
                    if not place.leaving:
                        self._held.enter(place)
                        return place
                    self._changed.wait()  # until it has gone, or may stay after all
                    continue
                flight = place.flight if place else None
                if place is None or flight is None:
                    place = self._held.begin(name)
            if flight is None:
                self._load(place, ahead=False)
                return place
            flight.result()

    def _leave(self, place: Place) -> None:
        """Ends a use; what turned out to be too much goes as soon as nobody uses it."""
        with self._changed:
            self._held.leave(place)
            stays = place.users or place.pinned or place.leaving or self._held.fits(place)
            if not stays:
                self._held.remove(place)
            self._changed.notify_all()
        self._drop([] if stays else [place])

    def _load(self, place: Place, *, ahead: bool) -> bool:
        """Loads a model into its place, and tells all who wait for it how that ended.

        Args:
            place: of our making.
            ahead: whether nobody needs it yet; else it has a user afterwards.

        Returns:
            Whether it is loaded.
        """
        self._tell()
        flight, loaded = place.flight, False
        try:
            manifest = self._manifest(place.name)
            place.digest = manifest.digest
            loaded = self._attempt(place, manifest, ahead=ahead)
        except BaseException as error:
            self._fail(place, error)
            if flight is not None:
                flight.set_exception(error)
            raise
        if flight is not None:
            flight.set_result(None)
        return loaded

    def _attempt(self, place: Place, manifest: Manifest, *, ahead: bool) -> bool:
        """Leaves a note if this process dies of the load."""
        if self._loads is None:
            return self._fill(place, manifest, ahead=ahead)
        self._loads.begin(place.name, ahead=ahead)
        loaded = False
        try:
            loaded = self._fill(place, manifest, ahead=ahead)
        finally:
            with suppress(StoreUnavailable):  # it goes when this process leaves
                self._loads.end(place.name, loaded=loaded)
        return loaded

    def _fail(self, place: Place, error: BaseException) -> None:
        """Notes that a load failed, if that says anything of the model."""
        with self._changed:
            # Else what the error holds, half a model maybe, would stay as long as the place.
            place.flight = None
            if isinstance(error, NoRoom | StoreUnavailable) or not isinstance(error, Exception):
                self._held.remove(place)
            else:
                self._held.fail(place, error)
            self._changed.notify_all()
        self._tell()

    def _fill(self, place: Place, manifest: Manifest, *, ahead: bool) -> bool:
        """Makes room and loads; returns whether the model is there afterwards."""
        with self._loading:
            if not self._make_room(place, manifest, ahead=ahead):
                return False
            gone = self._put(place, manifest, ahead=ahead)
            self._drop(gone)
        self._warn_if_over(place)
        self._tell()
        return place not in gone

    def _put(self, place: Place, manifest: Manifest, *, ahead: bool) -> list[Place]:
        """Puts a model into its place; returns who goes because it is larger than was thought."""
        with self._changed:
            stirred, quiet = self._held.stirred, not self._held.busy(place)
        before = held_bytes(self._device)
        warm = load_warm(manifest, self._store, self._settings)
        if self._held.budget:
            trim()
        growth = held_bytes(self._device) - before
        quiet = quiet and stirred == self._held.stirred
        mb = self._scale.weigh(manifest, warm.model, growth, quiet=quiet)
        log.info(
            "loaded %s on %s in %.1f s, %.0f MB",
            *(place.name, warm.model.device, warm.load_s + warm.warm_s, mb),
        )
        with self._changed:
            self._held.ready(place, warm, mb)
            place.flight = None
            self._changed.notify_all()
            if not ahead:
                self._held.enter(place)
                return self._held.take_out(place)
            if self._held.may_fit(place, self._clock() - FRESH_S):
                return self._held.take_out(place, self._clock() - FRESH_S)
            self._held.remove(place)
            return [place]

    def _make_room(self, place: Place, manifest: Manifest, *, ahead: bool) -> bool:
        """Reserves memory for a model, and unloads others until there is enough."""
        fresh = self._clock() - FRESH_S
        with self._changed:
            place.mb = self._scale.estimate(manifest)
            fits = not ahead or self._held.may_fit(place, fresh)
            gone = self._held.take_out(place, fresh) if ahead and fits else []
            if not fits:
                place.flight = None
                self._held.remove(place)
                self._changed.notify_all()
        self._drop(gone)
        if not fits:
            self._tell()
        if not ahead:
            self._wait_for_room(place)
        return fits

    def _wait_for_room(self, place: Place) -> None:
        """Waits until the drains that are in the way are over.

        Raises:
            NoRoom: they are not in time.
        """
        patience = self._settings.drain_budget_ms / 1000 + BATCH_S
        end = time.monotonic() + patience
        while True:
            with self._changed:
                gone = self._held.take_out(place)
                if not gone and not self._held.fits(place):
                    self._held.ask_to_leave(place)
                    self._changed.wait(max(0.0, end - time.monotonic()))
                    gone = self._held.take_out(place)
                fits, late = self._held.fits(place), time.monotonic() >= end
                if fits or late:
                    self._held.ask_nobody()
                    self._changed.notify_all()
                users = self._held.users()
            self._drop(gone)
            if fits:
                return self._warn_if_over(place)
            if late:
                raise NoRoom(
                    f"{place.name} needs about {place.mb:,.0f} MB, but what is left of "
                    f"max_loaded_mb ({self._held.budget}) was in use for {patience:.0f} s by "
                    f"{', '.join(users)}. Raise max_loaded_mb, or lower concurrency."
                )

    def _drop(self, gone: list[Place]) -> None:
        """Gives back the memory of models that were taken out."""
        if not gone:
            return
        watched = []
        for place in gone:
            watched += watch(place.model)
            place.warm = None
            log.info("unloaded %s, %.0f MB", place.name, place.mb)
        give_back(watched)
        with self._changed:
            self._changed.notify_all()
        self._tell()

    def _warn_if_over(self, place: Place) -> None:
        """Says once of a model that no unloading makes enough room for it."""
        with self._changed:
            over = self._held.over() and self._held.fits(place)
            if not over or place.name in self._warned:
                return
            self._warned.add(place.name)
        log.warning(
            "%s takes about %.0f MB, more than max_loaded_mb (%d) has room for even when all but "
            "pinned models are unloaded; it is loaded all the same",
            *(place.name, place.mb, self._held.budget),
        )

    def _tell(self) -> None:
        if self._on_change is None:
            return
        try:
            self._on_change()
        except Exception:
            log.exception("whoever is told of loaded models failed")

    def _manifest(self, name: str) -> Manifest:
        """The manifest; a Redis that lost its models gets them back from the artifact root."""
        model, version = split_name(name)
        try:
            return self._catalog.get(model, version)
        except (ModelNotFound, VersionNotFound):
            stored = self._store.find(model, version)
            if stored is None:
                raise
            self._catalog.register(stored)
            return stored
