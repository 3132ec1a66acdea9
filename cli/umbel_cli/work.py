"""``umbel worker``, ``umbel flusher`` and ``umbel sender``: one process each, in the foreground."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Annotated

import typer

from umbel_batching.identity import known_identity
from umbel_cli.handlers import from_handler
from umbel_cli.options import EVERY, FLUSHER, NO_FLAG, command
from umbel_cli.store import client_of
from umbel_config.callback_settings import CallbackSettings
from umbel_config.embedded import find_store
from umbel_config.settings import Settings, environment

#: Settings of a sender of callbacks.
SENDER = (
    *FLUSHER,
    *(name for name in CallbackSettings.model_fields if name not in (*FLUSHER, *NO_FLAG)),
    "flusher",
    "grace_s",
)
_STANDARD_INPUT = 0

StopWithParent = Annotated[
    bool,
    typer.Option("--stop-with-parent", hidden=True, help="Stop when standard input is closed."),
]


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    command(
        app,
        EVERY,
        examples=(
            "umbel worker",
            "umbel worker --queues gpu --pool prefork --device cuda",
            "umbel worker --concurrency 2 --torch-threads 1 --no-flusher",
        ),
    )(worker)
    command(app, FLUSHER, examples=("umbel flusher", "umbel flusher --namespace staging"))(flusher)
    command(
        app,
        SENDER,
        examples=("umbel sender", "umbel sender --callback-allow hooks.internal,10.0.0.0/8"),
    )(sender)


def worker(settings: Settings, *, stop_with_parent: StopWithParent = False) -> None:
    """Run one worker: it claims batches, computes them and writes their results.

    SIGTERM or Ctrl-C lets it finish the batches at hand. Run as many as you like, anywhere.
    """
    _serve(settings, follow=stop_with_parent)


def sender(settings: Settings, *, stop_with_parent: StopWithParent = False) -> None:
    """Run one sender: it posts the outcomes of jobs to their callback URLs, and tries again.

    It needs callback_secrets, and no torch. SIGTERM or Ctrl-C lets it finish what is under way.
    Run as many as you like, anywhere.
    """
    from umbel_callbacks.assembly import secrets_of  # noqa: PLC0415  (so is what sends)

    secrets_of(settings)
    own = {"queues": (settings.callback_queue,), "pool": "threads", "concurrency": 1}
    _serve(settings.model_copy(update=own), follow=stop_with_parent)


def flusher(settings: Settings, *, stop_with_parent: StopWithParent = False) -> None:
    """Run a flusher alone: it wakes workers for lanes that are full or have waited long enough.

    Every worker runs one already, unless told --no-flusher. It needs no torch.
    """
    settings = _settle(settings)
    from umbel_cli import logs  # noqa: PLC0415  (Celery is loaded by those who need it)
    from umbel_worker.app import make_app  # noqa: PLC0415
    from umbel_worker.dispatch import make_flusher  # noqa: PLC0415

    logs.configure(settings.log_level)
    _follow_parent(wanted=stop_with_parent)
    running = make_flusher(settings, make_app(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: from_handler(running.stop))
    log = logging.getLogger("umbel.flusher")
    log.info("watching the lanes of namespace %s", settings.namespace)
    running.run()
    log.info("stopped")


def _serve(settings: Settings, *, follow: bool) -> None:
    """Runs a Celery worker for the queues of ``settings`` until it is told to stop."""
    settings = _settle(settings)
    from umbel_cli import logs  # noqa: PLC0415  (Celery is loaded by those who need it)
    from umbel_worker.app import make_app  # noqa: PLC0415

    logs.configure(settings.log_level)
    _follow_parent(wanted=follow)
    app = make_app(settings)
    app.conf.include = [*app.conf.include, logs.__name__]
    app.worker_main(_arguments(settings))


def _settle(settings: Settings) -> Settings:
    """Settings with a ``redis_url``, also for the processes that Celery starts.

    Raises:
        StoreUnavailable: Redis cannot be used, or its data is laid out for another version.
    """
    with client_of(settings) as client:
        known_identity(client, settings.namespace)
    settings = find_store(settings)
    os.environ.update(environment(settings))
    return settings


def _arguments(settings: Settings) -> list[str]:
    return [
        "--quiet",
        "worker",
        f"--pool={settings.pool}",
        f"--concurrency={settings.concurrency}",
        f"--queues={','.join(settings.queues)}",
        # What our own lines need is set elsewhere; this is for what Celery says before that.
        f"--loglevel={'debug' if settings.log_level == 'debug' else 'warning'}",
        # Two workers on one machine need two names.
        f"--hostname=umbel-{os.getpid()}@%h",
        "--without-gossip",
        "--without-mingle",
    ]


def _follow_parent(*, wanted: bool) -> None:
    if wanted:
        threading.Thread(target=_wait_for_parent, name="umbel-parent", daemon=True).start()


def _wait_for_parent() -> None:
    """The parent alone can write to our standard input: at its end the parent is gone."""
    while os.read(_STANDARD_INPUT, 1):
        continue
    os.kill(os.getpid(), signal.SIGTERM)
