"""``umbel up``: the whole stack in the foreground."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Annotated

import typer
from rich.text import Text

from umbel_cli.child import Say
from umbel_cli.handlers import from_handler
from umbel_cli.options import EVERY, command
from umbel_cli.render import output
from umbel_cli.stack import Stack
from umbel_config.settings import Settings

_STYLES = ("cyan", "magenta", "blue", "green", "yellow")


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    command(
        app,
        EVERY,
        examples=(
            "umbel up",
            "umbel up --workers 2 --torch-threads 1",
            "umbel up --redis-url redis://localhost:6379/0",
        ),
    )(up)


def up(
    settings: Settings,
    *,
    workers: Annotated[
        int, typer.Option("--workers", "-w", min=1, max=64, help="Worker processes to run.")
    ] = 1,
    sender: Annotated[bool, typer.Option(help="Whether to send callbacks.")] = True,
) -> None:
    """Run the whole stack here: Redis, workers with a flusher, and a sender of callbacks.

    Without a redis_url a Redis of its own is started; it keeps its data for the next time. Ctrl-C
    lets running batches finish; jobs that still wait are kept.
    """
    _require("celery", "torch")
    say = speaker()
    with signals() as (stop, hurry):
        stack = Stack(settings, workers=workers, say=say, sender=sender)
        try:
            stack.start()
            introduce(stack)
            if stack.wait_ready(stop):
                say("umbel", "ready for jobs")
            stack.run(stop)
            say("umbel", "stopping: running batches may finish (Ctrl-C again to hurry)")
        finally:
            stack.stop(hurry)
        say("umbel", "stopped; jobs that still wait are kept for the next start")


def introduce(stack: Stack) -> None:
    """Says what runs where, and what to do next."""
    settings, out = stack.settings, output()
    if stack.joins:
        out.print(
            f"[yellow]Another process runs the embedded Redis of {settings.state_dir} already"
            "[/yellow], maybe another umbel up. These workers join it.",
            soft_wrap=True,
        )
    rows = [
        ("redis", stack.redis),
        *((name, f"pid {pid}") for name, pid in stack.pids.items()),
        ("queues", ", ".join(settings.queues)),
        ("artifacts", settings.artifacts),
        *([("secret", f"{stack.secret_file} (signs callbacks)")] if stack.secret_file else []),
        ("submit", "umbel submit MODEL --example      (models: umbel models list)"),
        ("watch", "umbel lanes"),
        ("stop", "Ctrl-C"),
    ]
    for name, value in rows:
        out.print(Text.assemble((f"{name:>10}  ", "bold"), value), soft_wrap=True)


def speaker() -> Say:
    """Prints lines of members, each marked with its name."""
    out = output()
    colours: dict[str, str] = {}

    def say(name: str, line: str) -> None:
        colour = colours.setdefault(name, _STYLES[len(colours) % len(_STYLES)])
        out.print(Text.assemble((f"{name:>10} │ ", colour), line), soft_wrap=True)

    return say


def _require(*modules: str) -> None:
    """Workers that lack a package would only be started again and again."""
    for name in modules:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextmanager
def signals() -> Iterator[tuple[threading.Event, threading.Event]]:
    """Events for the first and the second Ctrl-C, SIGTERM or SIGHUP while the block runs."""
    stop, hurry = threading.Event(), threading.Event()

    def handle(*_: object) -> None:
        from_handler((hurry if stop.is_set() else stop).set)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop, hurry
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
