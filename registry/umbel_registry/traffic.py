"""What can move about a model: aliases, route, retired versions, live policies, a canary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from umbel_batching.policy import BatchPolicy
from umbel_config.errors import ArtifactTampered
from umbel_registry.route import Route
from umbel_registry.versions import LATEST, in_order

#: What happens to jobs that wait for a version when it is retired.
Queued = Literal["finish", "reroute", "fail"]
#: How a canary fares; the last three are ends.
CanaryState = Literal["warming", "stepping", "promoted", "rolled_back", "stopped"]
#: A name for a version: no number, so that no version can be meant by mistake.
ALIAS_PATTERN = r"^[A-Za-z][A-Za-z0-9._-]{0,63}$"
AliasName = Annotated[str, StringConstraints(pattern=ALIAS_PATTERN)]
#: Earlier routes that are remembered for a roll-back.
MOST_EARLIER = 20


class _Value(BaseModel):
    # No infinity: it would be stored as null, and nobody could read the traffic any more.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Retirement(_Value):
    """A version that is withdrawn.

    Attributes:
        queued: what happens to the jobs that wait for it: they ``finish`` on it, they ``reroute``
            to another version, or they ``fail``.
        to: the version that runs them, with ``reroute``.
        at: when, in ms since 1970.
        by: who did it.
    """

    queued: Queued
    to: str | None = None
    at: int
    by: str


class Canary(_Value):
    """A version that takes ever more of the jobs for as long as it does well.

    Attributes:
        version: the new version.
        steps: percent of the jobs that it gets, step by step.
        every_s: seconds that each step lasts at least.
        min_jobs: jobs of the version that each step waits for at least.
        max_error_rate: highest share of its jobs that may fail, between 0 and 1.
        max_p95_ms: highest 95th percentile of its latency, from arrival to result, in ms.
        warm_s: seconds that workers have to load it before the first step.
        step: place of the step it is at, from 0; -1 while it is being loaded.
        since_ms: when that began, in ms since 1970.
        started_ms: when the canary was begun.
        by: who began it.
        before: weights of the route that a roll-back returns to.
        shadows: shadows of that route.
        route: number of that route; those above it are the canary's own.
        counters: of the version's lane, as they were when the step began.
        state: how it fares.
        reason: why it ended, or what it waits for.
    """

    version: str
    steps: tuple[float, ...]
    every_s: float
    min_jobs: int
    max_error_rate: float
    max_p95_ms: float | None = None
    warm_s: float = 300.0
    step: int = -1
    since_ms: int
    started_ms: int
    by: str
    before: dict[str, float]
    shadows: dict[str, float] = {}
    route: int = 0
    counters: dict[str, int] = {}
    state: CanaryState = "warming"
    reason: str = ""

    @property
    def under_way(self) -> bool:
        """Whether it has not ended."""
        return self.state in {"warming", "stepping"}

    @property
    def percent(self) -> float:
        """What the version gets at this step, in percent."""
        return self.steps[self.step] if self.step >= 0 else 0.0


class Traffic(_Value):
    """Everything that can move about one model; its versions themselves never change.

    Attributes:
        aliases: movable names of versions.
        route: who answers where no version is asked for; ``None``: the highest version.
        earlier: routes that were in force before, the last one first.
        routes: how many routes there have been.
        retired: versions that take no new jobs.
        policies: what deviates from a version's own batching policy.
        wanted: versions that workers should have loaded, until a time in ms since 1970.
        canary: the one under way, or the last one.
    """

    aliases: dict[AliasName, str] = {}
    route: Route | None = None
    earlier: tuple[Route, ...] = ()
    routes: int = Field(0, ge=0)
    retired: dict[str, Retirement] = {}
    policies: dict[str, dict[str, int | str]] = {}
    wanted: dict[str, int] = {}
    canary: Canary | None = None

    @property
    def number_in_force(self) -> int:
        """Number of the route in force; 0 while there has been none."""
        return self.route.number if self.route else self.routes

    def route_among(self, versions: Iterable[str]) -> Route | None:
        """The route in force; without one of its own the highest version answers everything.

        Args:
            versions: all versions of the model.

        Returns:
            The route, or ``None`` if there is no version that could answer.
        """
        if self.route is not None:
            return self.route
        live = [name for name in in_order(versions) if name not in self.retired]
        return Route.of({live[-1]: 1.0}, number=self.routes) if live else None

    def named(self, version: str, versions: Iterable[str]) -> str:
        """The version that a caller's word means: an alias, ``latest``, or the version itself.

        Args:
            version: as the caller named it.
            versions: all versions of the model.
        """
        if version == LATEST:
            known = in_order(versions)
            live = [name for name in known if name not in self.retired] or known
            return live[-1] if live else version
        return self.aliases.get(version, version)

    def policy_of(self, version: str, own: BatchPolicy) -> BatchPolicy:
        """The batching policy in force of a version.

        Args:
            version: the version.
            own: the policy that it was pushed with.

        Raises:
            ArtifactTampered: what is stored of it is not readable.
        """
        changes = self.policies.get(version)
        if not changes:
            return own
        try:
            return BatchPolicy.model_validate({**own.model_dump(), **changes})
        except ValidationError:
            raise _unreadable(f"the batching policy of version {version}") from None

    def in_use(self) -> dict[str, str]:
        """The versions that something points to, and what does: route, shadow, alias or canary."""
        uses = {version: f"alias {name}" for name, version in self.aliases.items()}
        if self.canary is not None and self.canary.under_way:
            uses |= dict.fromkeys((*self.canary.before, self.canary.version), "the canary")
        if self.route is not None:
            uses |= dict.fromkeys(self.route.shadows, "a shadow of the route")
            uses |= dict.fromkeys(self.route.weights, "the route")
        return uses

    def to_load(self, now_ms: int) -> list[str]:
        """Versions that workers should have loaded, the most important first.

        Args:
            now_ms: milliseconds since 1970.
        """
        soon = [version for version, until in self.wanted.items() if until > now_ms]
        routed = [] if self.route is None else [*self.route.versions, *self.route.shadows]
        behind = self.earlier[0].versions if self.earlier else ()
        order = dict.fromkeys((*soon, *routed, *self.aliases.values(), *behind))
        return [version for version in order if version not in self.retired]

    def to_json(self) -> str:
        """As it is stored."""
        return self.model_dump_json(exclude_defaults=True)


def traffic_of(fields: Mapping[Any, Any], model: str) -> tuple[int, Traffic]:
    """Number of changes and traffic of a model, from the reply of ``HGETALL`` on its key.

    Args:
        fields: the reply; empty where nothing was ever changed.
        model: name of the model, for the error.

    Raises:
        ArtifactTampered: what is stored is not readable.
    """
    try:
        known = {_text(name): _text(value) for name, value in fields.items()}
        state = Traffic.model_validate_json(known.get("state", "{}"))
        return int(known.get("number", 0)), state
    except ValueError:
        raise _unreadable(f"the routes of {model}") from None


def _unreadable(what: str) -> ArtifactTampered:
    return ArtifactTampered(
        f"What Redis holds of {what} is not readable by this version of umbel. Update umbel, or "
        "put back what is stored: umbel models restore --traffic"
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
