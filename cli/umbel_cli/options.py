"""Command line options made from the settings model: same names, same help, checked once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from umbel_cli.failures import reporting
from umbel_config.settings import Settings, load_settings

#: Settings that every command takes.
COMMON = (
    "redis_url",
    "namespace",
    "state_dir",
    "artifact_root",
    "log_level",
    "redis_connect_timeout_s",
    "redis_timeout_s",
    "redis_retries",
)
_KEPT = ("result_ttl_s", "tombstone_ttl_s", "callback_ttl_s")
_MOST = ("max_dead", "max_dead_bytes", "max_dead_callbacks")
#: Settings of a flusher, of a client that submits, of one that cancels, and of a push.
FLUSHER = (*COMMON, "max_attempts", *_KEPT, "dead_ttl_s", *_MOST)
SUBMIT = (*COMMON, "max_payload_bytes", *_KEPT, "callback_allow", "callback_ports")
CANCEL = (*COMMON, *_KEPT)
PUSH = (*COMMON, "allowed_modules", "device")
#: Settings without a flag: whoever lists processes would read them.
NO_FLAG = ("callback_secrets",)
#: Every setting that has one: what a worker, and whatever starts workers, takes.
EVERY = (*COMMON, *(name for name in Settings.model_fields if name not in (*COMMON, *NO_FLAG)))

_SHORT = {"queues": "-Q", "concurrency": "-c"}
_PANEL = "Settings (flag > UMBEL_* variable > umbel.yaml > default)"
_METAVARS: dict[Any, str | None] = {bool: None, int: "N", float: "N", Path: "FOLDER"}

Json = Annotated[
    bool, typer.Option("--json", help="Print JSON on standard output, for other programs.")
]


def command(
    app: typer.Typer, fields: Iterable[str] = COMMON, *, examples: Iterable[str] = (), **more: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds a function to ``app`` as a command that takes settings as flags.

    The function's argument ``settings`` is filled from flags, environment and file; what it
    raises is told in one line.

    Args:
        app: where the command goes.
        fields: the settings that have a flag on it.
        examples: command lines shown at the end of its help.
        **more: as for ``app.command``.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        app.command(epilog=_epilog(examples), **more)(with_settings(function, tuple(fields)))
        return function

    return add


def with_settings(function: Callable[..., None], fields: tuple[str, ...]) -> Callable[..., None]:
    """The function with one option for each of ``fields`` in place of its ``settings``.

    Args:
        function: takes the keyword ``settings``, and maybe ``as_json``.
        fields: names of settings.
    """

    @functools.wraps(function)
    def run(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in fields}
        with reporting(as_json=given.get("as_json", False), debug=chosen["log_level"] == "debug"):
            function(settings=load_settings(**chosen), **given)

    signature = inspect.signature(function, eval_str=True)
    own = [each for each in signature.parameters.values() if each.name != "settings"]
    parameters = [*own, *(option_of(name) for name in fields)]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def option_of(name: str) -> inspect.Parameter:
    """The command line option of one setting, as a parameter that Typer understands.

    Values are checked by the settings model, in one place for flag, environment and file.

    Args:
        name: of the setting.
    """
    field = Settings.model_fields[name]
    kind = _plain_type(field.annotation)
    option = typer.Option(
        *_flags(name, kind),
        help=_help(field),
        metavar=_metavar(name, field),
        rich_help_panel=_PANEL,
        show_default=False,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _epilog(examples: Iterable[str]) -> str | None:
    lines = [f"  [dim]$[/dim] {line}" for line in examples]
    return "\n".join(["[bold]Examples[/bold]", *lines]) if lines else None


def _flags(name: str, kind: type) -> tuple[str, ...]:
    flag = "--" + name.replace("_", "-")
    if kind is bool:
        return (f"{flag}/--no-{flag[2:]}",)
    return (flag, _SHORT[name]) if name in _SHORT else (flag,)


def _plain_type(annotation: Any) -> type:
    """What the command line reads for a setting; lists and choices are words."""
    return next((kind for kind in (bool, int, float, Path) if annotation is kind), str)


def _metavar(name: str, field: FieldInfo) -> str | None:
    if get_origin(field.annotation) is tuple:
        return "A,B,..."
    if name.endswith("_url"):
        return "URL"
    if name.endswith("_s"):
        return "SECONDS"
    return _METAVARS.get(field.annotation, "WORD")


def _help(field: FieldInfo) -> str:
    """The description of a setting, with its choices and its default."""
    notes = []
    if get_origin(field.annotation) is Literal:
        notes.append(", ".join(get_args(field.annotation)))
    default = _default(field)
    if default:
        notes.append(f"default: {default}")
    return f"{field.description}" + (f" [dim]({'; '.join(notes)})[/dim]" if notes else "")


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(str(each) for each in value)
    if isinstance(value, Path):
        return str(value).replace(str(Path.home()), "~", 1)
    return "" if value is None else str(value)
