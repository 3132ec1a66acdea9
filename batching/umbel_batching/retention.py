"""How long what is kept of ended jobs stays, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from umbel_config.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The bounds of everything that outlives a job.

    Attributes:
        result_ttl_s: seconds that the record of an ended job stays readable.
        tombstone_ttl_s: seconds after that in which the job is known to have existed.
        dead_ttl_s: seconds that a dead letter is kept.
        max_dead: dead letters, and recorded batches, of one lane.
        max_dead_bytes: bytes of recorded batches of one lane.
    """

    result_ttl_s: int = 3600
    tombstone_ttl_s: int = 3600
    dead_ttl_s: int = 604_800
    max_dead: int = 1000
    max_dead_bytes: int = 64 * 2**20

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The retention that ``settings`` ask for."""
        return cls(
            result_ttl_s=settings.result_ttl_s,
            tombstone_ttl_s=settings.tombstone_ttl_s,
            dead_ttl_s=settings.dead_ttl_s,
            max_dead=settings.max_dead,
            max_dead_bytes=settings.max_dead_bytes,
        )

    @property
    def text(self) -> str:
        """As the scripts read it: five whole numbers."""
        failed = max(self.dead_ttl_s if self.max_dead else 0, self.result_ttl_s)
        numbers = (self.result_ttl_s, self.tombstone_ttl_s, failed)
        return " ".join(str(number) for number in (*numbers, self.max_dead, self.max_dead_bytes))
