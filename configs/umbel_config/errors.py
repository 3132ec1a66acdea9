"""The one tree of errors that umbel raises on purpose.

Each error says what happened and what to do, and knows whether trying again can help::

    UmbelError
    ├── ConfigError                 a setting is wrong or contradicts another
    ├── InvalidInput                the input does not fit the model's signature
    │   ├── PayloadTooLarge         it fits, but is over the size limit
    │   ├── MalformedPayload        these bytes are no value in umbel's wire format
    │   └── IdempotencyConflict     the key was used before, with another input
    ├── ModelError                  something about a model or its artifact
    │   ├── ModelNotFound           no model of that name is registered
    │   ├── VersionNotFound         the model has no such version or alias
    │   │   └── VersionRetired      it was withdrawn and takes no new jobs
    │   ├── VersionExists           versions are immutable; this one is taken
    │   ├── ModelFolderInvalid      the folder does not describe a loadable model
    │   │   └── BatchUnsafe         a row's outputs depend on the rows that share its batch
    │   ├── VersionInUse            a route, an alias or a canary still points to it
    │   ├── RouteInvalid            a route or alias cannot be as it was given
    │   ├── PolicyInvalid           a batching policy cannot be as it was given
    │   ├── NothingToRollBack       there is no earlier route
    │   ├── NotReady                too few workers have the version loaded and warm
    │   ├── CanaryUnderWay          a canary decides about the route just now
    │   ├── TrafficContended        others changed the routes again and again meanwhile
    │   ├── PlanInvalid             models.yaml cannot be read, or contradicts itself
    │   ├── ArtifactTampered        a file differs from its recorded SHA-256
    │   └── ModelLoadFailed         the artifact cannot be loaded or run here
    │       └── ModelUnavailable    this machine lacks its files or a module it may import
    ├── JobError                    the outcome of one job
    │   ├── JobNotFound             no job of that id is known
    │   │   ├── ResultExpired       it ended, and its result was kept for as long as was set
    │   │   └── JobLost             the store lost its data after it accepted the job
    │   ├── JobFailed               the model or its worker failed on this job
    │   ├── JobExpired              the job's timeout passed before it was computed
    │   ├── JobCancelled            the job was cancelled
    │   └── ResultTimeout           the caller stopped waiting; the job goes on
    ├── LaneFull                    too many jobs wait; carries ``retry_after``
    │   └── ReceiverFull            too many callbacks wait for their receiver
    ├── ReceiverRefused             a callback may not be sent where it should go
    ├── SignatureInvalid            a callback is not what umbel signed, or too old
    ├── NotReplayable               a dead letter that cannot run again
    └── StoreUnavailable            Redis cannot be reached
        ├── StoreRefused            Redis refuses this client (password, permission)
        ├── StoreFull               Redis has no memory left for new jobs
        └── StoreUnsuitable         Redis is too old, or cannot serve umbel as it is set up
"""

from __future__ import annotations

from typing import Any, ClassVar


class UmbelError(Exception):
    """Root of all errors that umbel raises on purpose.

    Attributes:
        retryable: whether the same call may succeed later without being changed.
    """

    retryable: ClassVar[bool] = False


class ConfigError(UmbelError):
    """A setting is wrong, unknown, or contradicts another one."""


class InvalidInput(UmbelError):
    """The input does not fit the model's signature; nothing was queued."""


class PayloadTooLarge(InvalidInput):
    """The encoded input is over ``max_payload_bytes``; nothing was queued."""


class MalformedPayload(InvalidInput):
    """The bytes are no value in umbel's wire format, or carry a type that it refuses."""


