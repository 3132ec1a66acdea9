"""Shadows that do harm, or only fail, are switched off; the trail tells which, when and why."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, cast

from redis.exceptions import RedisError

from umbel_batching.keys import lane_keys
from umbel_batching.lanes import Lane, split_name
from umbel_config.errors import UmbelError
from umbel_config.server import address_of
from umbel_config.store_errors import translate_errors
from umbel_registry.edits import Standing
from umbel_registry.figures import FiguresStore
from umbel_registry.resolve import text
from umbel_registry.route import Route
from umbel_registry.traffic import Traffic
from umbel_registry.traffic_control import TrafficControl

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger("umbel.shadows")

#: Who does it, in the audit trail.
WHO: Final = "shadow watch"
#: Copies whose original was answered, from which on a shadow may be judged, and the share of them
#: that may fail.
LEAST_COPIES: Final = 50
MOST_FAILED: Final = 0.5
#: Milliseconds after which a batch of copies keeps a slot for too long; it hangs, perhaps for ever.
LONGEST_MS: Final = 120_000
_LOST: Final = "a worker was lost while it ran copies for it"


class ShadowWatch:
    """Keeps shadows from harming those whose jobs they get copies of.

    Any number of processes may do so at once: each change is compare-and-set, and the second one
    finds nothing left to change.

    Args:
        redis: a client whose replies are bytes.
        namespace: prefix of all keys, the ``namespace`` setting.
    """

    def __init__(self, redis: Redis, namespace: str = "umbel") -> None:
        self._control = TrafficControl(redis, namespace, who=WHO)
        self._figures = FiguresStore(redis, namespace)
        self._redis, self._namespace = redis, namespace
        self._translated = translate_errors(address_of(redis))

    def look(self, standing: Standing) -> None:
        """Switches off those shadows of a model that mostly fail, or hang.

        Args:
            standing: of the model.

        Raises:
            StoreUnavailable: Redis cannot be reached.
        """
        route = standing.traffic.route
        if route is None or not route.shadows:
            return
        figures = self._figures.read(standing.model, route.number, route.shadows)
        for version, seen in figures.items():
            copies = seen.pairs + seen.failed_pairs
            runs_ms = self._runs_ms(standing.model, version)
            if runs_ms > LONGEST_MS:
                why = f"a batch of its copies has kept a worker's slot for {runs_ms // 60_000} min"
                self._switch_off(standing.model, version, why)
            elif copies >= LEAST_COPIES and seen.failed_pairs > MOST_FAILED * copies:
                why = f"{seen.failed_pairs:,} of {copies:,} copies failed on it alone"
                self._switch_off(standing.model, version, why)

    def lost(self, lane: str) -> None:
        """Switches off the shadow whose copies a worker was lost with; never raises.

        Args:
            lane: the lane of the copies.
        """
        model, version = split_name(lane)
        try:
            self._switch_off(model, version, _LOST)
        except (RedisError, UmbelError) as error:  # the next loss is another occasion
            log.warning("the shadow %s %s is not switched off: %s", model, version, error)

    def _runs_ms(self, model: str, version: str) -> int:
        """For how long the oldest batch of copies has been running, in ms; 0 if none runs."""
        lane = Lane(model=model, version=version, shadow=True)
        keys = lane_keys(self._namespace, lane.slot)
        with self._translated:
            batches = cast("list[bytes]", self._redis.zrange(keys.leases, 0, -1))
            began = [self._redis.hget(f"{keys.batch}{text(each)}", "started") for each in batches]
            seconds, micros = self._redis.time()
        now_ms = seconds * 1000 + micros // 1000
        return max((now_ms - int(each) for each in began if each), default=0)

    def _switch_off(self, model: str, version: str, why: str) -> None:
        change = self._control.change(
            model, "shadow off", lambda now: without_shadow(now.traffic, version), why=why
        )
        if change.changes:
            log.warning("shadow %s %s is switched off: %s", model, version, why)


def without_shadow(traffic: Traffic, version: str) -> Traffic:
    """The traffic without a certain shadow, which no roll-back brings back either.

    Args:
        traffic: of the model.
        version: the shadow.
    """
    route, canary = traffic.route, traffic.canary
    if route is None or version not in route.shadows:
        return traffic
    number = traffic.routes + 1
    update: dict[str, Any] = {
        "route": _without(route, version).model_copy(update={"number": number}),
        "routes": number,
        "earlier": tuple(_without(each, version) for each in traffic.earlier),
    }
    if canary is not None and canary.under_way:
        shadows = {name: part for name, part in canary.shadows.items() if name != version}
        update["canary"] = canary.model_copy(update={"shadows": shadows})
    return traffic.model_copy(update=update)


def _without(route: Route, version: str) -> Route:
    shadows = {name: part for name, part in route.shadows.items() if name != version}
    return route.model_copy(update={"shadows": shadows})
