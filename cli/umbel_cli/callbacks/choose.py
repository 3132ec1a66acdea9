"""Which callbacks a command is about: by job, receiver or time; asked about when it is many."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import redis
import typer

from umbel_batching.lanes import split_id
from umbel_batching.receivers import (
    ReceiverStatus,
    Undelivered,
    receiver_statuses,
    undelivered,
)
from umbel_cli.callbacks.moments import moment_ms
from umbel_config.errors import InvalidInput

Ids = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ID", help="Ids of jobs; also of delivered callbacks.", show_default=False
    ),
]
Host = Annotated[
    str | None,
    typer.Option("--host", metavar="HOST", help="Of this receiver, with or without its port."),
]
Since = Annotated[
    int | None,
    typer.Option(
        "--since",
        metavar="T",
        parser=moment_ms,
        help="Given up at T or later: an age such as 90s, 15m, 2h, 7d, or an ISO 8601 time.",
    ),
]
Until = Annotated[
    int | None,
    typer.Option("--until", metavar="T", parser=moment_ms, help="Given up at T or earlier."),
]
Every = Annotated[bool, typer.Option("--all", help="All undelivered callbacks.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the undelivered callbacks; ``None`` is no bound.

    Attributes:
        host: a receiver, or its host alone.
        since_ms: given up no earlier; ms since 1970.
        until_ms: given up no later.
    """

    host: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    @property
    def bounded(self) -> bool:
        """Whether it is less than all."""
        return (self.host, self.since_ms, self.until_ms) != (None, None, None)

    @property
    def words(self) -> str:
        """What follows "undelivered callbacks" in a sentence."""
        timed = (self.since_ms, self.until_ms) != (None, None)
        return (f" for {self.host}" if self.host else "") + (" of that time" if timed else "")

    def covers(self, status: ReceiverStatus) -> bool:
        """Whether it is about a receiver."""
        host = status.receiver.rpartition(":")[0]
        return self.host is None or self.host in (status.receiver, host)


def part_of(host: str | None, since_ms: int | None, until_ms: int | None) -> Part:
    """The part that the options name.

    Raises:
        BadParameter: it ends before it begins.
    """
    if since_ms is not None and until_ms is not None and since_ms > until_ms:
        raise typer.BadParameter("--since is later than --until: there is nothing between them.")
    return Part(host=host and host.lower(), since_ms=since_ms, until_ms=until_ms)


def choice(ids: Iterable[str] | None, part: Part, *, every: bool) -> tuple[str, ...]:
    """The ids of jobs, none twice; empty where a part or all of the undelivered ones is meant.

    Raises:
        BadParameter: the command line names none, or several.
        JobNotFound: a text is no job id.
    """
    wanted = tuple(dict.fromkeys(ids or ()))
    if sum((bool(wanted), part.bounded, every)) != 1:
        raise typer.BadParameter("Give the IDs of jobs, or --host, --since, --until, or --all.")
    for job_id in wanted:
        split_id(job_id)
    return wanted


def found(
    client: redis.Redis, namespace: str, part: Part, *, limit: int | None = None
) -> list[Undelivered]:
    """The undelivered callbacks of a part, newest first.

    Args:
        client: of the Redis.
        namespace: prefix of every key.
        part: from ``part_of``.
        limit: most to find; ``None`` for all.

    Raises:
        InvalidInput: there is none, and no such receiver either.
    """
    letters = undelivered(
        client,
        namespace,
        host=part.host,
        since_ms=part.since_ms,
        until_ms=part.until_ms,
        limit=limit,
    )
    if not letters and part.host is not None:
        _check_host(receiver_statuses(client, namespace), part)
    return letters


def _check_host(known: list[ReceiverStatus], part: Part) -> None:
    if any(part.covers(each) for each in known):
        return
    names = ", ".join(each.receiver for each in known)
    raise InvalidInput(
        f"No receiver is named {part.host!r}; a receiver is HOST or HOST:PORT. "
        + (f"There are: {names}." if known else "There is none yet.")
    )
