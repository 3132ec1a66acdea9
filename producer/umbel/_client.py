"""The client for ordinary Python: submit, wait, map, ask again by id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from umbel._job import Job
from umbel._prepare import options, prepare, prepare_many
from umbel._session import Session
from umbel._stream import bundled, completed, mapped, portions
from umbel_batching.lanes import split_id
from umbel_batching.values import NewJob
from umbel_config.errors import LaneFull
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
        self._session = Session(settings)

    def submit(
        self,
        model: str,
        inputs: Any,
        *,
        version: str | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Job:
        """Queues one job.

        Args:
            model: name of a registered model.
            inputs: one row, without a batch dimension: an array for a model with one input, a
                dict by name for one with several, or what its handler takes.
            version: a version of the model; default: the highest.
            timeout: seconds from now after which the job must not be computed any more.
            metadata: plain values kept with the job and shown by ``info``.

        Raises:
            InvalidInput: the inputs do not fit the signature; nothing was queued.
            PayloadTooLarge: they are over ``max_payload_bytes``; nothing was queued.
            ModelNotFound: no model of that name is registered.
            VersionNotFound: the model has no such version.
            LaneFull: too many jobs wait already; it says when to come back.
            StoreUnavailable: Redis cannot be reached.
        """
        target = self._session.target(model, version)
        inbox = self._session.listening()
        chosen = options(
            reply=inbox.reply, timeout=timeout, metadata=metadata, max_bytes=self._max_bytes
        )
        new = prepare(target, inputs, chosen)
        return self._submit(target, [new])[0]

    def submit_many(
        self,
        model: str,
        rows: Iterable[Any],
        *,
        version: str | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> list[Job]:
        """Queues one job for each row; far quicker than one ``submit`` after the other.

        All rows are checked before the first is queued.

        Args:
            model: name of a registered model.
            rows: inputs as ``submit`` takes them, or one array ``[n, *shape]``.
            version: a version of the model; default: the highest.
            timeout: seconds from now after which a job must not be computed any more.
            metadata: plain values kept with each job.

        Raises:
            InvalidInput: a row does not fit; the sentence names its place; nothing was queued.
            LaneFull: the lane filled up on the way; its ``accepted`` jobs are in its ``jobs``.
            StoreUnavailable: Redis cannot be reached.
        """
        target = self._session.target(model, version)
        inbox = self._session.listening()
        chosen = options(
            reply=inbox.reply, timeout=timeout, metadata=metadata, max_bytes=self._max_bytes
        )
        jobs: list[Job] = []
        for chunk in bundled(prepare_many(target, rows, chosen)):
            try:
                jobs += self._submit(target, chunk)
            except LaneFull as error:
                jobs += self._submit_what_fits(target, chunk)
                error.accepted, error.jobs = len(jobs), tuple(jobs)
                raise
        return jobs

    def map(
        self,
        model: str,
        rows: Iterable[Any],
        *,
        version: str | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        progress: bool = False,
        return_errors: bool = False,
    ) -> Iterator[Any]:
        """Runs the model on every row and yields the outputs in the order of the rows.

        Rows are taken as results come back, so endless iterables work, and a full lane slows the
        iteration down instead of failing it.

        Args:
            model: name of a registered model.
            rows: inputs as ``submit`` takes them, or one array ``[n, *shape]``.
            version: a version of the model; default: the highest.
            timeout: seconds from its submit after which a job must not be computed any more.
            metadata: plain values kept with each job.
            progress: whether to draw a progress bar on standard error.
            return_errors: whether to yield the error of a job that did not succeed in its place,
                instead of raising it.

        Raises:
            InvalidInput: a row does not fit; the rows before it have been queued.
            JobFailed: a job failed, and ``return_errors`` is off; likewise the other job errors.
        """
        common: dict[str, Any] = {"version": version, "timeout": timeout, "metadata": metadata}
        return mapped(
            lambda chunk: self.submit_many(model, chunk, **common),
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
            JobNotFound: one is not known, or its result has expired.
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

    def _submit(self, target: Any, new: Sequence[NewJob]) -> list[Job]:
        inbox, slot = self._session.inbox(), target.lane.slot
        jobs = [Job(self._session, f"{slot}-{job.uid}", inbox) for job in new]
        inbox.expect(jobs)
        try:
            self._session.submit(target, new)
        except BaseException:
            inbox.forget(jobs)
            raise
        return jobs

    def _submit_what_fits(self, target: Any, new: Sequence[NewJob]) -> list[Job]:
        """Submits the first of ``new`` in ever smaller portions, into what room is left."""
        jobs: list[Job] = []
        for size in portions(len(new)):
            with suppress(LaneFull):
                jobs += self._submit(target, new[len(jobs) : len(jobs) + size])
        return jobs
