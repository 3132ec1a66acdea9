"""Which dead letters a command is about: some ids, a lane, or all; asked about when it is many."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import redis
import typer

from umbel_batching.census import lane_names
from umbel_batching.dead_letters import dead_letters
from umbel_batching.lanes import split_id
from umbel_config.errors import InvalidInput

#: More dead letters than any store keeps.
_EVERY = 10**9

Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID", help="Ids of dead letters.", show_default=False),
]
LaneName = Annotated[
    str | None, typer.Option("--lane", metavar="LANE", help="A lane, for example digits@3.")
]
Every = Annotated[bool, typer.Option("--all", help="All dead letters of all lanes.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclass(frozen=True, slots=True)
class Choice:
    """What the command line names.

    Attributes:
        ids: each letter by itself, none twice.
        lane: or all letters of a lane.
        every: or all letters of all lanes.
    """

    ids: tuple[str, ...] = ()
    lane: str | None = None
    every: bool = False

    @property
    def where(self) -> str:
        """The letters in words, for a sentence."""
        return f"in {self.lane}" if self.lane else "in all lanes"


def choice(ids: Iterable[str] | None, lane: str | None, *, every: bool) -> Choice:
    """What the command line names, in exactly one way.

    Raises:
        BadParameter: in none, or in several.
        JobNotFound: a text is no job id.
    """
    wanted = tuple(dict.fromkeys(ids or ()))
    if sum((bool(wanted), lane is not None, every)) != 1:
        raise typer.BadParameter("Give the IDs of dead letters, or --lane LANE, or --all.")
    for job_id in wanted:
        split_id(job_id)
    return Choice(wanted, lane, every)


def chosen(
    client: redis.Redis, namespace: str, what: Choice, *, question: str, yes: bool
) -> tuple[str, ...]:
    """The ids of the letters, newest first; asks before it takes a whole lane or all.

    Args:
        client: of the Redis.
        namespace: prefix of every key.
        what: from ``choice``.
        question: with ``{count}`` and ``{where}`` in it.
        yes: whether the answer is known.

    Raises:
        Abort: the answer is no.
        InvalidInput: there is no such lane.
    """
    if what.ids:
        return what.ids
    if what.lane is not None:
        check_lane(client, namespace, what.lane)
    letters = dead_letters(client, namespace, lane=what.lane, limit=_EVERY)
    if letters and not yes:
        count = "1 dead letter" if len(letters) == 1 else f"{len(letters):,} dead letters"
        typer.confirm(question.format(count=count, where=what.where), abort=True, err=True)
    return tuple(letter.id for letter in letters)


def check_lane(client: redis.Redis, namespace: str, lane: str) -> None:
    """Makes sure that a lane exists.

    Raises:
        InvalidInput: it does not; the sentence names those that do.
    """
    names = sorted(lane_names(client, namespace).values())
    if lane not in names:
        known = f"There are: {', '.join(names)}." if names else "There is none yet."
        raise InvalidInput(f"No lane is named {lane!r}; a lane is MODEL@VERSION. {known}")
