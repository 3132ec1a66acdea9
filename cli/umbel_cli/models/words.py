"""Words of the command line to values, and back: lengths of time, shares, pairs of names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="Name of the model.")]
Version = Annotated[str, typer.Argument(help="A version of it, or an alias.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check, and say what would change, but change nothing.")
]

_LENGTH = re.compile(r"(\d{1,9}(?:\.\d{1,9})?|\.\d{1,9})(ms|s|m|h|d)?")
_SHARE = re.compile(r"(\d{1,9}(?:\.\d{1,12})?|\.\d{1,12})(%)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
#: Below that a share in percent needs more than one digit behind the point.
_SMALL = 0.001


def seconds(text: str) -> float:
    """A length of time in seconds: ``0.5s``, ``60s``, ``5m``, ``1h``, ``2d``, ``250ms`` or ``30``.

    Args:
        text: as given on the command line; without a unit it is seconds.

    Raises:
        BadParameter: it is none.
    """
    found = _LENGTH.fullmatch(text.strip())
    if not found:
        raise typer.BadParameter(
            f"{text!r} is no length of time: give one such as 30s, 5m, 1h or 2d."
        )
    return float(found[1]) * _SECONDS[found[2] or "s"]


def fraction(text: str) -> float:
    """A share between 0 and 1: ``1%``, ``0.5%``, ``0.01`` or ``1``.

    Args:
        text: as given on the command line.

    Raises:
        BadParameter: it is none, or above 1.
    """
    found = _SHARE.fullmatch(text.strip())
    share = float(found[1]) / (100 if found[2] else 1) if found else -1.0
    if not 0 <= share <= 1:
        raise typer.BadParameter(
            f"{text!r} is no share: give one from 0% to 100%, such as 5%, or from 0 to 1, such as "
            "0.05."
        )
    return share


def pairs(words: Iterable[str], what: str) -> dict[str, str]:
    """The values by name of words such as ``3=90``.

    Args:
        words: as given on the command line.
        what: how such a word is written, for the sentence: ``VERSION=WEIGHT``.

    Raises:
        BadParameter: a word is no pair, or a name is given twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"{word!r} is not of the form {what}.")
        if name in found:
            raise typer.BadParameter(f"{name!r} is given twice: {what} names each one once.")
        found[name] = value
    return found


def number(text: str, what: str) -> float:
    """A number that is finite.

    Args:
        text: as given on the command line.
        what: what it is, for the sentence: ``the weight of 3``.

    Raises:
        BadParameter: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise typer.BadParameter(f"{text!r} is no number, so it cannot be {what}.")
    return value


def percent_text(share: float) -> str:
    """A share between 0 and 1 in percent: ``90 %``, ``12.5 %``, ``0.02 %``.

    Args:
        share: between 0 and 1.
    """
    percent = 100 * share
    few = f"{percent:.1f}".removesuffix(".0") if share >= _SMALL else f"{percent:.2g}"
    return f"{few} %"


def length_text(length_s: float) -> str:
    """A length of time in the largest unit that is not awkward: ``30 s``, ``5 min``, ``1.5 h``.

    Args:
        length_s: in seconds.
    """
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if length_s >= length:
            return f"{length_s / length:.1f}".removesuffix(".0") + f" {unit}"
    return f"{length_s:.3g} s"
