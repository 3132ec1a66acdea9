"""Putting back what is permanent when Redis has lost its data: the models and their routes."""

from __future__ import annotations

import logging
import time

from redis.exceptions import RedisError

from umbel_batching.calls import Calls
from umbel_batching.flusher import sweep
from umbel_batching.identity import identify
from umbel_batching.scripts import Runner
from umbel_config.errors import ModelError, StoreUnavailable, StoreUnsuitable
from umbel_config.settings import Settings
from umbel_registry import ArtifactStore, Catalog, TrafficControl
from umbel_registry.keepsake import Keepsake

log = logging.getLogger("umbel.worker")
#: Seconds between two looks into the artifact root while no model is known anywhere.
_LISTING_S = 30.0


class Repair:
    """Notices a loss of data by the id of the store, or by a register without models.

    Args:
        settings: namespace and artifact root.
        runner: runs scripts.
        calls: of the namespace.
    """

    def __init__(self, settings: Settings, runner: Runner, calls: Calls) -> None:
        self._settings, self._runner, self._calls = settings, runner, calls
        self._catalog = Catalog(runner.client, settings.namespace)
        self._control = TrafficControl(runner.client, settings.namespace, who="repair")
        self._store = ""
        self._next_listing = 0.0

    def look(self) -> None:
        """Looks once, and repairs what is lost; logs what it cannot do and tries again next time.

        Raises:
            StoreUnsuitable: Redis holds data that this version of umbel would misread.
        """
        try:
            self._look()
        except StoreUnsuitable:
            raise
        except (RedisError, StoreUnavailable) as error:
            log.warning("Redis does not answer (%s); data not looked at", type(error).__name__)
        except OSError as error:
            log.warning("the artifact root cannot be read (%s); models not restored", error)

    def _look(self) -> None:
        store = identify(self._runner.client, self._settings.namespace).store
        lost = bool(self._store) and store != self._store
        if lost or self._is_bare():
            self._next_listing = time.monotonic() + _LISTING_S
            known, routed = self._restore()
            if lost or known:
                what = "lost its data" if lost else "knew no models"
                models = "1 model" if known == 1 else f"{known} models"
                routes = f"; put back the routes of {', '.join(routed)}" if routed else ""
                log.warning("Redis %s: re-registered %s%s", what, models, routes)
                sweep(self._runner, self._calls, now=True)
        self._store = store

    def _is_bare(self) -> bool:
        return time.monotonic() >= self._next_listing and not self._catalog.names()

    def _restore(self) -> tuple[int, list[str]]:
        """Registers what is stored; how many models are known then, and which are routed again."""
        store = ArtifactStore(self._settings.artifacts)
        try:
            self._catalog.restore(store)
        except ModelError as error:
            log.error("%s", error)  # noqa: TRY400  (a typed error, not a bug)
        keepsake = Keepsake(store, self._control)
        routed = [name for name in self._catalog.names() if self._put_back(keepsake, name)]
        return len(self._catalog.names()), routed

    def _put_back(self, keepsake: Keepsake, model: str) -> bool:
        """Whether the routes of a model are as they were kept, and were not before."""
        try:
            return keepsake.restore(model) is not None
        except ModelError as error:
            log.error("%s", error)  # noqa: TRY400  (a typed error, not a bug)
            return False
