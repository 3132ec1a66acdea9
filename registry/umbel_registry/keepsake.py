"""A copy of what can move about models, kept beside their artifacts for when Redis loses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from umbel_config.errors import ArtifactTampered
from umbel_registry.audit import Change
from umbel_registry.edits import Standing
from umbel_registry.manifest import explain
from umbel_registry.route import Route
from umbel_registry.traffic import Traffic
from umbel_registry.traffic_control import TrafficControl

if TYPE_CHECKING:
    from umbel_registry.artifacts import ArtifactStore

#: What came of keeping: it was written; it was there already; Redis has nothing to keep; no
#: artifacts of the model lie in this root; what is kept is ahead of Redis, which must have lost
#: some of its data.
Keeping = Literal["kept", "known", "nothing", "elsewhere", "ahead"]
#: How often one that was overtaken while it wrote writes again.
_ATTEMPTS = 5


class Kept(BaseModel):
    """What is kept of one model.

    Attributes:
        number: of the changes, as counted in Redis.
        at: when it was kept, in ms since 1970 by the clock of Redis.
        by: who kept it.
        state: aliases, route and all else that can move.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    number: int = Field(ge=0)
    at: int
    by: str
    state: Traffic

    def to_json(self) -> bytes:
        """As it is stored, for people to read too."""
        return self.model_dump_json(exclude_defaults=True, indent=2).encode() + b"\n"


class Keepsake:
    """Keeps the traffic of models, and puts it back.

    Whoever changes traffic calls ``keep`` after it, and so does a companion of every worker when
    the registry has moved. Redis is what counts; this is as new as the last call that got through.

    Args:
        store: the artifact root; one that several installations share keeps one copy for each.
        control: of the routes.
    """

    def __init__(self, store: ArtifactStore, control: TrafficControl) -> None:
        self._store, self._control = store, control

    def keep(self, model: str) -> Keeping:
        """Writes down how a model stands, if that is not known yet.

        A writer that reads a newer copy leaves it alone, and one that was overtaken while it wrote
        writes again. Two that write in the same moment may still leave the older copy until the
        next call; a file system has no compare-and-set.

        Args:
            model: its name.

        Raises:
            ModelNotFound: no model of that name is registered.
            ArtifactTampered: what Redis holds of it is not readable.
            OSError: the artifact root cannot be read or written.
        """
        standing = self._control.read(model)
        if standing.number == 0:
            return "nothing"
        if not self._store.holds(model):
            return "elsewhere"
        outcome = self._keep(standing)
        for _ in range(_ATTEMPTS if outcome == "kept" else 0):
            newest = self._control.read(model)
            if newest.number == standing.number:
                break
            standing = newest
            self._keep(standing)
        return outcome

    def _keep(self, standing: Standing) -> Keeping:
        kept = self._readable(standing.model)
        if kept is not None and kept.number > standing.number:
            return "ahead"
        if kept is not None and (kept.number, kept.state) == (standing.number, standing.traffic):
            return "known"
        new = Kept(
            number=standing.number,
            at=standing.now_ms,
            by=self._control.who,
            state=standing.traffic,
        )
        self._store.put_traffic(standing.model, self._control.namespace, new.to_json())
        return "kept"

    def _readable(self, model: str) -> Kept | None:
        try:
            return self.read(model)
        except ArtifactTampered:  # Redis knows better; this mends it
            return None

    def read(self, model: str) -> Kept | None:
        """What is kept of a model, or ``None``.

        Args:
            model: its name.

        Raises:
            ArtifactTampered: it is there but unreadable.
            OSError: the artifact root cannot be read.
        """
        raw = self._store.traffic(model, self._control.namespace)
        if raw is None:
            return None
        try:
            return Kept.model_validate_json(raw)
        except ValidationError as error:
            place = self._store.traffic_place(model, self._control.namespace)
            raise ArtifactTampered(
                f"{place}, where the routes of {model} are kept, is not readable by this version "
                f"of umbel: {explain(error)}. Update umbel, or restore the file; the next change "
                "of a route writes it anew."
            ) from None

    def restore(self, model: str, *, force: bool = False, dry_run: bool = False) -> Change | None:
        """Puts back what is kept of a model if Redis knows nothing of its traffic.

        The number of changes goes on behind the one that is kept, so it never goes back; routes
        keep their numbers. A canary that was under way is stopped. Versions that are not
        registered any more drop out of the route as long as others are left in it, and earlier
        routes with such versions are forgotten.

        Args:
            model: its name; its versions are to be registered before.
            force: put it back whatever Redis holds, even if that is unreadable.
            dry_run: tell what would change, but leave everything as it is.

        Returns:
            What changed; ``None`` where nothing was put back.

        Raises:
            ModelNotFound: no model of that name is registered.
            ArtifactTampered: what is kept is unreadable.
            OSError: the artifact root cannot be read.
        """
        kept = self.read(model)
        if kept is None:
            return None
        standing, above = self._standing(model, force=force), kept.number
        if standing is None:
            standing = self._control.read(model, damaged=True)
            above = max(above, standing.number + 1)  # whatever it is, it is written anew
        elif standing.number and not force:
            return None
        change = self._control.change(
            model,
            "restore",
            lambda now: now.traffic if now.number and not force else _put_back(kept.state, now),
            why=_why(kept, standing),
            dry_run=dry_run,
            above=above,
            damaged=force,
        )
        return change if change.changes else None

    def _standing(self, model: str, *, force: bool) -> Standing | None:
        """How a model stands; ``None``, if that is to be replaced, where it cannot be read."""
        try:
            return self._control.read(model)
        except ArtifactTampered:
            if not force:
                raise
            return None


def _why(kept: Kept, standing: Standing) -> str:
    why = f"as kept of change {kept.number} by {kept.by}"
    gone = _gone(kept.state, standing)
    return f"{why}; not registered any more: {', '.join(gone)}" if gone else why


def _gone(state: Traffic, standing: Standing) -> list[str]:
    """Versions that something points to, and that are not registered."""
    return [version for version in state.in_use() if version not in standing.manifests]


def _put_back(state: Traffic, standing: Standing) -> Traffic:
    known, route, routes = standing.manifests, state.route, state.routes
    canary = state.canary
    if canary is not None and canary.under_way:
        canary = canary.model_copy(update={"state": "stopped", "reason": "Redis lost its data"})
    if route is not None and not _whole(route, standing):
        weights = {name: part for name, part in route.weights.items() if name in known}
        shadows = {name: part for name, part in route.shadows.items() if name in known}
        if weights:
            routes += 1
            route = Route.of(weights, before=route, shadows=shadows, number=routes)
    earlier = tuple(each for each in state.earlier if _whole(each, standing))
    update = {"canary": canary, "route": route, "routes": routes, "earlier": earlier}
    return state.model_copy(update=update)


def _whole(route: Route, standing: Standing) -> bool:
    return all(name in standing.manifests for name in (*route.weights, *route.shadows))
