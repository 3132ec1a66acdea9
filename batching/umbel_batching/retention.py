"""How long what is kept of ended jobs stays, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from umbel_config.settings import Settings

#: Seconds for the last attempt, and for a sender that was away when it was due.
_MARGIN_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The bounds of everything that outlives a job.

    Attributes:
        result_ttl_s: seconds that the record of an ended job stays readable.
        tombstone_ttl_s: seconds after that in which the job is known to have existed.
        dead_ttl_s: seconds that a dead letter is kept.
        max_dead: dead letters, and recorded batches, of one lane.
        max_dead_bytes: bytes of recorded batches of one lane.
        callback_ttl_s: seconds after the end of a job that its callback is tried at most.
        max_dead_callbacks: undelivered callbacks.
    """

    result_ttl_s: int = 3600
    tombstone_ttl_s: int = 3600
    dead_ttl_s: int = 604_800
    max_dead: int = 1000
    max_dead_bytes: int = 64 * 2**20
    callback_ttl_s: int = 172_800
    max_dead_callbacks: int = 10_000

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The retention that ``settings`` ask for."""
        return cls(
            result_ttl_s=settings.result_ttl_s,
            tombstone_ttl_s=settings.tombstone_ttl_s,
            dead_ttl_s=settings.dead_ttl_s,
            max_dead=settings.max_dead,
            max_dead_bytes=settings.max_dead_bytes,
            callback_ttl_s=settings.callback_ttl_s,
            max_dead_callbacks=settings.max_dead_callbacks,
        )

    @property
    def of_copies(self) -> Self:
        """That of copies for shadows: until they are compared, and for a look at them."""
        return replace(self, result_ttl_s=120, tombstone_ttl_s=1, max_dead=0)

    @property
    def pending_ttl_s(self) -> int:
        """Seconds that the story of a batch is kept for callbacks that tell of it."""
        return self.callback_ttl_s + _MARGIN_S

    @property
    def text(self) -> str:
        """As the scripts read it: whole numbers."""
        failed = max(self.dead_ttl_s if self.max_dead else 0, self.result_ttl_s)
        numbers = [self.result_ttl_s, self.tombstone_ttl_s, failed]
        numbers += [self.max_dead, self.max_dead_bytes]
        numbers += [self.pending_ttl_s, self.dead_ttl_s, self.max_dead_callbacks]
        return " ".join(str(number) for number in numbers)
