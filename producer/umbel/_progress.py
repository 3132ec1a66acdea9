"""The progress bar of ``Client.map``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    """Jobs per second so far."""

    def render(self, task: Task) -> Text:
        """The rate as text."""
        return Text(f"{task.speed or 0:,.0f}/s", style="progress.data.speed")


@contextmanager
def progress_bar(title: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Draws a bar on standard error while the block runs.

    Args:
        title: what is being done.
        total: how many steps there are; ``None`` if nobody knows.

    Yields:
        The function that advances the bar by one.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total)

        def advance() -> None:
            progress.advance(task)

        yield advance
