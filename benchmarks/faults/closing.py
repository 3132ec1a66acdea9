"""Things that are closed at the end of a ``with`` block, whatever happens in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """Gives a thing that can be closed its ``with`` block."""

    @abstractmethod
    def close(self) -> object:
        """Ends it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
