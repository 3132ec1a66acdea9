"""umbel: submit single inference jobs; they run in batches and lose nothing on the way.

Example::

    from umbel import Client

    client = Client()
    job = client.submit("digits", pixels)
    print(job.result(timeout=5))
"""

from __future__ import annotations

from importlib.metadata import version as _version

from umbel._aio import AsyncClient
from umbel._aio_job import AsyncJob
from umbel._client import Client
from umbel._job import Job
from umbel_batching.census import JobInfo
from umbel_batching.deliveries import Attempt, Callback
from umbel_batching.record import Event, Priority, State
from umbel_config.errors import (
    ConfigError,
    IdempotencyConflict,
    InvalidInput,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobLost,
    JobNotFound,
    LaneFull,
    ModelNotFound,
    NotReplayable,
    PayloadTooLarge,
    ReceiverFull,
    ResultExpired,
    ResultTimeout,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
    StoreUnsuitable,
    UmbelError,
    VersionNotFound,
    VersionRetired,
)

__version__ = _version("umbel")

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "Attempt",
    "Callback",
    "Client",
    "ConfigError",
    "Event",
    "IdempotencyConflict",
    "InvalidInput",
    "Job",
    "JobCancelled",
    "JobExpired",
    "JobFailed",
    "JobInfo",
    "JobLost",
    "JobNotFound",
    "LaneFull",
    "ModelNotFound",
    "NotReplayable",
    "PayloadTooLarge",
    "Priority",
    "ReceiverFull",
    "ResultExpired",
    "ResultTimeout",
    "State",
    "StoreFull",
    "StoreRefused",
    "StoreUnavailable",
    "StoreUnsuitable",
    "UmbelError",
    "VersionNotFound",
    "VersionRetired",
]
