"""Changes of a model's traffic in words: what it was, what it is, who did it, when and why."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from umbel_registry.route import Route
from umbel_registry.traffic import Canary, Traffic


class Change(BaseModel):
    """One change, as the audit trail keeps it.

    Attributes:
        model: name of the model.
        id: names the change; the same id is never applied twice.
        at: when, in ms since 1970 by the clock of Redis.
        who: who asked for it: ``user@host``, or ``canary`` for one that drove itself.
        what: the verb.
        why: the reason given.
        changes: what each thing was before and is now; ``None`` where there was, or is, nothing.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    id: str
    at: int
    who: str
    what: str
    why: str = ""
    changes: dict[str, tuple[str | None, str | None]] = {}


def differences(before: Traffic, after: Traffic) -> dict[str, tuple[str | None, str | None]]:
    """What differs between two states, by name of the thing, in words.

    Args:
        before: the state that was.
        after: the state that is to be.
    """
    old, new = _described(before), _described(after)
    return {
        name: (old.get(name), new.get(name))
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    }


def _described(traffic: Traffic) -> dict[str, str]:
    words: dict[str, str] = {}
    if traffic.route is not None:
        words["route"] = route_text(traffic.route)
        for version, fraction in traffic.route.shadows.items():
            words[f"shadow {version}"] = _number(fraction)
    for name, version in traffic.aliases.items():
        words[f"alias {name}"] = version
    for version, retirement in traffic.retired.items():
        to = f" on {retirement.to}" if retirement.to else ""
        words[f"retired {version}"] = f"{retirement.queued}{to}"
    for version, changes in traffic.policies.items():
        words[f"batching {version}"] = pairs_text(changes)
    if traffic.canary is not None:
        words["canary"] = canary_text(traffic.canary)
    return words


def route_text(route: Route) -> str:
    """The weights of a route as they are given on the command line: ``3=90 4=10``."""
    return pairs_text(route.weights)


def pairs_text(values: Mapping[str, float | str]) -> str:
    """Names and values in one line.

    Args:
        values: numbers and words by name.
    """
    return " ".join(
        f"{name}={value if isinstance(value, str) else _number(value)}"
        for name, value in values.items()
    )


def _number(value: float) -> str:
    """Every digit, as a change of the last one is a change too."""
    return f"{value:.15g}"


def canary_text(canary: Canary) -> str:
    """How a canary fares, in one line."""
    at = f" at {canary.percent:g} %" if canary.state == "stepping" else ""
    reason = f": {canary.reason}" if canary.reason and not canary.under_way else ""
    return f"{canary.version} {canary.state.replace('_', ' ')}{at}{reason}"
