"""``umbel dead show``: why a job died, and what can be done about it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from umbel_batching import wire
from umbel_batching.dead_letters import DeadLetter, RecordedBatch, dead_letter, recorded_batch
from umbel_cli.dead.inputs import parts_of
from umbel_cli.dead.tables import evidence_table, next_steps
from umbel_cli.dead.words import no_dead_letter
from umbel_cli.jobs import JobId
from umbel_cli.options import Json, command
from umbel_cli.render import output, print_json, value_text
from umbel_cli.store import client_of
from umbel_config.errors import InvalidInput
from umbel_config.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = ("umbel dead show ID", "umbel dead show ID --input", "umbel dead show ID --json")
    command(app, examples=examples)(show)


def show(
    settings: Settings,
    job_id: JobId,
    *,
    content: Annotated[
        bool, typer.Option("--input", help="Show the content of its input as well.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the evidence of a dead letter: what it raised, each lost worker, its input's shape."""
    with client_of(settings) as client:
        letter = dead_letter(client, settings.namespace, job_id)
        if letter is None:
            raise no_dead_letter(client, settings.namespace, job_id)
        batch = recorded_batch(client, settings.namespace, letter.batch_id)
    payload = _payload(letter, batch)
    if content and payload is None:
        raise InvalidInput(f"The input of {job_id} is not kept by itself; leave out --input.")
    if as_json:
        print_json(_facts(letter, batch, payload, content=content))
        return
    out = output()
    parts = None if payload is None else parts_of(payload)
    out.print(evidence_table(letter, parts, batch), soft_wrap=True)
    if content and payload is not None:
        out.print()
        out.print(value_text(wire.decode(payload)), markup=False, soft_wrap=True)
    out.print(next_steps(_steps(letter, batch)), soft_wrap=True)


def _payload(letter: DeadLetter, batch: RecordedBatch | None) -> bytes | None:
    if batch is None or letter.id not in batch.job_ids:
        return None
    return batch.payloads[batch.job_ids.index(letter.id)]


def _steps(letter: DeadLetter, batch: RecordedBatch | None) -> list[tuple[str, str]]:
    steps = []
    if batch is not None:
        steps.append((f"umbel dead replay --batch {batch.batch_id}", "see it fail here"))
    if letter.replayable:
        steps.append((f"umbel dead replay {letter.id} --wait", "give it another chance"))
    return [*steps, (f"umbel dead drop {letter.id}", "let it rest")]


def _facts(
    letter: DeadLetter, batch: RecordedBatch | None, payload: bytes | None, *, content: bool
) -> dict[str, Any]:
    facts = msgspec.structs.asdict(letter)
    facts["input"] = None if payload is None else parts_of(payload)
    if content and payload is not None:
        facts["value"] = wire.decode(payload)
    facts["batch"] = None
    if batch is not None:
        told = msgspec.structs.asdict(batch)
        del told["payloads"]
        facts["batch"] = told
    facts["next"] = [line for line, _ in _steps(letter, batch)]
    return facts
