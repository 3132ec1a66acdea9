"""The settings of callbacks, a part of the one settings model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, PositiveFloat, SecretStr
from pydantic_settings import NoDecode


class CallbackSettings(BaseModel):
    """What decides where callbacks may go, what they hold, and how often they are tried."""

    callback_queue: str = Field(
        "umbel-callbacks", min_length=1, description="Celery queue of the senders of callbacks."
    )
    callback_secrets: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Secrets that sign callbacks, whsec_...; for one host: HOST=whsec_... Several "
        "are active side by side while they rotate.",
    )
    callback_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Private receivers that are allowed: HOST, HOST:PORT, *.DOMAIN, NETWORK/BITS.",
    )
    callback_ports: Annotated[tuple[int, ...], NoDecode] = Field(
        (443, 8443), description="Ports of public receivers."
    )
    callback_nameservers: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Name servers for receivers, ADDRESS or ADDRESS:PORT; default: the system's.",
    )
    callback_schedule_s: Annotated[tuple[PositiveFloat, ...], NoDecode] = Field(
        (5, 30, 120, 600, 3600, 21_600, 86_400),
        description="Pauses before each new attempt to deliver a callback, in seconds.",
    )
    callback_ttl_s: int = Field(
        172_800, gt=0, description="Seconds after its job's end that a callback is tried at most."
    )
    callback_timeout_s: float = Field(15.0, gt=0, description="Seconds for one attempt.")
    callback_connect_timeout_s: float = Field(
        5.0, gt=0, description="Seconds of it to find and reach the receiver."
    )
    callback_read_timeout_s: float = Field(
        10.0, gt=0, description="Seconds of it without a byte from the receiver."
    )
    callback_concurrency: int = Field(
        512, ge=1, le=10_000, description="Callbacks that one sender has under way."
    )
    callback_host_concurrency: int = Field(
        32, ge=1, description="Callbacks under way to one receiver, by all senders."
    )
    callback_payload: Literal["full", "thin"] = Field(
        "full", description="Whether callbacks hold the output, or id and link alone."
    )
    callback_max_bytes: int = Field(
        262_144, ge=1024, description="Largest body of a callback; a larger one is sent thin."
    )
    callback_link: str = Field(
        "", description="Where a result can be read, with {id}; the link of thin callbacks."
    )
    callback_batch_size: int = Field(
        100, ge=1, le=1000, description="Most results in one callback, for jobs that allow it."
    )
    max_callbacks: int = Field(
        100_000,
        ge=1,
        description="Callbacks that may wait for one receiver; jobs with more are refused.",
    )
    max_callback_bytes: int = Field(
        2**30, ge=1, description="Bytes of records that may be kept for them."
    )
    max_dead_callbacks: int = Field(
        10_000, ge=0, description="Undelivered callbacks kept; the oldest give way."
    )
