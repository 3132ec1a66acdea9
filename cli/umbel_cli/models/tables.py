"""How versions, where they are loaded, and changes are shown to people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from umbel_cli.dead.tables import ago, one_line
from umbel_cli.models.words import length_text, percent_text
from umbel_cli.render import output, print_json, specs_text, time_text
from umbel_registry import Manifest
from umbel_registry.audit import Change
from umbel_registry.fleet import Readiness
from umbel_registry.life import Life, Place, VersionState

#: Columns of the list of versions, and those that a narrow terminal does without, first to go.
_COLUMNS: tuple[str, ...] = ("model", "version", "state", "share", "aliases", "format", "queue")
_COLUMNS += ("inputs", "outputs", "batch", "created")
_DISPENSABLE = ("created", "batch", "format", "outputs", "queue")
_FOLDED = ("aliases", "inputs", "outputs")
#: Columns that a cell which may be folded gets at least, unless it is shorter.
_FOLD_AT = 20
#: Workers named before the list is cut.
_SHOWN = 5
#: What a table is measured against.
_WIDEST = 1000
_STYLES = {
    VersionState.LOADING: "cyan",
    VersionState.READY: "cyan",
    VersionState.SERVING: "green",
    VersionState.RETIRED: "yellow",
    VersionState.FAILED: "red",
}
_HELD_STYLES = {"loading": "cyan", "ready": "green", "failed": "red"}
_NOTHING = "-"


def models_table(entries: Sequence[tuple[Manifest, Life]], console: Console) -> Table:
    """Registered versions, one a row; what does not fit beside each other is left out.

    Args:
        entries: versions and their lives.
        console: where it is to be printed.
    """
    left_out: set[str] = set()
    table = _models_table(entries, left_out)
    for name in _DISPENSABLE:
        needed = console.measure(table, options=console.options.update_width(_WIDEST)).minimum
        if needed <= console.width:
            break
        left_out.add(name)
        table = _models_table(entries, left_out)
    return table


def print_failures(out: Console, lives: Iterable[Life]) -> None:
    """Says of each version that does not load why that is, beneath a table that has no room for it.

    Args:
        out: where to print.
        lives: of the versions in the table.
    """
    for life in lives:
        if life.state is VersionState.FAILED:
            text = f"{life.model} {life.version} does not load: {one_line(life.why)}"
            out.print(Text(text, style=_STYLES[life.state]), soft_wrap=True)


def _models_table(entries: Sequence[tuple[Manifest, Life]], left_out: Iterable[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = [name for name in _COLUMNS if name not in left_out]
    rows = [_cells(manifest, life) for manifest, life in entries]
    for name in names:
        longest = max(len(name), *(len(row[name]) for row in rows))
        folded = name in _FOLDED
        width = min(longest, _FOLD_AT) if folded else longest
        table.add_column(name, no_wrap=not folded, min_width=width)
    for row in rows:
        table.add_row(*(row[name] for name in names))
    return table


def _cells(manifest: Manifest, life: Life) -> dict[str, str | Text]:
    return {
        "model": manifest.name,
        "version": manifest.version,
        "state": version_state_text(life.state),
        "share": share_text(life),
        "aliases": Text(", ".join(life.aliases)),
        "format": manifest.format,
        "queue": Text(manifest.queue),
        "inputs": Text(specs_text(manifest.signature.inputs)),
        "outputs": Text(specs_text(manifest.signature.outputs)),
        "batch": f"≤ {manifest.policy.max_batch_size}",
        "created": f"{manifest.created_at.astimezone():%Y-%m-%d %H:%M}",
    }


def version_state_text(state: VersionState) -> Text:
    """What a version is at, in its colour."""
    return Text(state.value, style=_STYLES.get(state, ""))


def share_text(life: Life) -> str:
    """The part of the jobs that a version answers, or as a shadow gets copies of."""
    if life.share:
        return percent_text(life.share)
    return f"{percent_text(life.shadow)} copied" if life.shadow else _NOTHING


def places_table(places: Sequence[Place], now_ms: int) -> Table:
    """Where a version is loaded, or was to be, one process a row.

    Args:
        places: at least one.
        now_ms: the time, in ms since 1970.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    several = any(place.process != place.worker for place in places)
    names = ("worker", *(["process"] if several else []), "state", "since", "memory", "load")
    for name in (*names, "warm-up", "device"):
        right = name in {"memory", "load", "warm-up"}
        folded = name in {"worker", "process"}
        table.add_column(
            name,
            justify="right" if right else "left",
            no_wrap=not folded,
            overflow="fold" if folded else "ellipsis",
        )
    for place in places:
        held = place.held
        times = (held.load_s, held.warm_s)
        table.add_row(
            Text(place.worker),
            *([Text(place.process)] if several else []),
            Text(held.state, style=_HELD_STYLES[held.state]),
            ago(held.since_ms, now_ms),
            f"{held.mb:,.0f} MB" if held.mb else _NOTHING,
            *(length_text(each) if each else _NOTHING for each in times),
            (held.device or _NOTHING) + (", pinned" if held.pinned else ""),
        )
    return table


def readiness_text(what: str, readiness: Readiness) -> str:
    """How many workers have a version loaded, in half a sentence.

    Args:
        what: model and version.
        readiness: of that version.
    """
    if readiness.slots == 0:
        return "no worker serves its queue"
    text = f"{readiness.ready} of {readiness.slots} worker slots have {what} loaded and warm"
    failed = [
        f"{name} could not load it: {one_line(why).rstrip('.')}"
        for name, why in readiness.failed.items()
    ]
    missing = [name for name in readiness.missing if name not in readiness.failed]
    waits = [f"not yet: {_some(missing)}"] if missing else []
    return "; ".join((text, *waits, *failed))


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def second_text(milliseconds: int) -> str:
    """A moment in local time, to the second.

    Args:
        milliseconds: since 1970.
    """
    return time_text(milliseconds).partition(".")[0]


def print_change(
    change: Change,
    *,
    dry_run: bool,
    as_json: bool,
    notes: Iterable[str] = (),
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Prints what a command changed, or would change.

    Args:
        change: what it was before and is now.
        dry_run: whether it was left as it is.
        as_json: whether to print JSON.
        notes: sentences about it, for people.
        facts: the same for programs.
    """
    if as_json:
        print_json({**change.model_dump(mode="json"), "dry_run": dry_run, **(facts or {})})
        return
    out = output()
    for line in change_lines(change):
        out.print(line, soft_wrap=True)
    for note in notes:
        out.print(Text(note), soft_wrap=True)
    if dry_run:
        out.print("[yellow]A dry run: nothing was changed.[/yellow]")
    elif not change.changes:
        out.print(f"{change.model} is so already: nothing was changed.", soft_wrap=True)


def change_lines(change: Change) -> list[Text]:
    """What changed, one thing a line: ``route: 3=1 -> 4=1``."""
    return [
        Text.assemble((name, "bold"), ": ", (before or "none", "dim"), " -> ", after or "none")
        for name, (before, after) in change.changes.items()
    ]
