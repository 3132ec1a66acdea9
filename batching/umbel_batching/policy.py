"""How jobs of one lane are gathered: batch size, wait, and the lane's bounds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Mode = Literal["static", "adaptive"]
#: Attributes that policies which are stored already do not have.
_LATER = ("look_ahead", "max_batch_cost", "mode", "latency_objective_ms")


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
        look_ahead: how many batches' worth of waiting jobs a batch is chosen from, where inputs
            have lengths: the first one in line, and those that need the least padding beside it.
            1: strictly first come, first served.
        max_batch_cost: most that a batch may cost, the number of its jobs times the longest of
            their lengths; a job that is above it runs alone. 0: no limit.
        mode: ``static``: batches of up to ``max_batch_size``; ``adaptive``: workers choose size and
            wait, both within the bounds above, from what batches are seen to take.
        latency_objective_ms: milliseconds from arrival to outcome within which 95 of 100 jobs of a
            lane that is not overloaded shall end; for ``adaptive`` only, 0: none.
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
    look_ahead: int = Field(8, ge=1, le=64)
    max_batch_cost: int = Field(0, ge=0, le=2**40)
    mode: Mode = "static"
    latency_objective_ms: int = Field(0, ge=0, le=3_600_000)

    @model_validator(mode="after")
    def _adaptive_has_an_aim(self) -> Self:
        if self.mode == "adaptive" and not self.latency_objective_ms:
            raise ValueError(
                "mode adaptive needs latency_objective_ms, the milliseconds from arrival to "
                "outcome within which 95 of 100 jobs shall end; for example 50"
            )
        return self

    @property
    def objective_ms(self) -> int:
        """The latency objective in force in milliseconds; 0 for mode ``static``."""
        return self.latency_objective_ms if self.mode == "adaptive" else 0

    @cached_property
    def text(self) -> str:
        """As the scripts read it: whole numbers in the order of the attributes.

        Mode and objective are one of them: 0 stands for ``static``.
        """
        values = self.model_dump(exclude={"mode", "latency_objective_ms"}).values()
        return " ".join(str(int(value)) for value in (*values, self.objective_ms))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, whose copies would keep the ``text`` of the original."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("text", None)
        return copy

    @model_serializer(mode="wrap")
    def _unsaid(self, dump: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
        """As it is stored: without those defaults that came later.

        Releases before these keys refuse them as unknown, and a version keeps its digest.
        """
        values = dump(self)
        if info.mode_is_json():
            for name in _LATER:
                if values.get(name) == type(self).model_fields[name].default:
                    del values[name]
        return values
