"""How callbacks, their attempts and their receivers are shown to people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from umbel_batching.deliveries import Attempt, Callback
from umbel_batching.receivers import BREAKS, ReceiverStatus, Undelivered
from umbel_batching.record import SHARED, Record
from umbel_cli.callbacks.moments import ahead
from umbel_cli.dead.tables import ago, moment
from umbel_cli.render import attempt_text, grid, state_text, time_text

_STYLES = {"pending": "cyan", "delivered": "green", "dead": "red"}
_STATES = {"waiting": "waiting for the end of the job", "dead": "dead: it was given up"}


def undelivered_table(letters: Sequence[Undelivered], now_ms: int, *, width: int) -> Table:
    """Undelivered callbacks, one a row.

    Args:
        letters: newest first.
        now_ms: the time, in ms since 1970.
        width: in columns; what the last attempt ended with is cut to it.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", width=width)
    for name in ("job", "receiver", "given up"):
        table.add_column(name, no_wrap=True)
    table.add_column("attempts", justify="right", no_wrap=True)
    table.add_column("last attempt", no_wrap=True, overflow="ellipsis", ratio=1)
    for letter in letters:
        when = f"{ago(letter.died_at, now_ms)}, {moment(letter.died_at, now_ms)}"
        last = Text(attempt_text(letter.log[-1]) if letter.log else "", style="red")
        table.add_row(letter.id, Text(letter.receiver), when, str(letter.attempts), last)
    return table


def receivers_table(statuses: Sequence[ReceiverStatus], now_ms: int) -> Table:
    """Receivers, one a row."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("receiver", no_wrap=True)
    for name in ("pending", "under way", "delivered", "again", "dead", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("breaker", no_wrap=True)
    table.add_column("next attempt", no_wrap=True)
    for each in statuses:
        counts = (each.pending, each.under_way, each.delivered, each.again, each.dead)
        table.add_row(
            Text(each.receiver),
            *(f"{count:,}" for count in counts),
            "-" if each.limit is None else str(each.limit),
            breaker_text(each, now_ms),
            _next_text(each, now_ms),
        )
    return table


def breaker_text(status: ReceiverStatus, now_ms: int) -> Text:
    """Whether a receiver gets POSTs now, and why not."""
    failures = "1 failure" if status.failures == 1 else f"{status.failures} failures"
    if status.closed_until is not None:
        until = moment(status.closed_until, now_ms)
        if status.failures < BREAKS:
            return Text(f"asked for a pause until {until}", style="yellow")
        return Text(f"closed until {until} ({failures})", style="red")
    if status.failures >= BREAKS:
        return Text(f"one POST at a time, on trial ({failures})", style="yellow")
    return Text(f"{failures} in a row", style="yellow") if status.failures else Text("well")


def _next_text(status: ReceiverStatus, now_ms: int) -> str:
    """When the next POST is due; for those under way it is known only when they have ended."""
    if status.next_at is None or status.under_way >= status.pending:
        return "-"
    return ahead(max(status.next_at, status.closed_until or 0), now_ms)


def delivery_table(
    job_id: str, message_id: str, record: Record, callback: Callback, now_ms: int
) -> RenderableType:
    """The delivery of one callback, and the log of its attempts.

    Args:
        job_id: the job.
        message_id: its ``webhook-id`` where it has a POST of its own.
        record: of the job.
        callback: as ``info`` tells it.
        now_ms: the time, in ms since 1970.
    """
    shared = record.callback.startswith(SHARED)
    table = grid()
    table.add_row("job", Text.assemble(job_id, "  ", state_text(record.state.value)))
    table.add_row("url", Text(callback.url))
    table.add_row("webhook-id", "that of the POST it shares" if shared else message_id)
    state = _STATES.get(callback.state, callback.state)
    table.add_row("state", Text(state, style=_STYLES.get(callback.state, "")))
    table.add_row("attempts", str(callback.attempts))
    if callback.state == "pending":
        table.add_row("next attempt", ahead(callback.next_at or 0, now_ms))
    return Group(table, Text(), _log_table(callback.log)) if callback.log else table


def _log_table(log: Sequence[Attempt]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("at", no_wrap=True)
    table.add_column("took", justify="right", no_wrap=True)
    table.add_column("attempt", overflow="fold")
    for each in log:
        replayed = each.note == "replayed"
        took = "" if replayed else f"{each.took_ms:,} ms"
        table.add_row(time_text(each.at), took, Text(attempt_text(each)))
    return table
