"""Which version a name means: pure functions on what Redis replied, for sync and async clients."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from umbel_config.errors import ModelNotFound, VersionNotFound, VersionRetired
from umbel_registry.manifest import Manifest
from umbel_registry.route import Route
from umbel_registry.traffic import Traffic, traffic_of
from umbel_registry.versions import LATEST, in_order

#: What ``HGETALL`` replies, whether or not the client decodes.
Reply = Mapping[bytes, bytes] | Mapping[str, str] | Mapping[bytes | str, bytes | str]

#: Names shown in an error before the list is cut.
_SHOWN = 20


def text(value: bytes | str) -> str:
    """A Redis reply as text, whether or not the client decodes.

    Args:
        value: one field of a reply.
    """
    return value.decode() if isinstance(value, bytes) else value


@dataclass(frozen=True, slots=True)
class Resolved:
    """The versions that a name means: one, or several that share the jobs by a route.

    Attributes:
        route: who answers which part; with one version it owns everything.
        manifests: of the versions that answer; their policies are those in force.
    """

    route: Route
    manifests: dict[str, Manifest]


def resolve(
    name: str,
    version: str | None,
    raw: Reply,
    traffic: Reply | None = None,
    known: Iterable[str] = (),
) -> Resolved:
    """The versions that jobs for a name and version go to.

    Args:
        name: the model.
        version: a version or alias; ``"latest"`` is the highest one that is not retired; ``None``
            is the model's route, without one the same as ``"latest"``.
        raw: reply of ``HGETALL`` on the model's key, version to manifest JSON.
        traffic: reply of ``HGETALL`` on the key of its traffic.
        known: names of all models, for the hint if this one is not there.

    Raises:
        ModelNotFound: ``raw`` is empty.
        VersionNotFound: the model has no such version, or as ``VersionRetired`` it takes no jobs.
        ArtifactTampered: what is stored is unreadable.
    """
    found = {text(field): text(value) for field, value in raw.items()}
    if not found:
        raise model_not_found(name, known)
    _, movable = traffic_of(traffic or {}, name)
    route = movable.route_among(found) if version is None else None
    if route is None:
        chosen = movable.named(LATEST if version is None else version, found)
        if chosen in movable.retired:
            raise version_retired(name, chosen)
        route = Route.of({chosen: 1.0}, number=movable.number_in_force)
    manifests = {each: _manifest(name, each, found, movable, version) for each in route.weights}
    return Resolved(route, manifests)


def pick(name: str, version: str | None, raw: Reply, known: Iterable[str] = ()) -> Manifest:
    """The manifest of exactly that version, whatever routes and retirements say.

    Args:
        name: the model.
        version: a version; ``None`` or ``"latest"`` is the highest.
        raw: reply of ``HGETALL`` on the model's key.
        known: names of all models, for the hint if this one is not there.

    Raises:
        ModelNotFound: ``raw`` is empty.
        VersionNotFound: the model has no such version.
        ArtifactTampered: the stored manifest is unreadable.
    """
    found = {text(field): text(value) for field, value in raw.items()}
    if not found:
        raise model_not_found(name, known)
    chosen = in_order(found)[-1] if version in {None, LATEST} else str(version)
    return _manifest(name, chosen, found, Traffic(), version)


def _manifest(
    name: str, chosen: str, found: Mapping[str, str], traffic: Traffic, asked: str | None
) -> Manifest:
    if chosen not in found:
        wanted = chosen if asked is None or asked in traffic.aliases else asked
        raise VersionNotFound(
            f"Model {name!r} has no version {wanted!r}. "
            f"{listing('It has', [*traffic.aliases, *in_order(found)], wanted)}"
        )
    manifest = Manifest.from_json(found[chosen], f"The registered {name} {chosen}")
    policy = traffic.policy_of(chosen, manifest.policy)
    return manifest if policy is manifest.policy else manifest.model_copy(update={"policy": policy})


def version_retired(model: str, version: str) -> VersionRetired:
    """The error for a version that takes no jobs any more.

    Args:
        model: name of the model.
        version: the version.
    """
    return VersionRetired(
        f"{model} {version} is retired and takes no new jobs. Ask for another version, or bring "
        f"it back: umbel models retire {model} {version} --undo"
    )


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
        f"No model named {name!r} is registered. {listing('There are', names, name)}"
    )


def listing(lead: str, names: list[str], wanted: str) -> str:
    """What there is, for an error; begins with the name that was probably meant.

    Args:
        lead: words before the list.
        names: all there are; only the last ones are listed.
        wanted: what was asked for.
    """
    close = difflib.get_close_matches(wanted, names, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{hint}{lead}: {', '.join(names[-_SHOWN:])}{more}."
