"""How values are shown: tables and lines for people, JSON for programs."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from umbel_batching.census import JobInfo, LaneStatus
from umbel_batching.deliveries import Attempt, Callback
from umbel_batching.record import Event, Priority
from umbel_cli.tuning_tables import mode_text
from umbel_registry import Manifest, Signature, TensorSpec

#: Columns where standard output is no terminal.
_PIPE_WIDTH = 120
_UNITS = ("B", "KiB", "MiB", "GiB")
_STATE_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "expired": "yellow",
    "cancelled": "yellow",
    "running": "cyan",
}
#: Columns of lanes; all of them are too wide for many a terminal.
_BEFORE = ("waiting", "running", "oldest", "rate", "succeeded", "failed")
_RARE = ("dead", "expired", "cancelled")
_AFTER = ("batches", "batch", "workers")


def output() -> Console:
    """Standard output."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def errors() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Prints a value as JSON on standard output; arrays as lists, bytes in base64, NaN as null.

    Args:
        value: plain values, structs and arrays.
    """
    text = msgspec.json.format(msgspec.json.encode(value, enc_hook=_plain), indent=2)
    sys.stdout.write(text.decode() + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def value_text(value: Any) -> str:
    """A result as people read it; long arrays are cut in the middle."""
    if isinstance(value, np.ndarray):
        return np.array2string(value, precision=4, suppress_small=True, threshold=100)
    if isinstance(value, dict):
        return "\n".join(f"{name}: {value_text(each)}" for name, each in value.items())
    return value if isinstance(value, str) else repr(value)


def job_line(info: JobInfo) -> str:
    """How a finished job went, in one line."""
    parts = [f"{info.model} {info.version}"]
    if info.batch_size is not None:
        parts.append(f"batch of {info.batch_size} (flushed by {info.flush_reason})")
    if info.wait_ms is not None:
        parts.append(f"waited {info.wait_ms} ms")
    if info.compute_ms is not None:
        parts.append(f"computed in {info.compute_ms:.1f} ms")
    return " · ".join(parts)


def job_table(info: JobInfo) -> Table:
    """The whole story of a job."""
    table = grid()
    table.add_row("id", info.id)
    table.add_row("model", f"{info.model} {info.version}")
    table.add_row("state", state_text(info.state))
    for name, value in (
        ("created", time_text(info.created_at)),
        ("started", time_text(info.started_at) if info.started_at else None),
        ("finished", time_text(info.finished_at) if info.finished_at else None),
        ("waited", _milliseconds(info.wait_ms)),
        ("computed in", _milliseconds(info.compute_ms)),
        ("batch", _batch(info)),
        ("priority", info.priority if info.priority != Priority.NORMAL else None),
        ("attempts", str(info.attempts)),
        ("worker", info.worker),
        *((event.what, event_text(event)) for event in info.history),
        ("metadata", str(info.metadata) if info.metadata else None),
        ("error", info.error),
        ("callback", callback_text(info.callback) if info.callback else None),
    ):
        if value is not None:
            table.add_row(name, Text(value))
    return table


def state_text(state: str) -> Text:
    """A job's state in its colour."""
    return Text(state, style=_STATE_STYLES.get(state, ""))


def event_text(event: Event) -> str:
    """What befell a job: when, and with which worker and batch."""
    parts = [f"{time_text(event.at)}, batch {event.batch_id}"]
    if event.worker:
        parts.append(f"on {event.worker}")
    if event.cause:
        parts.append(f"({event.cause})")
    return " ".join(parts)


def callback_text(callback: Callback) -> str:
    """How a callback fares, in one line; of its URL, which may hold a token, the host alone."""
    waits = callback.state == "waiting"
    parts = ["waiting for the end of the job" if waits else callback.state]
    parts.append(urlsplit(callback.url).netloc)
    if callback.attempts:
        parts.append("1 attempt" if callback.attempts == 1 else f"{callback.attempts} attempts")
    tried = [each for each in callback.log if each.note != "replayed"]
    if tried:
        parts.append(f"last: {attempt_text(tried[-1])}")
    if callback.state == "pending":
        due = callback.next_at or 0
        later = due > time.time() * 1000
        parts.append(f"next attempt {time_text(due) if later else 'is due'}")
    return " · ".join(parts)


