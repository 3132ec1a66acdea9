"""How a batch of rows of different lengths is cut into parts that need little padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Most tokens of one part, padding included. Larger ones fall out of a CPU's caches.
BUDGET = 4096
#: How much of a part's width each of its rows fills at least. So a part is never padded by more
#: than a quarter of its real tokens; filling it better makes parts too small to be fast.
FILLED = 0.8


def by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Parts of rows of similar length, from the longest to the shortest.

    Args:
        lengths: tokens of each row, at least 1 each.

    Returns:
        The places of each part's rows; together they are all places, each once.
    """
    parts: list[list[int]] = []
    width = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        length = lengths[place]
        fits = parts and width * (len(parts[-1]) + 1) <= BUDGET and length >= FILLED * width
        if fits:
            parts[-1].append(place)
        else:
            parts.append([place])
            width = length
    return parts


def as_they_come(lengths: Sequence[int]) -> list[list[int]]:
    """One part of all rows, for comparison: every row is padded to the longest.

    Args:
        lengths: tokens of each row.
    """
    return [list(range(len(lengths)))]
