"""How jobs of one lane are gathered: batch size, wait, and the lane's bounds."""

from __future__ import annotations

from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field


class BatchPolicy(BaseModel):
    """The batching policy of a model, the ``batching:`` section of ``model.yaml``.

    Attributes:
        max_batch_size: most jobs that one forward runs together.
        max_wait_ms: longest time a job waits for neighbours, counted from its arrival.
        max_queue: most jobs that may wait in the lane; one more is refused with ``LaneFull``.
        max_queue_bytes: most bytes of records that may wait in the lane.
        single_flight: whether a job whose input is identical to that of a running one shares its
            outcome instead of being computed too.
        cache_ttl_s: seconds for which the outcome of an input is remembered and given to identical
            ones; 0: not at all. Meant for models whose output depends on the input alone.
        cache_entries: most outcomes remembered.
        cache_bytes: most bytes of outcomes remembered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_batch_size: int = Field(64, ge=1, le=4096)
    max_wait_ms: int = Field(5, ge=0, le=3_600_000)
    max_queue: int = Field(100_000, ge=1)
    max_queue_bytes: int = Field(2**30, ge=1)
    single_flight: bool = False
    cache_ttl_s: int = Field(0, ge=0, le=30 * 86_400)
    cache_entries: int = Field(10_000, ge=1)
    cache_bytes: int = Field(64 * 2**20, ge=1)

    @cached_property
    def text(self) -> str:
        """As the scripts read it: the values in the order of the attributes, as whole numbers."""
        return " ".join(str(int(value)) for value in self.model_dump().values())
