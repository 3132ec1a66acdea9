"""Brings the lanes that exist to the batching policy in force."""

from __future__ import annotations

from typing import TYPE_CHECKING

from umbel_batching.calls import Calls
from umbel_batching.lanes import Lane
from umbel_batching.scripts import Runner
from umbel_config.server import address_of
from umbel_config.store_errors import translate_errors
from umbel_registry.traffic_control import TrafficControl

if TYPE_CHECKING:
    from redis import Redis

    from umbel_registry.edits import Standing


class PolicyKeeper:
    """Lanes keep the policy they began with; this gives them the one that is in force now.

    The registry is what counts. Whoever changes a policy calls ``apply``, and so does a companion
    of every worker when the registry has moved: if the first one dies before it has called, the
    change is late by seconds, but not lost.

    Args:
        redis: a client whose replies are bytes.
        namespace: prefix of all keys, the ``namespace`` setting.
    """

    def __init__(self, redis: Redis, namespace: str = "umbel") -> None:
        self._control = TrafficControl(redis, namespace)
        self._runner, self._calls = Runner(redis), Calls(namespace)
        self._translated = translate_errors(address_of(redis))

    def apply(self, model: str, standing: Standing | None = None) -> list[str]:
        """Gives all lanes of a model the policy in force of their version.

        Args:
            model: its name.
            standing: how it stands, if the caller has just read that.

        Returns:
            The names of the lanes that have another policy than before.

        Raises:
            ModelNotFound: no model of that name is registered.
        """
        standing = standing or self._control.read(model)
        changed = []
        for version, manifest in standing.manifests.items():
            policy = standing.traffic.policy_of(version, manifest.policy)
            lane = Lane(model=model, version=version)
            with self._translated:
                if self._runner.run(self._calls.govern(lane.slot, lane.name, policy)):
                    changed.append(lane.name)
        return changed
