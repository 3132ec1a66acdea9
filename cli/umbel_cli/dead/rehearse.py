"""``umbel dead replay --batch``: how a recorded batch fares when it runs again."""

from __future__ import annotations

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from umbel_batching.dead_letters import RecordedBatch, recorded_batch
from umbel_cli.dead.tables import one_line
from umbel_cli.failures import FAILED
from umbel_cli.render import errors, output, print_json, time_text
from umbel_cli.store import client_of
from umbel_config.errors import NotReplayable
from umbel_config.settings import Settings
from umbel_worker.rehearsal import Rehearsal, rehearse

_STAGES = {
    "loading": "while the model was loaded and warmed up",
    "whole": "in the whole batch",
    "apart": "while its jobs were run apart",
}


def rehearse_batch(settings: Settings, batch_id: str, timeout_s: float, *, as_json: bool) -> None:
    """Runs a recorded batch again, and shows how it went.

    Args:
        settings: as a worker has them.
        batch_id: of the batch.
        timeout_s: seconds after which its process is killed.
        as_json: whether to print the fields of ``Rehearsal``.

    Raises:
        NotReplayable: the batch is not kept.
        Exit: with 1, unless every job succeeded.
    """
    with client_of(settings) as client:
        batch = recorded_batch(client, settings.namespace, batch_id)
        if batch is None:
            raise NotReplayable(
                f"No batch {batch_id[:64]} is recorded: batches are kept when a job of them failed "
                "or their worker died, as long as max_dead, max_dead_bytes and dead_ttl_s allow."
            )
        with errors().status("the batch runs in a process of its own"):
            told = rehearse(client, settings, batch, timeout_s=timeout_s)
    if as_json:
        print_json(told)
    else:
        output().print(_report(batch, told), soft_wrap=True)
    if not told.ok:
        raise typer.Exit(FAILED)


def _report(batch: RecordedBatch, told: Rehearsal) -> RenderableType:
    lines = [Text(_headline(batch, told))]
    if told.missing:
        lines.append(
            Text(
                f"{_jobs(told.missing)} of it not kept: what ran is not quite what it was",
                style="yellow",
            )
        )
    lines.append(Text.assemble(("whole batch  ", "dim"), _whole(told)))
    if told.results and told.forwards > 1:
        lines.append(Text.assemble(("run apart    ", "dim"), _apart(told)))
    if told.ended is not None:
        return Group(*lines, *_death(told))
    return Group(*lines, Text(), _results_table(told))


def _headline(batch: RecordedBatch, told: Rehearsal) -> str:
    first = f"first run {time_text(batch.started_at)}" + (
        f" on {batch.worker}" if batch.worker else ""
    )
    where = f" on {told.device}" if told.device else ""
    return f"batch {told.batch_id} of {told.lane}: {_jobs(told.jobs)}{where} ({first})"


def _whole(told: Rehearsal) -> tuple[str, str]:
    took = f"after {told.seconds:.3f} s"
    if told.whole == "succeeded":
        return f"succeeded {took}", "green"
    if told.whole == "raised":
        return f"raised {one_line(told.error or '')} {took}", "red"
    if told.whole == "died":
        return f"the process died of {told.ended} {took}", "red"
    if told.whole == "timed out":
        return f"did not come back {took}; its process was killed", "red"
    return "never ran", "yellow"


def _apart(told: Rehearsal) -> str:
    good = sum(each.ok for each in told.results)
    bad = len(told.results) - good
    return f"{good} succeed, {bad} {'fails' if bad == 1 else 'fail'} ({_forwards(told)})"


def _forwards(told: Rehearsal) -> str:
    return "1 forward" if told.forwards == 1 else f"{told.forwards} forwards"


def _death(told: Rehearsal) -> list[Text]:
    """Where the process ended, and what it printed last."""
    how = "was killed, out of time" if told.ended == "out of time" else f"died of {told.ended}"
    lines = [Text(f"\nThe process {how} {_STAGES[told.stage]}, after {_forwards(told)}.")]
    if told.last_words.strip():
        lines += [Text("It printed last:"), Text(told.last_words.rstrip(), style="dim")]
    return lines


def _results_table(told: Rehearsal) -> Table:
    table = Table.grid(padding=(0, 2))
    for each in told.results:
        outcome = (
            Text("ok", style="green") if each.ok else Text(one_line(each.error or ""), style="red")
        )
        table.add_row(each.id, outcome)
    return table


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"
