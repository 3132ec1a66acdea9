"""Changes of what can move about a model, each in one step: read, edit, compare and set."""

from __future__ import annotations

import getpass
import json
import logging
import random
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from umbel_config.errors import ArtifactTampered, CanaryUnderWay, RouteInvalid, TrafficContended
from umbel_config.server import address_of
from umbel_config.store_errors import translate_errors
from umbel_registry import edits
from umbel_registry.audit import Change, differences
from umbel_registry.edits import Standing
from umbel_registry.keys import audit_key, model_key, models_key, revision_key, traffic_key
from umbel_registry.manifest import Manifest
from umbel_registry.resolve import model_not_found, text
from umbel_registry.traffic import Queued, Traffic, traffic_of
from umbel_registry.versions import in_order

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger("umbel.registry")

#: Makes the state that follows from how a model stands; raises what forbids it.
Edit = Callable[[Standing], Traffic]
#: Changes kept in the audit trail of a model.
MOST_KEPT = 1000
#: How often an edit is made anew because somebody else was quicker, and longest pause before.
_ATTEMPTS, _PAUSE_S = 20, 0.02
_MOVED, _NAMED_AS_VERSION = -1, -2


class TrafficControl:
    """Decides which version of a model answers; every change is atomic and leaves a trail.

    Args:
        redis: a client; whether it decodes replies does not matter.
        namespace: prefix of all keys, the ``namespace`` setting.
        who: who asks, for the audit trail; default: ``user@host`` of this process.
    """

    def __init__(self, redis: Redis, namespace: str = "umbel", who: str | None = None) -> None:
        self._redis, self._namespace = redis, namespace
        self.who = who or whoami()
        source = resources.files("umbel_registry").joinpath("lua/change.lua").read_text("utf-8")
        self._script = redis.register_script(source)
        self._translated = translate_errors(address_of(redis))

    @property
    def namespace(self) -> str:
        """Prefix of all keys."""
        return self._namespace

    def read(self, model: str, *, damaged: bool = False) -> Standing:
        """How a model stands now.

        Args:
            model: its name.
            damaged: take traffic that cannot be read for none, instead of raising.

        Raises:
            ModelNotFound: no model of that name is registered.
            ArtifactTampered: what is stored of its traffic is not readable. A version whose
                manifest is not is as if it were not there: it must not stand in a roll-back's way.
        """
        pipe = self._redis.pipeline(transaction=True)  # versions and routes of one moment
        pipe.hgetall(model_key(self._namespace, model))
        pipe.hgetall(traffic_key(self._namespace, model))
        pipe.time()
        with self._translated:
            raw, fields, (seconds, micros) = pipe.execute()
            known = [] if raw else self._redis.hkeys(models_key(self._namespace))
        if not raw:
            raise model_not_found(model, [text(name) for name in cast("list[bytes]", known)])
        found = {text(name): text(value) for name, value in raw.items()}
        manifests = dict(_readable(model, found))
        number, traffic = _whatever(fields) if damaged else traffic_of(fields, model)
        return Standing(model, number, traffic, manifests, seconds * 1000 + micros // 1000)

    def change(
        self,
        model: str,
        what: str,
        edit: Edit,
        *,
        why: str = "",
        dry_run: bool = False,
        above: int = 0,
        damaged: bool = False,
    ) -> Change:
        """Applies an edit; made anew on the newest state where somebody else was quicker.

        Args:
            model: the model.
            what: the verb, for the audit trail.
            edit: gives the state to be; the same state changes nothing.
            why: the reason, for the audit trail.
            dry_run: check and tell what would change, but leave everything as it is.
            above: a number of changes that the new one is to be above; numbers never go back.
            damaged: put the new state in the place of one that cannot be read.

        Returns:
            What changed; without ``changes`` where nothing did.

        Raises:
            ModelNotFound: no model of that name is registered.
            TrafficContended: others changed it again and again meanwhile.
        """
        change_id = uuid.uuid4().hex
        for _ in range(_ATTEMPTS):
            standing = self.read(model, damaged=damaged)
            after = edit(standing)
            change = Change(
                model=model,
                id=change_id,
                at=standing.now_ms,
                who=self.who,
                what=what,
                why=why,
                changes=differences(standing.traffic, after),
            )
            same = after == standing.traffic and standing.number >= above
            if dry_run or same or self._write(standing, after, change, above):
                return change
            time.sleep(random.uniform(0, _PAUSE_S))  # noqa: S311  (jitter, not a secret)
        raise TrafficContended(
            f"The routes of {model} were changed by others each time that this change was ready. "
            "Look what they do (umbel models history) and try again."
        )

    def history(self, model: str, limit: int = 50) -> list[Change]:
        """The last changes of a model, newest first.

        Args:
            model: its name.
            limit: most changes to return.
        """
        with self._translated:
            lines = cast(
                "list[bytes]",
                self._redis.lrange(audit_key(self._namespace, model), 0, max(0, limit - 1)),
            )
        found = []
        for line in lines[: max(0, limit)]:
            try:
                found.append(Change.model_validate_json(line))
            except ValidationError:  # of a release that kept other things; the rest is readable
                continue
        return found

    def alias(
        self, model: str, aliases: Mapping[str, str | None], *, dry_run: bool = False
    ) -> Change:
        """Moves aliases at once; see ``edits.with_aliases``."""
        return self.change(
            model, "alias", lambda now: edits.with_aliases(now, aliases), dry_run=dry_run
        )

    def route(
        self,
        model: str,
        weights: Mapping[str, float],
        shadows: Mapping[str, float] | None = None,
        *,
        dry_run: bool = False,
    ) -> Change:
        """Splits the jobs among versions at once; see ``edits.with_route``.

        Raises:
            CanaryUnderWay: a canary decides about the route.
        """

        def edit(now: Standing) -> Traffic:
            forbid_canary(now)
            return edits.with_route(now, weights, shadows)

        return self.change(model, "route", edit, dry_run=dry_run)

    def roll_back(self, model: str, *, why: str = "", dry_run: bool = False) -> Change:
        """Returns to the route before at once; a canary under way ends with that.

        Raises:
            NothingToRollBack: there is no earlier route.
        """
        return self.change(
            model, "roll back", lambda now: _rolled_back(now, why), why=why, dry_run=dry_run
        )

    def retire(
        self,
        model: str,
        version: str,
        *,
        queued: Queued = "finish",
        to: str | None = None,
        dry_run: bool = False,
    ) -> Change:
        """Withdraws a version; see ``edits.with_retired``."""
        return self.change(
            model,
            "retire",
            lambda now: edits.with_retired(now, version, queued=queued, by=self.who, to=to),
            dry_run=dry_run,
        )

    def bring_back(self, model: str, version: str, *, dry_run: bool = False) -> Change:
        """Lets a retired version take jobs again."""
        return self.change(
            model, "bring back", lambda now: edits.without_retired(now, version), dry_run=dry_run
        )

    def set_policy(
        self,
        model: str,
        version: str,
        changes: Mapping[str, Any] | None,
        *,
        dry_run: bool = False,
    ) -> Change:
        """Changes a version's batching policy; see ``edits.with_policy``.

        Lanes take it over when a worker's companion sees it, or ``PolicyKeeper.apply`` is called.
        """
        return self.change(
            model, "policy", lambda now: edits.with_policy(now, version, changes), dry_run=dry_run
        )

    def want(self, model: str, version: str, for_s: float) -> Change:
        """Asks workers to load a version and to keep it loaded for some time.

        Args:
            model: the model.
            version: the version.
            for_s: for how long, in seconds.
        """
        return self.change(
            model,
            "warm",
            lambda now: edits.wanting(now, version, now.now_ms + round(for_s * 1000)),
        )

    def _write(self, standing: Standing, after: Traffic, change: Change, above: int) -> bool:
        """Sets the state if it is still the one that was read; false if not."""
        model, namespace = standing.model, self._namespace
        keys = (
            traffic_key(namespace, model),
            revision_key(namespace),
            audit_key(namespace, model),
            model_key(namespace, model),
        )
        line = change.model_dump_json() if change.changes else ""
        new = [name for name in after.aliases if name not in standing.traffic.aliases]
        given: tuple[str | int, ...] = (change.id, standing.number, after.to_json(), line)
        args = (*given, MOST_KEPT, above, *new)
        with self._translated:
            answer = int(cast("int", self._script(keys=keys, args=args)))
        if answer == _NAMED_AS_VERSION:
            raise RouteInvalid(
                f"One of {json.dumps(new)} is a version of {model}; an alias needs a name of its "
                "own."
            )
        return answer != _MOVED


def _readable(model: str, found: Mapping[str, str]) -> Iterator[tuple[str, Manifest]]:
    """The manifests that can be read, from lowest to highest version."""
    for version in in_order(found):
        try:
            yield version, Manifest.from_json(found[version], f"The registered {model} {version}")
        except ArtifactTampered as error:
            log.warning("%s", error)


def forbid_canary(standing: Standing) -> None:
    """Refuses a change of the route while a canary decides about it.

    Args:
        standing: of the model.

    Raises:
        CanaryUnderWay: there is one.
    """
    canary = standing.traffic.canary
    if canary is not None and canary.under_way:
        raise CanaryUnderWay(
            f"A canary of {standing.model} {canary.version} is under way. Stop it first: "
            f"umbel models canary {standing.model} --stop"
        )


def _rolled_back(standing: Standing, why: str) -> Traffic:
    canary = standing.traffic.canary
    if canary is None or not canary.under_way:
        return edits.rolled_back(standing)
    ended = canary.model_copy(update={"state": "rolled_back", "reason": why or "by hand"})
    # Before its first step the route is what it was, and its steps are no routes to return to.
    moved = canary.step >= 0
    back = edits.returned(standing, canary.before, canary.shadows) if moved else standing.traffic
    return back.model_copy(update={"canary": ended})


def _whatever(fields: Mapping[Any, Any]) -> tuple[int, Traffic]:
    """Number and traffic, empty where it is not readable."""
    try:
        return traffic_of(fields, "")
    except ArtifactTampered:
        number = text(fields.get(b"number", fields.get("number", b"0")))
        return (int(number) if number.isdecimal() else 0), Traffic()


def whoami() -> str:
    """Who runs this process: ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "?"
    return f"{user}@{socket.gethostname()}"
