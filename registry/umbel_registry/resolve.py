"""Which version a name means: pure functions on what Redis replied, for sync and async clients."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from umbel_config.errors import ModelNotFound, VersionNotFound
from umbel_registry.manifest import Manifest
from umbel_registry.versions import LATEST, in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Names shown in an error before the list is cut.
_SHOWN = 20


def text(value: bytes | str) -> str:
    """A Redis reply as text, whether or not the client decodes.

    Args:
        value: one field of a reply.
    """
    return value.decode() if isinstance(value, bytes) else value


def resolve(
    name: str,
    version: str | None,
    raw: Mapping[bytes, bytes] | Mapping[str, str] | Mapping[bytes | str, bytes | str],
    known: Iterable[str] = (),
) -> Manifest:
    """Picks the manifest that a name and version mean.

    Args:
        name: the model.
        version: a version; ``None`` or ``"latest"`` is the highest.
        raw: reply of ``HGETALL`` on the model's key, version to manifest JSON.
        known: names of all models, for the hint if this one is not there.

    Raises:
        ModelNotFound: ``raw`` is empty.
        VersionNotFound: the model has no such version.
        ArtifactTampered: the stored manifest is unreadable.
    """
    manifests = {text(field): text(value) for field, value in raw.items()}
    if not manifests:
        raise model_not_found(name, known)
    chosen = in_order(manifests)[-1] if version in {None, LATEST} else version
    if chosen is None or chosen not in manifests:
        raise VersionNotFound(
            f"Model {name!r} has no version {version!r}. "
            f"{_listing('It has', in_order(manifests), str(version))}"
        )
    return Manifest.from_json(manifests[chosen], f"The registered {name} {chosen}")


def model_not_found(name: str, known: Iterable[str]) -> ModelNotFound:
    """The error for an unknown model, with what is there instead.

    Args:
        name: what was asked for.
        known: names of all models.
    """
    names = sorted(known)
    if not names:
        return ModelNotFound(
            f"No model named {name!r} is registered. Push one with: umbel models push FOLDER"
        )
    return ModelNotFound(
        f"No model named {name!r} is registered. {_listing('There are', names, name)}"
    )


def _listing(lead: str, names: list[str], wanted: str) -> str:
    close = difflib.get_close_matches(wanted, names, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{hint}{lead}: {', '.join(names[-_SHOWN:])}{more}."
