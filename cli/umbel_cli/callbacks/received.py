"""Reading a callback as a receiver got it: the bytes of its body, and its headers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from umbel_callbacks.signing import ID, SIGNATURE, TIMESTAMP
from umbel_config.errors import InvalidInput

_NAMES = (ID, TIMESTAMP, SIGNATURE)


def read_body(text: str | None) -> bytes:
    """The bytes that a BODY argument means, none changed.

    Args:
        text: the body itself, ``@file``, or ``-`` or ``None`` for standard input.

    Raises:
        BadParameter: there is no BODY, and standard input is a terminal.
        InvalidInput: the file cannot be read, or there is nothing in it.
    """
    if text is None and sys.stdin.isatty():
        raise typer.BadParameter("Give the BODY: text, @file, or - for standard input.")
    body = _bytes(text or "-")
    if not body:
        raise InvalidInput("The body is empty. Give the bytes of the request, as they came.")
    return body


def read_headers(
    message_id: str | None, timestamp: str | None, signature: str | None, text: str | None
) -> dict[str, str]:
    """The headers of a callback, from three options or from lines.

    Args:
        message_id: value of ``webhook-id``.
        timestamp: value of ``webhook-timestamp``.
        signature: value of ``webhook-signature``.
        text: in place of them lines of ``Name: value``, or ``@file``.

    Raises:
        BadParameter: they are not given, in one way.
        InvalidInput: the file cannot be read.
    """
    values = (message_id, timestamp, signature)
    if text is None:
        if None in values:
            raise typer.BadParameter("Give --id, --timestamp and --signature, or --headers.")
        return {name: value or "" for name, value in zip(_NAMES, values, strict=True)}
    if values != (None, None, None):
        raise typer.BadParameter("--headers goes without --id, --timestamp and --signature.")
    lines = (_bytes(text) if text.startswith("@") else text.encode(errors="replace")).splitlines()
    pairs = [line.decode(errors="replace").partition(":") for line in lines]
    named = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return {name: named[name] for name in _NAMES if name in named}


def _bytes(text: str) -> bytes:
    if text == "-":
        return typer.get_binary_stream("stdin").read()
    if not text.startswith("@"):
        return os.fsencode(text)
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise InvalidInput(f"Cannot read {text[1:]}: {error.strerror or error}.") from None
