"""``umbel callbacks verify``: whether a callback is what umbel signed."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from umbel_callbacks import signing
from umbel_callbacks.signing import ID, PREFIX, TIMESTAMP, Secrets
from umbel_cli.callbacks.received import read_body, read_headers
from umbel_cli.options import Json, command
from umbel_cli.render import output, print_json
from umbel_cli.secret_file import kept_secret
from umbel_config.errors import ConfigError, SignatureInvalid
from umbel_config.settings import Settings

_Body = Annotated[
    str | None,
    typer.Argument(
        metavar="BODY",
        help="Text, @file, or - for standard input, taken byte for byte.",
        show_default=False,
    ),
]
_Secret = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        metavar="whsec_...",
        help="May be given several times. Default: the setting callback_secrets "
        "(UMBEL_CALLBACK_SECRETS), or what umbel up made; unlike this no other user sees them.",
    ),
]
_Id = Annotated[str | None, typer.Option("--id", metavar="ID", help="The header webhook-id.")]
_Timestamp = Annotated[
    str | None,
    typer.Option("--timestamp", metavar="SECONDS", help="The header webhook-timestamp."),
]
_Signature = Annotated[
    str | None,
    typer.Option("--signature", metavar="v1,...", help="The header webhook-signature."),
]
_Headers = Annotated[
    str | None,
    typer.Option(
        "--headers",
        metavar="TEXT",
        help="In place of these three: the headers as they came, 'Name: value' lines or @file.",
    ),
]
_Tolerance = Annotated[
    float,
    typer.Option(
        "--tolerance", metavar="SECONDS", min=0, help="Furthest that it may be signed from now."
    ),
]


class Valid(msgspec.Struct, frozen=True, kw_only=True):
    """A callback whose signature is right.

    Attributes:
        valid: always so.
        id: its ``webhook-id``.
        type: of the event.
        timestamp: when it was signed, in seconds since 1970.
        age_s: seconds since then; below 0 where a clock is ahead.
    """

    valid: bool = True
    id: str
    type: str | None
    timestamp: int
    age_s: float


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    examples = (
        "umbel callbacks verify @body.json --headers @headers.txt",
        "umbel callbacks verify - --id ID --timestamp 1767225600 --signature v1,... < body.json",
        'umbel callbacks verify @body.json --headers @headers.txt --secret "$SECRET"',
    )
    command(app, examples=examples)(verify)


def verify(
    settings: Settings,
    body: _Body = None,
    *,
    secret: _Secret = None,
    message_id: _Id = None,
    timestamp: _Timestamp = None,
    signature: _Signature = None,
    headers: _Headers = None,
    tolerance: _Tolerance = 300,
    as_json: Json = False,
) -> None:
    """Check the signature of a callback as it was received; exit code 1 if it is not valid."""
    named = read_headers(message_id, timestamp, signature, headers)
    secrets = secret or _of(settings)
    event = _checked(named, read_body(body), secrets, tolerance)
    signed = int(named[TIMESTAMP])
    kind = event.get("type") if isinstance(event, dict) else None
    age = round(time.time() - signed, 1)
    told = Valid(
        id=named[ID], type=None if kind is None else str(kind), timestamp=signed, age_s=age
    )
    if as_json:
        print_json(told)
        return
    when = f"signed {age:.0f} s ago" if age >= 0 else f"signed {-age:.0f} s in the future"
    line = Text.assemble(("valid", "green"), f"  {told.id}  {told.type or 'no type'}  {when}")
    output().print(line, soft_wrap=True)


def _of(settings: Settings) -> list[str]:
    """The secrets of the settings, for whichever host they are, or that of `umbel up`."""
    if not Secrets.of(settings):
        kept = kept_secret(settings)
        if kept:
            return [kept]
        raise ConfigError(
            "Nothing to verify with: give --secret, or set callback_secrets "
            "(UMBEL_CALLBACK_SECRETS)."
        )
    words = (word.get_secret_value() for word in settings.callback_secrets)
    return [word if word.startswith(PREFIX) else word.partition("=")[2] for word in words]


def _checked(headers: dict[str, str], body: bytes, secrets: list[str], tolerance: float) -> Any:
    try:
        return signing.verify(headers, body, secrets, tolerance_s=tolerance)
    except SignatureInvalid:
        # By far the most frequent reason: an editor or `echo` ended the file with a line break.
        if body.endswith(b"\n") and _fits(headers, body.rstrip(b"\r\n"), secrets, tolerance):
            raise SignatureInvalid(
                "The signature fits the body without the line break at its end: what stored the "
                "body added that. Verify the bytes as they came."
            ) from None
        raise


def _fits(headers: dict[str, str], body: bytes, secrets: list[str], tolerance: float) -> bool:
    try:
        signing.verify(headers, body, secrets, tolerance_s=tolerance)
    except SignatureInvalid:
        return False
    return True
