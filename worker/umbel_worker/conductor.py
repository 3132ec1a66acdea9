"""Beside each worker: drives canaries, watches shadows, applies policies, keeps routes on disk."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from functools import partial

import redis
from redis.exceptions import RedisError

from umbel_config.connect import connect
from umbel_config.errors import StoreUnavailable, UmbelError
from umbel_config.settings import Settings
from umbel_registry import ArtifactStore, Catalog, TrafficControl
from umbel_registry.canary import CanaryDriver
from umbel_registry.edits import Standing
from umbel_registry.keepsake import Keepsake
from umbel_registry.policy_keeper import PolicyKeeper
from umbel_registry.shadows import ShadowWatch

log = logging.getLogger("umbel.worker")

#: Seconds between two turns; each worker takes them at its own pace.
_TURN_S = 2.0
#: Seconds between two looks at all policies: a lane may have begun with one just outdated.
_POLICIES_S = 30.0


class Conductor:
    """Does what must happen though nobody asks for it. Every worker has one, and none leads.

    All that it does is compare-and-set or may be done twice, so it does not matter how many there
    are, nor when one of them dies.

    Args:
        settings: with a ``redis_url``.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: redis.Redis = connect(settings, client_name="umbel-conductor")
        namespace = settings.namespace
        self._catalog = Catalog(self._client, namespace)
        self._control = TrafficControl(self._client, namespace, who="worker")
        self._canaries = CanaryDriver(self._client, namespace)
        self._policies = PolicyKeeper(self._client, namespace)
        self._shadows = ShadowWatch(self._client, namespace)
        self._shadowed: dict[str, Standing] = {}
        self._unkept: set[str] = set()
        self._revision = -1
        self._policies_at = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="umbel-conductor", daemon=True)

    def start(self) -> None:
        """Begins, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it with the turn it is at."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._client.close()

    def turn(self) -> None:
        """Does once what is due; what fails is done at a later turn."""
        self._try(self._canaries.turn)
        self._try(self._follow)
        for standing in self._shadowed.values():
            self._try(partial(self._shadows.look, standing))

    def _run(self) -> None:
        while not self._stop.wait(_TURN_S * random.uniform(0.7, 1.3)):  # noqa: S311  (jitter)
            self.turn()

    def _try(self, what: Callable[[], object]) -> None:
        try:
            what()
        except (RedisError, StoreUnavailable) as error:
            log.debug("conductor: Redis does not answer (%s)", type(error).__name__)
        except UmbelError as error:
            log.warning("conductor: %s", error)
        except OSError as error:
            log.warning("the routes are not kept under the artifact root (%s)", error)
        except Exception:
            log.exception("conductor: a turn failed; the next one comes")

    def _follow(self) -> None:
        """Brings lanes and keepsakes to what the registry says, when it has moved."""
        revision = self._catalog.revision()
        moved = revision != self._revision
        if not moved and time.monotonic() - self._policies_at < _POLICIES_S:
            return
        self._revision, self._policies_at = revision, time.monotonic()
        keepsake = Keepsake(ArtifactStore(self._settings.artifacts), self._control)
        self._shadowed = {}
        names = self._catalog.names()
        if moved:
            self._unkept |= {*names}  # those that cannot be kept now are tried again
        for model in names:
            kept = keepsake if model in self._unkept else None
            self._try(partial(self._follow_model, model, kept))

    def _follow_model(self, model: str, keepsake: Keepsake | None) -> None:
        standing = self._control.read(model)
        if standing.traffic.route is not None and standing.traffic.route.shadows:
            self._shadowed[model] = standing
        changed = self._policies.apply(model, standing)
        if changed:
            log.info("the batching policy of %s is in force", ", ".join(changed))
        if keepsake is None:
            return
        outcome = keepsake.keep(model)
        self._unkept.discard(model)
        if outcome == "ahead":
            log.warning(
                "the routes of %s that are kept under the artifact root are newer than those in "
                "Redis; put them back (umbel models restore --traffic) or change the routes",
                model,
            )
