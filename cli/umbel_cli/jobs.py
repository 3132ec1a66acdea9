"""``umbel submit``, ``job``, ``cancel`` and ``forget``: single jobs from the command line."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from umbel import Client, Job, JobInfo, Priority, ResultTimeout, State
from umbel_batching.census import lane_statuses
from umbel_cli.inputs import example_of, read_input, read_metadata
from umbel_cli.lanes import unserved, warn_unserved
from umbel_cli.options import CANCEL, SUBMIT, Json, command
from umbel_cli.render import job_line, job_table, output, print_json, value_text
from umbel_cli.store import client_of
from umbel_config.embedded import find_store
from umbel_config.settings import Settings
from umbel_registry import Catalog

#: Seconds after which it is worth a look whether any worker serves the job.
_SUSPICIOUS_S = 2.0

JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of the job, as submit prints it.")]


ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
Input = Annotated[
    str | None,
    typer.Argument(
        metavar="INPUT",
        help="JSON, @file.json, @file.npy, or - for JSON on standard input.",
        show_default=False,
    ),
]
Example = Annotated[
    bool, typer.Option("--example", help="Send an example of the model instead of INPUT.")
]
Version = Annotated[
    str | None,
    typer.Option(metavar="WORD", help="A version of the model; default: the highest."),
]
Timeout = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Do not compute the job any more after this time."),
]
Class = Annotated[
    Priority, typer.Option("--priority", help="Higher jobs run first, but none starves.")
]
Key = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        metavar="TEXT",
        help="The same key with the same input finds the same job, instead of queueing another.",
    ),
]
Metadata = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Kept with the job; may be given several times."),
]
CallbackUrl = Annotated[
    str | None,
    typer.Option(
        "--callback-url",
        metavar="URL",
        help="Where the outcome is posted to, signed: https, or what callback_allow allows.",
    ),
]
CallbackBatch = Annotated[
    bool,
    typer.Option("--callback-batch", help="Outcomes for that URL may come several in one POST."),
]
Wait = Annotated[bool, typer.Option(help="Wait for the result, or print the id.")]
Patience = Annotated[
    float, typer.Option(metavar="SECONDS", min=0, help="Longest wait for the result.")
]


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(
        app,
        SUBMIT,
        examples=(
            "umbel submit digits --example",
            "umbel submit echo '[0.5, 1, 2]'",
            "umbel submit digits @pixels.npy --timeout 5 --metadata user=7",
            "umbel submit digits @pixels.npy --priority high --idempotency-key order-7",
            "umbel submit digits @pixels.npy --callback-url https://hooks.example.com/umbel",
            "echo '[0.5, 1, 2]' | umbel submit echo - --json",
        ),
    )(submit)
    command(app, examples=("umbel job ID", "umbel job ID --json"))(job)
    command(app, CANCEL, examples=("umbel cancel ID",))(cancel)
    command(app, CANCEL, examples=("umbel forget ID",))(forget)


def submit(
    settings: Settings,
    model: ModelName,
    inputs: Input = None,
    *,
    example: Example = False,
    version: Version = None,
    timeout: Timeout = None,
    priority: Class = Priority.NORMAL,
    idempotency_key: Key = None,
    metadata: Metadata = None,
    callback_url: CallbackUrl = None,
    callback_batch: CallbackBatch = False,
    wait: Wait = True,
    patience: Patience = 60.0,
    as_json: Json = False,
) -> None:
    """Submit one job and wait for its result."""
    _exactly_one(inputs, example=example)
    settings = find_store(settings)
    with Client(settings=settings) as client:
        value = _example(settings, model, version) if inputs is None else read_input(inputs)
        submitted = client.submit(
            model,
            value,
            version=version,
            timeout=timeout,
            priority=priority,
            idempotency_key=idempotency_key,
            metadata=read_metadata(metadata or ()),
            callback_url=callback_url,
            callback_batch=callback_batch,
        )
        if not wait:
            _show_queued(submitted, as_json=as_json)
            return
        result = _result(submitted, settings, patience)
        info = submitted.info()
    _show_result(info, result, as_json=as_json)


def job(settings: Settings, job_id: JobId, *, as_json: Json = False) -> None:
    """Show the story of a job, and its result if there is one."""
    with Client(settings=find_store(settings)) as client:
        asked = client.job(job_id)
        info = asked.info()
        result = asked.result() if info.state == State.SUCCEEDED else None
    if as_json:
        print_json(story(info, result))
        return
    out = output()
    out.print(job_table(info))
    if info.state == State.SUCCEEDED:
        out.print(value_text(result), markup=False, soft_wrap=True)


def cancel(settings: Settings, job_id: JobId, *, as_json: Json = False) -> None:
    """Cancel a job that is not finished yet."""
    with Client(settings=find_store(settings)) as client:
        asked = client.job(job_id)
        done = asked.cancel()
        state = asked.state().value
    if as_json:
        print_json({"id": job_id, "cancelled": done, "state": state})
    elif done:
        output().print(f"[green]cancelled[/green] {job_id}", soft_wrap=True)
    else:
        output().print(f"not cancelled: the job is {state} already", soft_wrap=True)


def forget(settings: Settings, job_id: JobId, *, as_json: Json = False) -> None:
    """Delete what is kept of a job: its input, result and evidence; a live one is cancelled."""
    with Client(settings=find_store(settings)) as client:
        client.job(job_id).forget()
    if as_json:
        print_json({"id": job_id, "forgotten": True})
    else:
        output().print(f"[green]forgotten[/green] {job_id}", soft_wrap=True)


def story(info: JobInfo, result: Any) -> dict[str, Any]:
    """What ``--json`` prints of a job: the fields of its info, and ``result``."""
    return {**msgspec.structs.asdict(info), "result": result}


def _exactly_one(inputs: str | None, *, example: bool) -> None:
    if (inputs is None) != example:
        raise typer.BadParameter(
            "Give an INPUT (JSON, @file.json, @file.npy or -), or --example to send one of the "
            "model's own."
        )


def _example(settings: Settings, model: str, version: str | None) -> Any:
    with client_of(settings) as client:
        return example_of(Catalog(client, settings.namespace).get(model, version))


def _show_queued(submitted: Job, *, as_json: bool) -> None:
    if as_json:
        print_json(story(submitted.info(), None))
    else:
        typer.echo(submitted.id)


def _show_result(info: JobInfo, result: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(story(info, result))
        return
    out = output()
    out.print(value_text(result), markup=False, soft_wrap=True)
    out.print(f"[dim]{info.id}[/dim]  {job_line(info)}", soft_wrap=True)


def _result(submitted: Job, settings: Settings, patience: float) -> Any:
    """Waits for the result; says so when it looks as if nobody would ever compute it."""
    soon = min(_SUSPICIOUS_S, patience)
    if not submitted.wait(soon):
        _warn_if_unserved(submitted.info(), settings)
        if not submitted.wait(patience - soon):
            raise ResultTimeout(
                f"Job {submitted.id} has no result after {patience:g} s. It goes on; ask for it "
                f"with: umbel job {submitted.id}",
                job_id=submitted.id,
            )
    return submitted.result()


def _warn_if_unserved(info: JobInfo, settings: Settings) -> None:
    with client_of(settings) as client:
        lanes = lane_statuses(client, settings.namespace)
    for lane in lanes:
        if (lane.model, lane.version) == (info.model, info.version) and unserved(lane):
            warn_unserved(lane)