def attempt_text(attempt: Attempt) -> str:
    """What an attempt to deliver a callback ended with: an HTTP status, words, or both."""
    return f"{attempt.status or ''} {attempt.note}".strip()


def lanes_table(lanes: list[LaneStatus]) -> Table:
    """All lanes, one a row; what is rare has a column only where there is any."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    rare = [name for name in _RARE if any(getattr(lane, name) for lane in lanes)]
    table.add_column("lane", no_wrap=True)
    for name in (*_BEFORE, *rare, *_AFTER):
        table.add_column(name, justify="right")
    for lane in lanes:
        done = lane.succeeded + lane.failed
        table.add_row(
            lane.lane,
            f"{lane.waiting:,}",
            str(lane.running),
            f"{lane.oldest_ms / 1000:.1f} s" if lane.waiting else "-",
            f"{lane.rate:,.0f}/s",
            *(f"{getattr(lane, name):,}" for name in ("succeeded", "failed", *rare)),
            f"{lane.batches:,}",
            f"{done / lane.batches:.1f}" if lane.batches else "-",
            str(lane.slots) if lane.slots else Text("none", style="bold red"),
        )
    return table


def manifest_table(manifest: Manifest) -> Table:
    """Everything about one version."""
    table = grid()
    table.add_row("model", Text(f"{manifest.name} {manifest.version}", style="bold"))
    if manifest.description:
        table.add_row("description", Text(manifest.description))
    table.add_row("format", manifest.format)
    table.add_row("queue", manifest.queue)
    table.add_row("created", f"{manifest.created_at.astimezone():%Y-%m-%d %H:%M:%S}")
    _signature_rows(table, manifest.signature)
    if manifest.output_encoding != "list":
        table.add_row("arrays in JSON", manifest.output_encoding)
    if manifest.batch_variance is not None:
        table.add_row(
            "batch variance",
            f"admitted: outputs differ by up to {manifest.batch_variance:.2%} of their largest "
            "value, with the batch or by chance",
        )
    policy = manifest.policy
    cost = f" of a cost of {policy.max_batch_cost:,}" if policy.max_batch_cost else ""
    table.add_row(
        "batching",
        f"up to {policy.max_batch_size} jobs{cost}, waiting at most {policy.max_wait_ms} ms; "
        f"at most {policy.max_queue:,} jobs or {size_text(policy.max_queue_bytes)} in the lane; "
        f"{mode_text(policy)}",
    )
    for path, file in manifest.files.items():
        table.add_row("file", Text(f"{path}  {size_text(file.bytes)}  sha256 {file.sha256}"))
    table.add_row("digest", manifest.digest)
    return table


def _signature_rows(table: Table, signature: Signature) -> None:
    table.add_row("inputs", Text(specs_text(signature.inputs)))
    table.add_row("outputs", Text(specs_text(signature.outputs)))


def specs_text(specs: dict[str, TensorSpec]) -> str:
    """Inputs or outputs in short: ``pixels float32 [64]``."""
    return ", ".join(
        f"{name} {spec.dtype}" + (f" {list(spec.shape)}" if spec.is_array else "")
        for name, spec in specs.items()
    )


def size_text(count: float) -> str:
    """Bytes in a readable unit."""
    step = 1024
    for unit in _UNITS[:-1]:
        if count < step:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= step
    return f"{count:.1f} {_UNITS[-1]}"


def grid() -> Table:
    """An empty table of names and values."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    return table


def time_text(milliseconds: int) -> str:
    """A moment in local time.

    Args:
        milliseconds: since 1970.
    """
    moment = datetime.fromtimestamp(milliseconds / 1000).astimezone()
    return f"{moment:%Y-%m-%d %H:%M:%S}.{milliseconds % 1000:03d}"


def _milliseconds(value: float | None) -> str | None:
    return None if value is None else f"{value:,.1f} ms" if value % 1 else f"{value:,.0f} ms"


def _batch(info: JobInfo) -> str | None:
    if info.batch_id is None:
        return None
    jobs = "1 job" if info.batch_size == 1 else f"{info.batch_size} jobs"
    return f"{jobs}, flushed by {info.flush_reason} ({info.batch_id})"
