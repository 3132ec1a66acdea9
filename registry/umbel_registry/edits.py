"""What may change about a model's traffic: each verb checks, and gives the state that follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from umbel_batching.policy import BatchPolicy
from umbel_config.errors import (
    NothingToRollBack,
    PolicyInvalid,
    RouteInvalid,
    VersionInUse,
    VersionNotFound,
)
from umbel_registry.manifest import Manifest, explain
from umbel_registry.resolve import listing, version_retired
from umbel_registry.route import Route, moved
from umbel_registry.traffic import MOST_EARLIER, Queued, Retirement, Traffic
from umbel_registry.versions import LATEST


@dataclass(frozen=True, slots=True)
class Standing:
    """How a model stands at one moment.

    Attributes:
        model: its name.
        number: how often its traffic was changed.
        traffic: what can move about it.
        manifests: its versions, from lowest to highest.
        now_ms: the time, by the clock of Redis.
    """

    model: str
    number: int
    traffic: Traffic
    manifests: dict[str, Manifest]
    now_ms: int

    def version(self, word: str) -> str:
        """The version that an alias, ``latest`` or a version's name means.

        Args:
            word: as given by a person.

        Raises:
            VersionNotFound: the model has no such version.
        """
        version = self.traffic.named(word, self.manifests)
        if version not in self.manifests:
            raise VersionNotFound(
                f"Model {self.model!r} has no version {word!r}. "
                f"{listing('It has', [*self.traffic.aliases, *self.manifests], word)}"
            )
        return version

    def live(self, word: str) -> str:
        """As ``version``, for one that is to get jobs.

        Args:
            word: as given by a person.

        Raises:
            VersionNotFound: the model has no such version.
            VersionRetired: it takes no jobs any more.
        """
        version = self.version(word)
        if version in self.traffic.retired:
            raise version_retired(self.model, version)
        return version

    @property
    def route(self) -> Route | None:
        """The route in force, ``None`` where no version could answer."""
        return self.traffic.route_among(self.manifests)


def with_aliases(standing: Standing, aliases: Mapping[str, str | None]) -> Traffic:
    """Moves or removes aliases.

    Args:
        standing: of the model.
        aliases: the version that each is to mean; ``None`` removes it.

    Raises:
        VersionNotFound: the model has no such version.
        VersionRetired: it takes no jobs any more.
        RouteInvalid: the alias has no name that one may have.
    """
    named = dict(standing.traffic.aliases)
    for name, version in aliases.items():
        if version is None:
            named.pop(name, None)
        else:
            named[name] = standing.live(version)
    taken = [name for name in named if name in standing.manifests or name.lower() == LATEST]
    if taken:
        meaning = "always the highest version" if taken[0].lower() == LATEST else "a version"
        raise RouteInvalid(
            f"{taken[0]!r} is {meaning} of {standing.model}; an alias needs a name of its own."
        )
    return _valid(standing, {"aliases": named})


def with_route(
    standing: Standing,
    weights: Mapping[str, float],
    shadows: Mapping[str, float] | None = None,
) -> Traffic:
    """Splits the jobs among versions.

    Args:
        standing: of the model.
        weights: relative weights by version or alias; 0 is as good as leaving it out.
        shadows: fractions of the jobs, from 0 to 1, that are copied to versions; ``None`` leaves
            the shadows as they are, but for versions that answer themselves now.

    Raises:
        VersionNotFound: the model has no such version.
        VersionRetired: one of them takes no jobs any more.
        RouteInvalid: a weight is none, or the versions do not take the same inputs.
    """
    before = standing.route
    parts = _by_version(standing, weights)
    if before is None or not parts:
        raise RouteInvalid(f"A route of {standing.model} needs a version with a weight above 0.")
    if shadows is None:
        copies = {name: part for name, part in before.shadows.items() if name not in parts}
    else:
        copies = _by_version(standing, shadows)
    both = [name for name in copies if name in parts]
    if both:
        raise RouteInvalid(f"{standing.model} {both[0]} answers itself; it cannot be a shadow too.")
    _check_inputs(standing, [*parts, *copies])
    number = standing.traffic.routes + 1
    try:
        route = Route.of(_plain(parts), before=before, shadows=copies, number=number)
    except ValidationError as error:
        raise RouteInvalid(f"The route of {standing.model} is none: {explain(error)}.") from None
    route = _as_it_was(route, before, standing.traffic.earlier)
    if standing.traffic.route is not None and _same(before, route):
        return standing.traffic
    earlier = (before, *standing.traffic.earlier)[:MOST_EARLIER]
    return _valid(standing, {"route": route, "routes": number, "earlier": earlier})


def _by_version(standing: Standing, parts: Mapping[str, float]) -> dict[str, float]:
    """The parts by version, where words may mean one; without those that get nothing."""
    found: dict[str, float] = {}
    for word, part in parts.items():
        version = standing.live(word) if part != 0 else None
        if version in found:
            raise RouteInvalid(
                f"{word!r} is {standing.model} {version}, which has a part of the route already. "
                "Give each version one part."
            )
        if version is not None:
            found[version] = part
    return found


def _as_it_was(route: Route, before: Route, earlier: Iterable[Route]) -> Route:
    """Gives versions the keys that they had under an earlier route, where that moves no more."""
    for old in earlier:
        if old.points == route.points and moved(before, old) <= moved(before, route):
            # Made anew: a copy would keep what its route has noted of the other table.
            return Route.model_validate({**dict(route), "table": old.table})
    return route


def _plain(parts: Mapping[str, float]) -> dict[str, float]:
    if all(isinstance(part, int | float) and 0 < part <= 1e9 for part in parts.values()):  # noqa: PLR2004
        return {name: float(part) for name, part in parts.items()}
    raise RouteInvalid("A weight is a number above 0, at most 1e9, as in: 3=90 4=10")


def _same(one: Route, other: Route) -> bool:
    return one.table == other.table and one.shadows == other.shadows


def _check_inputs(standing: Standing, versions: Iterable[str]) -> None:
    """Versions of one route get the same jobs, so they must take the same inputs."""
    first, *others = dict.fromkeys(versions)
    for other in others:
        if takes(standing, first) != takes(standing, other):
            raise RouteInvalid(
                f"{standing.model} {first} and {other} take different inputs, so they cannot share "
                "a route: a job that fits one would be refused by the other. Compare them: "
                f"umbel models show {standing.model} {first}"
            )


def takes(standing: Standing, version: str) -> list[tuple[str, Any]]:
    """The inputs of a version, in a form that can be compared: names in order, and what they are.

    Args:
        standing: of the model.
        version: one of its versions.
    """
    return list(standing.manifests[version].signature.inputs.items())


def rolled_back(standing: Standing) -> Traffic:
    """Returns to the route before, key by key; the one in force is forgotten.

    Args:
        standing: of the model.

    Raises:
        NothingToRollBack: there is no earlier route whose versions all still take jobs.
    """
    for place, route in enumerate(standing.traffic.earlier):
        if all(_takes_jobs(standing, name) for name in (*route.weights, *route.shadows)):
            return _back_to(standing, place)
    raise NothingToRollBack(
        f"{standing.model} has no earlier route to return to. Set one: "
        f"umbel models route {standing.model} VERSION=WEIGHT"
    )


def returned(
    standing: Standing, weights: Mapping[str, float], shadows: Mapping[str, float]
) -> Traffic:
    """Returns to a certain route of the past; if it is remembered, what came after is forgotten.

    Args:
        standing: of the model.
        weights: of that route.
        shadows: of that route.

    Raises:
        VersionNotFound: one of its versions is gone, or as ``VersionRetired`` takes no jobs.
    """
    now, wanted = standing.traffic.route, (dict(weights), dict(shadows))
    if now is not None and (now.weights, now.shadows) == wanted:
        return standing.traffic
    if all(_takes_jobs(standing, name) for name in (*weights, *shadows)):
        for place, route in enumerate(standing.traffic.earlier):
            if (route.weights, route.shadows) == wanted:
                return _back_to(standing, place)
    return with_route(standing, weights, shadows)


def _takes_jobs(standing: Standing, version: str) -> bool:
    return version in standing.manifests and version not in standing.traffic.retired


def _back_to(standing: Standing, place: int) -> Traffic:
    """Puts an earlier route in force again, with its table, so that all keys go where they went."""
    traffic, number = standing.traffic, standing.traffic.routes + 1
    route = traffic.earlier[place].model_copy(update={"number": number})
    earlier = traffic.earlier[place + 1 :]
    return _valid(standing, {"route": route, "routes": number, "earlier": earlier})


def with_retired(
    standing: Standing, version: str, *, queued: Queued, by: str, to: str | None = None
) -> Traffic:
    """Withdraws a version: it takes no new jobs, and workers unload it.

    Args:
        standing: of the model.
        version: the version.
        queued: what happens to the jobs that wait for it.
        by: who does it.
        to: with ``reroute`` the version that runs them; default: the largest of the route.

    Raises:
        VersionNotFound: the model has no such version.
        VersionInUse: a route or alias still points to it.
        VersionRetired: the version to run its jobs is retired.
        RouteInvalid: that version takes other inputs, or is the same one.
    """
    name = standing.version(version)
    use = standing.traffic.in_use().get(name)
    if use is not None:
        raise VersionInUse(
            f"{standing.model} {name} cannot be retired: {use} points to it. Promote another "
            f"version first: umbel models promote {standing.model} VERSION"
        )
    retired = dict(standing.traffic.retired)
    other = None
    if queued == "reroute":
        rest = standing.traffic.route_among(set(standing.manifests) - {name})
        other = _rerouted(standing, name, to or (rest.versions[0] if rest else name))
    retired[name] = Retirement(queued=queued, to=other, at=standing.now_ms, by=by)
    wanted = {word: until for word, until in standing.traffic.wanted.items() if word != name}
    return _valid(standing, {"retired": retired, "wanted": wanted})


def _rerouted(standing: Standing, name: str, to: str) -> str:
    """The version that runs what waits for a retired one."""
    other = standing.live(to)
    if other == name:
        raise RouteInvalid(
            f"What waits for {standing.model} {name} needs another version to go to."
        )
    _check_inputs(standing, [name, other])
    return other


def without_retired(standing: Standing, version: str) -> Traffic:
    """Lets a withdrawn version take jobs again.

    Args:
        standing: of the model.
        version: the version.

    Raises:
        VersionNotFound: the model has no such version.
    """
    name = standing.version(version)
    retired = {word: kept for word, kept in standing.traffic.retired.items() if word != name}
    return _valid(standing, {"retired": retired})


def with_policy(standing: Standing, version: str, changes: Mapping[str, Any] | None) -> Traffic:
    """Changes the batching policy of a version while it runs.

    Args:
        standing: of the model.
        version: the version.
        changes: new values by name of ``BatchPolicy``; ``None`` as a value, or for all of them,
            returns to what the version was pushed with.

    Raises:
        VersionNotFound: the model has no such version.
        PolicyInvalid: a name is unknown or a value out of range.
    """
    name = standing.version(version)
    own = standing.manifests[name].policy
    wanted = {**standing.traffic.policies.get(name, {}), **changes} if changes is not None else {}
    given = {field: value for field, value in wanted.items() if value is not None}
    try:
        whole = BatchPolicy.model_validate({**own.model_dump(), **given})
    except ValidationError as error:
        names = ", ".join(BatchPolicy.model_fields)
        raise PolicyInvalid(
            f"The batching policy of {standing.model} {name} cannot be that: {explain(error)}. "
            f"It has {names}."
        ) from None
    differing = {
        field: value if isinstance(value, str) else int(value)
        for field, value in whole.model_dump().items()
        if value != getattr(own, field)
    }
    policies = {word: kept for word, kept in standing.traffic.policies.items() if word != name}
    return _valid(standing, {"policies": policies | ({name: differing} if differing else {})})


def wanting(standing: Standing, version: str, until_ms: int) -> Traffic:
    """Asks workers to load a version and keep it loaded for a while.

    Args:
        standing: of the model.
        version: the version.
        until_ms: when the wish ends, in ms since 1970.

    Raises:
        VersionNotFound: the model has no such version.
        VersionRetired: it takes no jobs any more.
    """
    kept = {
        word: until for word, until in standing.traffic.wanted.items() if until > standing.now_ms
    }
    name = standing.live(version)
    return _valid(standing, {"wanted": {**kept, name: max(until_ms, kept.get(name, 0))}})


def _valid(standing: Standing, update: Mapping[str, Any]) -> Traffic:
    """The traffic with some parts exchanged, checked as a whole."""
    try:
        Traffic.model_validate({**_parts(standing.traffic), **update})
    except ValidationError as error:
        raise RouteInvalid(f"{standing.model}: {explain(error)}.") from None
    return standing.traffic.model_copy(update=dict(update))


def _parts(traffic: Traffic) -> dict[str, Any]:
    return {name: getattr(traffic, name) for name in Traffic.model_fields}
