"""``umbel callbacks show``: the delivery of one callback, attempt by attempt."""

from __future__ import annotations

from typing import Any

import msgspec
import redis
import typer

from umbel_batching.deliveries import Callback
from umbel_batching.lanes import split_id
from umbel_batching.outbox import Entry
from umbel_batching.receivers import read_callback
from umbel_batching.record import SHARED, Record
from umbel_cli.callbacks.moments import now_ms
from umbel_cli.callbacks.tables import delivery_table
from umbel_cli.jobs import JobId
from umbel_cli.options import Json, command
from umbel_cli.render import output, print_json
from umbel_cli.store import client_of
from umbel_config.errors import InvalidInput, JobNotFound
from umbel_config.settings import Settings

_AGAIN = "Send it again:  umbel callbacks replay {id}"
_NEXT = {
    "pending": "How its receiver fares:  umbel callbacks receivers",
    "delivered": _AGAIN,
    "dead": _AGAIN,
}


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = ("umbel callbacks show ID", "umbel callbacks show ID --json")
    command(app, examples=examples)(show)


def show(settings: Settings, job_id: JobId, *, as_json: Json = False) -> None:
    """Show where the callback of a job goes, how it fares, and each attempt."""
    with client_of(settings) as client:
        record, callback = _read(client, settings.namespace, job_id)
    message_id = Entry(*split_id(job_id), record.replays).webhook_id(record.created_ms)
    if as_json:
        print_json(_facts(job_id, message_id, record, callback))
        return
    out = output()
    table = delivery_table(job_id, message_id, record, callback, now_ms())
    out.print(table, crop=False, soft_wrap=True)
    if callback.state in _NEXT:
        line = f"\n{_NEXT[callback.state].format(id=job_id)}"
        out.print(line, style="dim", soft_wrap=True)


def _read(client: redis.Redis, namespace: str, job_id: str) -> tuple[Record, Callback]:
    found = read_callback(client, namespace, job_id)
    if found is None:
        raise JobNotFound(
            f"No job {job_id} is known, or what was kept of it has expired.", job_id=job_id
        )
    record, callback = found
    if callback is None:
        raise InvalidInput(f"Job {job_id} has no callback: it was submitted without callback_url.")
    return record, callback


def _facts(job_id: str, message_id: str, record: Record, callback: Callback) -> dict[str, Any]:
    shared = record.callback.startswith(SHARED)
    return {
        "id": job_id,
        "job_state": record.state.value,
        "webhook_id": None if shared else message_id,
        "shared": shared,
        **msgspec.structs.asdict(callback),
    }
