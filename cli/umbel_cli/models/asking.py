"""A question before something is done to many models: on a terminal only, for scripts a flag."""

from __future__ import annotations

import sys

import typer


def on_terminal() -> bool:
    """Whether there is somebody who could answer."""
    return sys.stdin.isatty()


def make_sure(question: str, *, yes: bool, as_json: bool, else_say: str) -> None:
    """Asks, unless the answer is known.

    Args:
        question: to be answered with yes or no.
        yes: whether the answer is known.
        as_json: whether a program asks.
        else_say: what to do where nobody can be asked.

    Raises:
        Abort: the answer is no.
        BadParameter: there is nobody to ask.
    """
    if yes:
        return
    if as_json or not on_terminal():
        raise typer.BadParameter(f"Nobody can be asked here. {else_say}")
    typer.confirm(question, abort=True, err=True)
