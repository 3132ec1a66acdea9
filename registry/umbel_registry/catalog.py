"""What is registered, in Redis: register a version, look one up, rebuild all from artifacts."""

from __future__ import annotations

import builtins
import json
from importlib import resources
from typing import TYPE_CHECKING, cast

from umbel_config.errors import ArtifactTampered, ModelError, VersionExists
from umbel_config.server import address_of
from umbel_config.store_errors import translate_errors
from umbel_registry.keys import model_key, models_key, revision_key, traffic_key
from umbel_registry.manifest import Manifest
from umbel_registry.resolve import model_not_found, pick, text
from umbel_registry.versions import in_order

if TYPE_CHECKING:
    from redis import Redis

    from umbel_registry.artifacts import ArtifactStore

_REGISTERED, _TAKEN, _IS_ALIAS = 1, -1, -2


class Catalog:
    """The live register of models; the keys it keeps are described in ``keys.py``.

    Args:
        redis: a client; whether it decodes replies does not matter.
        namespace: prefix of all keys, the ``namespace`` setting.
    """

    def __init__(self, redis: Redis, namespace: str = "umbel") -> None:
        self._redis = redis
        self._namespace = namespace
        source = resources.files("umbel_registry").joinpath("lua/register.lua").read_text("utf-8")
        self._register = redis.register_script(source)
        self._translated = translate_errors(address_of(redis))

    def register(self, manifest: Manifest) -> bool:
        """Makes a version known; the same content again changes nothing.

        Args:
            manifest: of a version whose artifact is stored.

        Returns:
            Whether something changed.

        Raises:
            VersionExists: the version is registered with other content.
        """
        keys = (
            models_key(self._namespace),
            model_key(self._namespace, manifest.name),
            revision_key(self._namespace),
            traffic_key(self._namespace, manifest.name),
        )
        summary = json.dumps(
            {
                "last_version": manifest.version,
                "format": manifest.format,
                "queue": manifest.queue,
                "description": manifest.description,
            }
        )
        args = (manifest.name, manifest.version, manifest.digest, manifest.to_json(), summary)
        with self._translated:
            outcome = self._register(keys=keys, args=args)
        if outcome == _TAKEN:
            raise version_exists(manifest.name, manifest.version)
        if outcome == _IS_ALIAS:
            raise VersionExists(
                f"{manifest.version!r} is an alias of {manifest.name}. Choose another name for the "
                f"version, or remove the alias: umbel models alias {manifest.name} --remove "
                f"{manifest.version}"
            )
        return bool(outcome == _REGISTERED)

    def get(self, name: str, version: str | None = None) -> Manifest:
        """The manifest of a version.

        Args:
            name: the model.
            version: a version; ``None`` or ``"latest"`` is the highest.

        Raises:
            ModelNotFound: no model of that name; the sentence says which there are.
            VersionNotFound: the model has no such version; the sentence says which it has.
        """
        raw = self._versions(name)
        return pick(name, version, raw, known=() if raw else self.names())

    def names(self) -> list[str]:
        """The names of all models, sorted."""
        return sorted(self._fields(models_key(self._namespace)))

    def versions(self, name: str) -> list[str]:
        """The versions of a model, from lowest to highest.

        Args:
            name: the model.

        Raises:
            ModelNotFound: no model of that name.
        """
        versions = self._fields(model_key(self._namespace, name))
        if not versions:
            raise model_not_found(name, self.names())
        return in_order(versions)

    def manifests(self, name: str) -> list[Manifest]:
        """All versions of a model, from lowest to highest; none if there is no such model.

        Args:
            name: the model.
        """
        raw = self._versions(name)
        found = {text(field): text(value) for field, value in raw.items()}
        return [
            Manifest.from_json(found[version], f"The registered {name} {version}")
            for version in in_order(found)
        ]

    def list(self) -> list[Manifest]:
        """All versions of all models, by name, then from lowest to highest version."""
        return [manifest for name in self.names() for manifest in self.manifests(name)]

    def revision(self) -> int:
        """A number that grows with every change; 0 before the first."""
        with self._translated:
            reply = cast("bytes | None", self._redis.get(revision_key(self._namespace)))
        return int(reply or 0)

    def restore(self, store: ArtifactStore) -> int:
        """Registers all stored artifacts, for example after Redis was lost.

        Args:
            store: the artifact root.

        Returns:
            How many versions were missing and are now registered.

        Raises:
            ArtifactTampered: some manifests are unreadable or contradict what is registered;
                all others are registered all the same.
        """
        restored, problems = 0, []
        for place in store.places():
            try:
                restored += self.register(store.read(place))
            except ModelError as error:
                problems.append(str(error))
        if problems:
            raise ArtifactTampered(
                f"{restored} versions restored, {len(problems)} not: {' '.join(problems)}"
            )
        return restored

    def _versions(self, name: str) -> dict[bytes, bytes]:
        with self._translated:
            reply = self._redis.hgetall(model_key(self._namespace, name))
        return cast("dict[bytes, bytes]", reply)

    def _fields(self, key: str) -> builtins.list[str]:
        with self._translated:
            reply = cast("builtins.list[bytes]", self._redis.hkeys(key))
        return [text(field) for field in reply]


def version_exists(name: str, version: str) -> VersionExists:
    """The error for a version that other content has taken.

    Args:
        name: the model.
        version: the version.
    """
    return VersionExists(
        f"{name} {version} exists already with other content, and versions never change. "
        "Choose another version, or leave it out to get the next number."
    )
