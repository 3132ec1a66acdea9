"""Beside the drains of a process: tells what is loaded, loads what is wanted, writes figures."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import redis
from redis.exceptions import RedisError

from umbel_batching.lanes import split_name
from umbel_config.errors import ModelError, StoreUnavailable, UmbelError
from umbel_config.settings import Settings
from umbel_registry import TrafficControl
from umbel_registry.edits import Standing
from umbel_registry.figures import FiguresStore, Tallies
from umbel_registry.fleet import Fleet, Held, LoadFailure, Report
from umbel_registry.loads import Loads
from umbel_worker.board import Board
from umbel_worker.holdings import Holding
from umbel_worker.models import ModelCache
from umbel_worker.tuners import Tuners

log = logging.getLogger("umbel.worker")

#: Seconds between two beats, and between two reports where nothing has changed.
_BEAT_S, _TELL_S = 1.0, 2.0
#: Seconds after which a version that could not be loaded, or had no room, is tried again; they
#: double each time, up to the longest.
_AGAIN_S, _LONGEST_S = 20.0, 600.0
#: A retired version is unloaded when nobody has used it for so long, ms.
_IDLE_MS = 20_000


class Steward:
    """Keeps one process of a worker in step with the registry.

    Args:
        client: a Redis client.
        settings: queues, pins and bounds of memory.
        worker: ``host:pid`` of the worker.
        process: ``host:pid`` of this process.
        slots: batches that this process runs side by side.
        models: what it has loaded.
        loads: its notes of loads.
        board: what it knows of routes.
        tallies: the figures that its drains gather.
        tuners: choose the batch sizes of its adaptive lanes.
        changed: set when something is loaded, fails or goes.
    """

    def __init__(
        self,
        client: redis.Redis,
        settings: Settings,
        *,
        worker: str,
        process: str,
        slots: int,
        models: ModelCache,
        loads: Loads,
        board: Board,
        tallies: Tallies,
        changed: threading.Event,
        tuners: Tuners | None = None,
    ) -> None:
        self._client, self._settings = client, settings
        self._worker, self._process, self._slots = worker, process, slots
        self._models, self._board, self._tallies = models, board, tallies
        self._loads, self._changed, self._tuners = loads, changed, tuners
        self._fleet = Fleet(client, settings.namespace)
        self._figures = FiguresStore(client, settings.namespace)
        self._control = TrafficControl(client, settings.namespace, who="worker")
        self._told: tuple[Held, ...] | None = None
        self._told_at = float("-inf")
        self._noted: dict[str, str] = {}
        self._stop = threading.Event()
        self._loader = Loader(models)
        self._thread = threading.Thread(target=self._run, name="umbel-steward", daemon=True)

    def start(self) -> None:
        """Begins, in threads of its own."""
        self._thread.start()
        self._loader.start()

    def stop(self) -> None:
        """Ends them, writes the last figures and tells that the process leaves."""
        self._stop.set()
        self._changed.set()
        self._loader.stop()
        if self._thread.is_alive():
            self._thread.join()
        leave = partial(self._fleet.leave, self._process)
        for last in (self._write_figures, self._loads.leave, leave):
            self._try(last)

    def beat(self) -> None:
        """Does once what it is there for; what Redis refuses is done at a later beat."""
        self._try(self._write_figures)
        self._try(self._board.refresh)
        if self._tuners is not None:
            self._try(self._tuners.tell)
        self._try(self._tell)
        self._try(self._load_and_unload)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._changed.clear()
            self.beat()
            self._changed.wait(_BEAT_S)

    def _try(self, what: Callable[[], object]) -> None:
        try:
            what()
        except (RedisError, StoreUnavailable) as error:
            log.debug("steward: Redis does not answer (%s)", type(error).__name__)
        except UmbelError as error:
            log.warning("steward: %s", error)
        except Exception:
            log.exception("steward: a beat failed; the next one comes")

    def _write_figures(self) -> None:
        self._figures.add(self._tallies.take())

    def _tell(self) -> None:
        holdings = self._models.holdings()
        held = tuple(_held(each) for each in holdings)
        if held == self._told and time.monotonic() - self._told_at < _TELL_S:
            return
        report = Report(
            process=self._process,
            worker=self._worker,
            slots=self._slots,
            queues=self._settings.queues,
            held=held,
            loaded_mb=round(sum(each.mb for each in holdings), 1),
            max_loaded_mb=self._settings.max_loaded_mb,
        )
        seconds, micros = self._client.time()
        self._fleet.tell(report, seconds * 1000 + micros // 1000)
        self._told, self._told_at = held, time.monotonic()
        self._note_failures(holdings)

    def _note_failures(self, holdings: Sequence[Holding]) -> None:
        """Keeps why a version did not load, until it does, beyond the life of this process."""
        for each in holdings:
            if each.state == "loading" or self._noted.get(each.name) == each.error:
                continue
            model, version = split_name(each.name)
            failure = LoadFailure(each.since_ms, self._worker, each.error) if each.error else None
            self._fleet.note_failure(model, version, failure)
            self._noted[each.name] = each.error

    def _load_and_unload(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        standings = self._board.all()
        self._loader.want(self._wanted(standings, now_ms))
        for each in self._models.holdings():
            model, version = split_name(each.name)
            standing = self._board.of(model)
            if (
                standing is not None
                and version in standing.traffic.retired
                and each.state == "ready"
                and each.used_ms < now_ms - _IDLE_MS
                and each.since_ms < now_ms - _IDLE_MS
            ):
                self._models.unload(each.name)

    def _wanted(self, standings: Sequence[Standing], now_ms: int) -> list[str]:
        """What this process should have loaded, the most important first."""
        names = list(self._pinned(standings))
        for standing in standings:
            for version in standing.traffic.to_load(now_ms):
                manifest = standing.manifests.get(version)
                if manifest is not None and manifest.queue in self._settings.queues:
                    names.append(f"{standing.model}@{version}")
        return list(dict.fromkeys(names))

    def _pinned(self, standings: Sequence[Standing]) -> list[str]:
        known = {standing.model: standing for standing in standings}
        names = []
        for pin in self._settings.pinned_models:
            model, version = split_name(pin) if "@" in pin else (pin, "")
            if not version:
                try:
                    standing = known.get(model) or self._control.read(model)
                except ModelError:  # not pushed yet
                    continue
                version = standing.route.versions[0] if standing.route else ""
            if version:
                names.append(f"{model}@{version}")
        return names


class Loader:
    """Loads versions ahead of need, one after the other, on a thread of its own.

    Args:
        models: where they are loaded.
    """

    def __init__(self, models: ModelCache) -> None:
        self._models = models
        self._wanted: list[str] = []
        self._pauses: dict[str, tuple[float, float]] = {}
        self._condition = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="umbel-loader", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it, without waiting for a load that is under way."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def want(self, names: Sequence[str]) -> None:
        """Says what should be loaded; what is, or did not load a moment ago, is left alone.

        Args:
            names: ``model@version``, the most important first.
        """
        with self._condition:
            for name in set(names) - set(self._wanted):  # a new wish: what failed may work by now
                self._pauses.pop(name, None)
            self._wanted = list(names)
            self._condition.notify_all()

    def _run(self) -> None:
        while (wish := self._next()) is not None:
            name, above = wish
            try:
                loaded = self._models.preload(name, above)
            except Exception as error:  # noqa: BLE001  (a factory may raise anything; see holdings)
                log.warning("%s is wanted and does not load: %s", name, error)
                loaded = False
            self._note(name, loaded=loaded)

    def _note(self, name: str, *, loaded: bool) -> None:
        """Has what did not load tried again later, ever more patiently."""
        with self._condition:
            if loaded:
                self._pauses.pop(name, None)
                return
            _, pause_s = self._pauses.get(name, (0.0, _AGAIN_S / 2))
            pause_s = min(2 * pause_s, _LONGEST_S)
            self._pauses[name] = time.monotonic() + pause_s, pause_s

    def _next(self) -> tuple[str, list[str]] | None:
        """What to load next, and what is wanted more than that; ``None`` at the end."""
        with self._condition:
            while not self._stopped:
                now = time.monotonic()
                ready = {each.name for each in self._models.holdings() if each.state == "ready"}
                for place, name in enumerate(self._wanted):
                    until, _ = self._pauses.get(name, (now, 0.0))
                    if name not in ready and until <= now:
                        return name, self._wanted[:place]
                self._condition.wait(_AGAIN_S)
        return None


def _held(holding: Holding) -> Held:
    model, version = split_name(holding.name)
    return Held(
        model=model,
        version=version,
        digest=holding.digest,
        state=holding.state,
        since_ms=holding.since_ms,
        mb=round(holding.mb, 1),
        load_s=round(holding.load_s, 3),
        warm_s=round(holding.warm_s, 3),
        device=holding.device,
        error=holding.error,
        pinned=holding.pinned,
    )
