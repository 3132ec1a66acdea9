"""Reading what the command line gives: the input of a job, and its metadata."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from umbel_config.errors import InvalidInput
from umbel_registry import Manifest, example_inputs


def read_input(text: str) -> Any:
    """The value that an INPUT argument means.

    Args:
        text: JSON, ``@file.json``, ``@file.npy``, or ``-`` for JSON on standard input.

    Raises:
        InvalidInput: it is no JSON, or the file cannot be read.
    """
    if text == "-":
        return _json(sys.stdin.read(), "standard input")
    if text.startswith("@"):
        return _file(Path(text[1:]))
    return _json(text, "INPUT")


def example_of(manifest: Manifest) -> Any:
    """An input that fits a model: its own first example, or a made-up one."""
    if manifest.examples:
        return manifest.examples[0]
    return example_inputs(manifest.signature, 1)[0]


def read_metadata(pairs: Iterable[str]) -> dict[str, Any]:
    """Metadata from words such as ``user=7``; values are JSON where they can be, else text.

    Raises:
        InvalidInput: a word has no ``=``.
    """
    metadata = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise InvalidInput(f"--metadata takes NAME=VALUE, for example user=7; got {pair!r}.")
        try:
            metadata[name] = json.loads(text)
        except ValueError:
            metadata[name] = text
    return metadata


def _file(path: Path) -> Any:
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        return _json(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InvalidInput(f"Cannot read {path}: {error.strerror or error}.") from None
    except ValueError as error:
        raise InvalidInput(f"{path} cannot be read as an input: {error}") from None


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInput(
            f"{where} is no JSON ({error}). Write a number, a list such as [0.5, 1], or a text in "
            "double quotes; name a file as @input.json or @input.npy."
        ) from None
