"""The client for ordinary Python: submit, wait, map, ask again by id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from umbel._callbacks import CallbackChecks
from umbel._gather import Gather
from umbel._job import Job
from umbel._prepare import Options, check_routing_key, options, prepare, prepare_many
from umbel._session import Session
from umbel._stream import completed, mapped
from umbel._submission import Submission
from umbel._way import Way
from umbel_batching.lanes import split_id
from umbel_batching.record import Priority
from umbel_config.settings import Settings, load_settings


class Client:
    """Submits jobs and collects their results.

    One client may be shared by all threads of a process, and goes on working in forked children.
    It connects with its first call. Thousands of waiting jobs share one connection.

    Args:
        url: redis://, rediss:// or unix:// address; default: ``UMBEL_REDIS_URL``, the settings
            file, or the embedded Redis that `umbel up` runs.
        settings: everything else; default: settings file and environment.

    Raises:
        ConfigError: a setting is wrong.
    """

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        if settings is None:
            settings = load_settings(redis_url=url)
        elif url is not None:
            settings = load_settings(**{**settings.model_dump(), "redis_url": url})
        self._max_bytes = settings.max_payload_bytes
        self._callbacks = CallbackChecks(settings)
        self._session = Session(settings)
        self._gather = Gather(self._session)

    def submit(
        self,
        model: str,
        inputs: Any,
        *,
        version: str | None = None,
        timeout: float | None = None,
        priority: Priority | str = "normal",
        callback_url: str | None = None,
        callback_batch: bool = False,
        idempotency_key: str | None = None,
        routing_key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Job:
        """Queues one job.

        Args:
            model: name of a registered model.
            inputs: one row, without a batch dimension: an array for a model with one input, a
                dict by name for one with several, or what its handler takes.
            version: a version or alias; default: the model's route, without one the highest.
            timeout: seconds from now after which the job must not be computed any more.
            priority: ``high``, ``normal`` or ``low``: higher jobs run first, but none starves.
            callback_url: where the outcome is posted to when the job has ended, signed; an https
                URL, or what the setting ``callback_allow`` allows.
            callback_batch: whether outcomes for that URL may share a POST.
            idempotency_key: up to 255 characters that name this request among those of the model.
                The same key with the same inputs and version finds the same job, whoever submits
                it, for as long as that job lives and what is known of it is kept.
            routing_key: up to 255 characters, a customer's id for one: where a route splits the
                jobs, those with the same key go to the same version.
            metadata: plain values kept with the job and shown by ``info``.

        Raises:
            InvalidInput: the inputs do not fit the signature, or callbacks may not go to that URL;
                nothing was queued.
            IdempotencyConflict: the key was used before with another input or version.
            PayloadTooLarge: they are over ``max_payload_bytes``; nothing was queued.
            ModelNotFound: no model of that name is registered.
            VersionNotFound: the model has no such version; ``VersionRetired``: it is withdrawn.
            LaneFull: too many jobs wait already; it says when to come back. ``ReceiverFull``: so
                do too many callbacks for that receiver.
            StoreFull: Redis has no memory left; jobs that it holds go on.
            StoreUnavailable: Redis cannot be reached.
        """
        check_routing_key(routing_key)
        callback = self._callbacks.part(callback_url, shared=callback_batch)
        common: dict[str, Any] = {"version": version, "timeout": timeout, "priority": priority}
        way, chosen = self._chosen(model, metadata=metadata, callback=callback, **common)
        target = way.one(routing_key)
        new = prepare(target, inputs, chosen, idempotency_key)
        return self._gather.submit(self._session.inbox(), target, new)

    def submit_many(
        self,
        model: str,
        rows: Iterable[Any],
        *,
        version: str | None = None,
        timeout: float | None = None,
        priority: Priority | str = "normal",
        callback_url: str | None = None,
        callback_batch: bool = False,
        idempotency_keys: Sequence[str | None] | None = None,
        routing_keys: Sequence[str | None] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> list[Job]:
        """Queues one job for each row; far quicker than one ``submit`` after the other.

        All rows are checked before the first is queued.

        Args:
            model: name of a registered model.
            rows: inputs as ``submit`` takes them, or one array ``[n, *shape]``.
            version: a version or alias; default: the model's route, without one the highest.
            timeout: seconds from now after which a job must not be computed any more.
            priority: as for ``submit``.
            callback_url: as for ``submit``.
            callback_batch: as for ``submit``.
            idempotency_keys: one key for each row, as for ``submit``; ``None`` among them for a
                row without.
            routing_keys: one routing key for each row, as for ``submit``; ``None`` among them for
                a row without.
            metadata: plain values kept with each job.

        Raises:
            InvalidInput: a row does not fit; the sentence names its place; nothing was queued.
            LaneFull: a lane filled up on the way. Like the two below it carries the jobs that
                got in: ``accepted`` of them, in ``jobs``, and the places of their rows in ``rows``.
            StoreUnavailable: Redis cannot be reached, or, as ``StoreFull``, has no memory left.
            IdempotencyConflict: a key was used before with another input or version.
        """
        callback = self._callbacks.part(callback_url, shared=callback_batch)
        common: dict[str, Any] = {"version": version, "timeout": timeout, "priority": priority}
        way, chosen = self._chosen(model, metadata=metadata, callback=callback, **common)
        groups = prepare_many(way, rows, chosen, idempotency_keys, routing_keys)
        return Submission(self._session, groups).go()

    def map(
        self,
        model: str,
        rows: Iterable[Any],
        *,
        version: str | None = None,
        timeout: float | None = None,
        priority: Priority | str = "normal",
        metadata: Mapping[str, Any] | None = None,
        progress: bool = False,
        return_errors: bool = False,
    ) -> Iterator[Any]:
        """Runs the model on every row and yields the outputs in the order of the rows.

        Rows are taken as results come back, so endless iterables work. A full lane, a full Redis
        and an outage of Redis slow the iteration down instead of failing it. It waits for a place
        in a lane for as long as it takes; for Redis as long as results come back, and for a minute
        after the last one.

        Args:
            model: name of a registered model.
            rows: inputs as ``submit`` takes them, or one array ``[n, *shape]``.
            version: a version or alias; default: the model's route, without one the highest.
            timeout: seconds from its submit after which a job must not be computed any more.
            priority: as for ``submit``.
            metadata: plain values kept with each job.
            progress: whether to draw a progress bar on standard error.
            return_errors: whether to yield the error of a job that did not succeed in its place,
                instead of raising it.

        Raises:
            InvalidInput: a row does not fit; the rows before it have been queued.
            JobFailed: a job failed, and ``return_errors`` is off; likewise the other job errors.
            StoreUnavailable: Redis was away from the beginning, or takes no jobs for too long.
        """
        common: dict[str, Any] = {"version": version, "timeout": timeout}
        common |= {"priority": priority, "metadata": metadata}

        def begin(chunk: Any) -> Submission:
            way, chosen = self._chosen(model, **common)
            return Submission(self._session, prepare_many(way, chunk, chosen))

        return mapped(
            begin,
            rows,
            progress=f"{model}" if progress else None,
            return_errors=return_errors,
        )

    def as_completed(self, jobs: Iterable[Job], timeout: float | None = None) -> Iterator[Job]:
        """Yields jobs as they become terminal, in whatever order that is.

        Args:
            jobs: jobs of this or another client.
            timeout: seconds for all of them; ``None`` waits for as long as it takes.

        Raises:
            ResultTimeout: not all were terminal in time.
            JobNotFound: one is not known any more; see ``Job.state`` for the kinds.
        """
        return completed(self._session, list(jobs), timeout)

    def job(self, job_id: str) -> Job:
        """The job with that id, submitted by any process; asks the store only when it is used.

        Raises:
            JobNotFound: the text is no job id.
        """
        split_id(job_id)
        return Job(self._session, job_id)

    def close(self) -> None:
        """Closes all connections; queued jobs go on, and the client connects again if used."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _chosen(
        self,
        model: str,
        *,
        version: str | None,
        timeout: float | None,
        priority: Priority | str,
        metadata: Mapping[str, Any] | None,
        callback: bytes = b"",
    ) -> tuple[Way, Options]:
        """Where jobs go and what else was chosen; from here on their outcomes are heard."""
        way = self._session.way(model, version)
        chosen = options(
            reply=self._session.listening().reply,
            version=version,
            timeout=timeout,
            priority=priority,
            metadata=metadata,
            max_bytes=self._max_bytes,
            callback=callback,
        )
        return way, chosen
