"""How a canary fares, for people and for programs."""

from __future__ import annotations

from typing import Any

import redis
from rich.table import Table
from rich.text import Text

from umbel_cli.models.tables import readiness_text, second_text
from umbel_cli.models.words import length_text, percent_text
from umbel_cli.render import grid, output, print_json
from umbel_registry import TrafficControl
from umbel_registry.audit import Change, canary_text
from umbel_registry.canary_evidence import CanaryEyes, Seen
from umbel_registry.canary_step import QUANTILE, summary
from umbel_registry.edits import Standing
from umbel_registry.traffic import Canary


class Teller:
    """Prints what is new about a canary: from its trail, so that no step is missed.

    Args:
        control: of the routes.
        begun: the change that began it.
    """

    def __init__(self, control: TrafficControl, begun: Change) -> None:
        self._control, self._begun = control, begun
        self._told: set[str] = set()
        self._number, self._reason = -1, ""

    def tell(self, standing: Standing, found: Canary) -> None:
        """Prints what has come since the last time.

        Args:
            standing: of the model.
            found: its canary.
        """
        if standing.number == self._number:
            return
        self._number = standing.number
        for change in reversed(self._control.history(standing.model)):
            new = change.at >= self._begun.at and change.id not in self._told
            if new and "canary" in change.changes:
                self._told.add(change.id)
                self._line(change.at, _change_text(change))
        if found.under_way and found.reason not in ("", self._reason):
            self._line(standing.now_ms, f"{found.version} waits: {found.reason}")
        self._reason = found.reason

    def _line(self, at_ms: int, text: str) -> None:
        when = second_text(at_ms).partition(" ")[2]
        output().print(Text.assemble((when, "dim"), "  ", text), soft_wrap=True)


def _change_text(change: Change) -> str:
    """One change of a canary: what it is at now, and why."""
    now = change.changes["canary"][1] or "gone"
    return f"{now}, {change.why}" if change.why and change.why not in now else now


def show(client: redis.Redis, standing: Standing, namespace: str, *, as_json: bool) -> None:
    """Prints how the canary of a model fares, or how the last one ended.

    Args:
        client: of the Redis that holds it.
        standing: of the model.
        namespace: prefix of every key.
        as_json: whether to print JSON.
    """
    if as_json:
        print_json(facts(client, standing, namespace))
        return
    found, out = standing.traffic.canary, output()
    if found is None:
        out.print(
            f"{standing.model} has no canary. Begin one: umbel models canary {standing.model} "
            "VERSION",
            soft_wrap=True,
        )
        return
    out.print(Text.assemble((standing.model, "bold"), f" {canary_text(found)}\n"), soft_wrap=True)
    seen = CanaryEyes(client, namespace).look(standing, found) if found.under_way else None
    out.print(_table(standing, found, seen))


def _table(standing: Standing, found: Canary, seen: Seen | None) -> Table:
    table = grid()
    percents = [f"{step:g}" for step in found.steps]
    limits = [f"{percent_text(found.max_error_rate)} of its jobs failed"]
    if found.max_p95_ms is not None:
        limits.append(f"p95 {found.max_p95_ms:g} ms")
    every = f"{length_text(found.every_s)} and {found.min_jobs:,} jobs at least"
    rows = {
        "begun": f"{second_text(found.started_ms)} by {found.by}",
        "steps": f"{', '.join(percents)} %, each {every}",
        "limits": ", ".join(limits),
        "before": " ".join(f"{name}={weight:g}" for name, weight in found.before.items()),
    }
    if seen is not None:
        rows |= {
            "at this step": f"since {length_text((standing.now_ms - found.since_ms) / 1000)}",
            "measured": summary(seen.evidence),
            "waits": found.reason,
            "workers": readiness_text(f"{standing.model} {found.version}", seen.readiness),
        }
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(value))
    return table


def facts(client: redis.Redis, standing: Standing, namespace: str) -> dict[str, Any]:
    """A canary for programs: what it is at, and what is measured while it is under way.

    Args:
        client: of the Redis that holds it.
        standing: of the model.
        namespace: prefix of every key.
    """
    found = standing.traffic.canary
    if found is None:
        return {"model": standing.model, "canary": None}
    told = {**found.model_dump(mode="json"), "percent": found.percent}
    if not found.under_way:
        return {"model": standing.model, "canary": told}
    seen = CanaryEyes(client, namespace).look(standing, found)
    count = seen.evidence.count
    measured = {
        "jobs": count.jobs,
        "failed": count.failed,
        "p95_ms": seen.evidence.own.latency.quantile(QUANTILE),
        "waiting": seen.evidence.waiting,
        "running": seen.evidence.running,
    }
    return {
        "model": standing.model,
        "canary": told,
        "measured": measured,
        "workers": seen.readiness,
    }