class IdempotencyConflict(InvalidInput):
    """The idempotency key was used before with another input or version; nothing was queued.

    Attributes:
        job_id: the job that the key belongs to.
        accepted: how many jobs of the same ``submit_many`` were queued in chunks before that one.
        jobs: those jobs, in the order of their rows.
        rows: the places of those rows; the first ones, unless the call goes to several lanes.
    """

    def __init__(self, message: str, *, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.accepted = 0
        self.jobs: tuple[Any, ...] = ()
        self.rows: tuple[int, ...] = ()


class ModelError(UmbelError):
    """Something is wrong with a model or its artifact."""


class ModelNotFound(ModelError):
    """No model of that name is registered."""


class VersionNotFound(ModelError):
    """The model exists, but not in that version."""


class VersionExists(ModelError):
    """Versions are immutable, and this one is already taken by other content."""


class VersionRetired(VersionNotFound):
    """The version was withdrawn: it takes no new jobs."""


class VersionInUse(ModelError):
    """A route, an alias or a canary still points to the version."""


class RouteInvalid(ModelError):
    """The route or alias cannot be as it was given; nothing was changed."""


class PolicyInvalid(ModelError):
    """The batching policy cannot be as it was given; nothing was changed."""


class NothingToRollBack(ModelError):
    """There is no earlier route that could be returned to."""


class NotReady(ModelError):
    """Not enough workers have the version loaded and warm; the jobs go where they went before."""

    retryable = True


class CanaryUnderWay(ModelError):
    """A canary decides about the route just now; stop it before the route is changed by hand."""


class TrafficContended(ModelError):
    """Others changed the model's routes again and again in the same moment."""

    retryable = True


class ModelFolderInvalid(ModelError):
    """The folder does not describe a model that umbel can load."""


class BatchUnsafe(ModelFolderInvalid):
    """The outputs of a row depend on the rows that share its batch, or on chance.

    Attributes:
        variance: the largest difference found, as a part of the output's largest value, for a
            push that accepts it; ``None``: rows come back in another order, which none does.
    """

    def __init__(self, message: str, *, variance: float | None = None) -> None:
        super().__init__(message)
        self.variance = variance


class PlanInvalid(ModelError):
    """The file that says how models should stand cannot be read, or contradicts itself."""


class ArtifactTampered(ModelError):
    """A file of the artifact differs from the SHA-256 recorded when it was pushed."""


class ModelLoadFailed(ModelError):
    """The artifact is intact but cannot be loaded or run on this machine."""


class ModelUnavailable(ModelLoadFailed):
    """This machine lacks what the model needs: its files, or a module that it may import.

    Another machine may have it, so a worker leaves the jobs waiting instead of failing them.
    """

    retryable = True


class JobError(UmbelError):
    """Root of the outcomes of one job; ``job_id`` names it."""

    def __init__(self, message: str, *, job_id: str | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobNotFound(JobError):
    """No job of that id is known here."""


class ResultExpired(JobNotFound):
    """The job ended, and what is kept of it is gone: its time to live passed, or it was forgotten.

    Attributes:
        state: the terminal state that it reached.
        finished_at: when it did, in ms since 1970.
    """

    def __init__(self, message: str, *, job_id: str, state: str, finished_at: int) -> None:
        super().__init__(message, job_id=job_id)
        self.state = state
        self.finished_at = finished_at


class JobLost(JobNotFound):
    """The store lost its data after it had accepted the job: submit it again."""


class JobFailed(JobError):
    """The model, or the worker that ran it, failed on this job.

    Attributes:
        kind: the class name of the error raised in the worker, for example ``ValueError``.
    """

    def __init__(self, message: str, *, job_id: str | None = None, kind: str = "Error") -> None:
        super().__init__(message, job_id=job_id)
        self.kind = kind


class JobExpired(JobError):
    """The job's timeout passed before it was computed."""


class JobCancelled(JobError):
    """The job was cancelled before it had a result."""


class ResultTimeout(JobError, TimeoutError):
    """The caller stopped waiting; the job itself goes on and can be asked for again."""

    retryable = True


class LaneFull(UmbelError):
    """The lane holds as many jobs or bytes as its policy allows; nothing was queued.

    Attributes:
        retry_after: seconds after which a place is expected to be free.
        accepted: how many jobs of the same call got in before the lane was full.
        jobs: those jobs, in the order of their rows.
        rows: the places of those rows; the first ones, unless the call goes to several lanes.
    """

    retryable = True

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.accepted = 0
        self.jobs: tuple[Any, ...] = ()
        self.rows: tuple[int, ...] = ()


class ReceiverFull(LaneFull):
    """As many callbacks as are allowed wait for the receiver already; nothing was queued."""


class ReceiverRefused(UmbelError):
    """The address that a receiver's name leads to is not one that callbacks may be sent to."""


class SignatureInvalid(UmbelError):
    """The signature of a callback fits none of the secrets, or its time is too far from now."""


class NotReplayable(UmbelError):
    """The job is no dead letter, or its input is not kept any more; nothing was changed."""


class StoreUnavailable(UmbelError):
    """Redis cannot be reached, or went away in the middle of a call.

    Attributes:
        accepted: how many jobs of the same ``submit_many`` were queued before that.
        jobs: those jobs, in the order of their rows.
        rows: the places of those rows; the first ones, unless the call goes to several lanes.
    """

    retryable = True

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.accepted = 0
        self.jobs: tuple[Any, ...] = ()
        self.rows: tuple[int, ...] = ()


class StoreRefused(StoreUnavailable):
    """Redis answered, but refuses this client: wrong password or missing permission."""

    retryable = False


class StoreFull(StoreUnavailable):
    """Redis has reached its maxmemory and takes no new job; those it holds go on."""


class StoreUnsuitable(StoreUnavailable):
    """Redis answered, but cannot serve umbel: too old, read-only, or its data is of another age."""

    retryable = False
