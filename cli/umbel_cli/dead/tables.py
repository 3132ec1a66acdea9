"""How dead letters, their evidence and rehearsals are shown to people."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from umbel_batching.calls import LOST
from umbel_batching.dead_letters import DeadLetter, RecordedBatch
from umbel_cli.dead.inputs import Part
from umbel_cli.render import event_text, grid, size_text, time_text

_LONGEST_ERROR = 200
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def letters_table(letters: Sequence[DeadLetter], *, width: int) -> Table:
    """Dead letters, one a row.

    Args:
        letters: newest first.
        width: in columns; long errors are cut to it.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", width=width)
    table.add_column("id", no_wrap=True)
    table.add_column("lane", no_wrap=True)
    table.add_column("died", no_wrap=True)
    table.add_column("attempts", justify="right", no_wrap=True)
    table.add_column("replayable", no_wrap=True)
    table.add_column("error", no_wrap=True, overflow="ellipsis", ratio=1)
    now_ms = int(time.time() * 1000)
    for letter in letters:
        again = Text("yes") if letter.replayable else Text("no", style="yellow")
        died = f"{ago(letter.died_at, now_ms)}, {moment(letter.died_at, now_ms)}"
        error = Text(one_line(_reason(letter)), style="red")
        table.add_row(letter.id, Text(letter.lane), died, str(letter.attempts), again, error)
    return table


def _reason(letter: DeadLetter) -> str:
    """Its error; for a job that was lost with its workers what the last of them died of."""
    kind, _, _ = letter.error.partition(":")
    if kind == LOST.kind and letter.history and letter.history[-1].cause:
        return f"{kind}: {letter.history[-1].cause}"
    return letter.error


def one_line(error: str) -> str:
    """The beginning of what an error says, which may be pages."""
    line = " ".join(error.split())
    return line if len(line) <= _LONGEST_ERROR else f"{line[:_LONGEST_ERROR]}…"


def ago(then_ms: int, now_ms: int) -> str:
    """How long ago a moment was, in its largest unit."""
    seconds = max(0, now_ms - then_ms) // 1000
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"


def moment(then_ms: int, now_ms: int) -> str:
    """A moment in local time: without its date where that is today's."""
    then, now = (datetime.fromtimestamp(ms / 1000).astimezone() for ms in (then_ms, now_ms))
    return f"{then:%H:%M:%S}" if then.date() == now.date() else f"{then:%Y-%m-%d %H:%M}"


def evidence_table(
    letter: DeadLetter, parts: Sequence[Part] | None, batch: RecordedBatch | None
) -> RenderableType:
    """All that is known of a dead letter, but for the content of its input.

    Args:
        letter: the job.
        parts: what its input consists of; ``None`` if it is not kept.
        batch: its last batch, if that is kept.
    """
    now_ms = int(time.time() * 1000)
    table = grid()
    table.add_row("id", letter.id)
    table.add_row("lane", Text(letter.lane))
    table.add_row("created", time_text(letter.created_at))
    table.add_row("died", f"{time_text(letter.died_at)} ({ago(letter.died_at, now_ms)})")
    table.add_row("error", Text(letter.error, style="red"))
    table.add_row("attempts", str(letter.attempts))
    for event in letter.history:
        table.add_row(event.what, Text(event_text(event)))
    table.add_row("last batch", Text(_batch_text(letter, batch)))
    table.add_row("input", Text(_parts_text(parts, letter)))
    table.add_row("replayable", "yes" if letter.replayable else "no: its input is not kept")
    return table


def _batch_text(letter: DeadLetter, batch: RecordedBatch | None) -> str:
    text = letter.batch_id + (f" on {letter.worker}" if letter.worker else "")
    if batch is None:
        return f"{text}, not recorded"
    count = len(batch.job_ids) + batch.missing
    return f"{text}, {'1 job' if count == 1 else f'{count} jobs'}, flushed by {batch.reason}"


def _parts_text(parts: Sequence[Part] | None, letter: DeadLetter) -> str:
    if parts is None:
        # A job that shared the outcome of another one was never in the forward itself.
        return "that of an identical job of its batch" if letter.replayable else "not kept"
    return "\n".join(
        f"{part.name + ': ' if part.name else ''}{part.type}"
        f"{f' {part.shape}' if part.shape is not None else ''}, {size_text(part.bytes)}"
        for part in parts
    )


def next_steps(steps: Sequence[tuple[str, str]]) -> RenderableType:
    """What can be done now: command lines, and what each does."""
    table = grid()
    for line, what in steps:
        table.add_row(Text(what), Text(line, style="bold"))
    return Group(Text("\nWhat you can do"), table)
