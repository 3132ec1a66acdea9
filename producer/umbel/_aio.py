"""The client for asyncio: the same names as ``Client``, awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from umbel._aio_job import AsyncJob
from umbel._aio_session import AsyncSession
from umbel._aio_stream import completed, mapped
from umbel._prepare import options, prepare, prepare_many
from umbel._stream import bundled, portions
from umbel_batching.lanes import split_id
from umbel_batching.values import NewJob
from umbel_config.errors import LaneFull
from umbel_config.settings import Settings, load_settings


class AsyncClient:
    """Submits jobs and collects their results, from one event loop.

    Use it as ``async with AsyncClient() as client``, or call ``aclose`` at the end. It connects
    with its first call; thousands of waiting jobs share one connection.

    Args:
        url: as for ``Client``.
        settings: as for ``Client``.

    Raises:
        ConfigError: a setting is wrong.
    """

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        if settings is None:
            settings = load_settings(redis_url=url)
        elif url is not None:
            settings = load_settings(**{**settings.model_dump(), "redis_url": url})
        self._max_bytes = settings.max_payload_bytes
        self._session = AsyncSession(settings)

    async def submit(
        self,
        model: str,
        inputs: Any,
        *,
        version: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  (the job's deadline, not this call's)
        metadata: Mapping[str, Any] | None = None,
    ) -> AsyncJob:
        """Queues one job; see ``Client.submit`` for arguments and errors."""
        target = await self._session.target(model, version)
        await self._session.listen()
        new = prepare(target, inputs, self._options(timeout, metadata))
        return (await self._submit(target, [new]))[0]

    async def submit_many(
        self,
        model: str,
        rows: Iterable[Any],
        *,
        version: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        metadata: Mapping[str, Any] | None = None,
    ) -> list[AsyncJob]:
        """Queues one job for each row; see ``Client.submit_many``."""
        target = await self._session.target(model, version)
        await self._session.listen()
        jobs: list[AsyncJob] = []
        new = prepare_many(target, rows, self._options(timeout, metadata))
        for chunk in bundled(new):
            try:
                jobs += await self._submit(target, chunk)
            except LaneFull as error:
                jobs += await self._submit_what_fits(target, chunk)
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
    ) -> AsyncIterator[Any]:
        """Yields the model's outputs in the order of the rows; see ``Client.map``."""
        common: dict[str, Any] = {"version": version, "timeout": timeout, "metadata": metadata}
        return mapped(
            lambda chunk: self.submit_many(model, chunk, **common),
            rows,
            progress=model if progress else None,
            return_errors=return_errors,
        )

    def as_completed(
        self, jobs: Iterable[AsyncJob], timeout: float | None = None
    ) -> AsyncIterator[AsyncJob]:
        """Yields jobs as they become terminal; see ``Client.as_completed``."""
        return completed(self._session, list(jobs), timeout)

    def job(self, job_id: str) -> AsyncJob:
        """The job with that id, submitted by any process; asks the store only when it is used.

        Raises:
            JobNotFound: the text is no job id.
        """
        split_id(job_id)
        return AsyncJob(self._session, job_id)

    async def aclose(self) -> None:
        """Closes all connections; queued jobs go on."""
        await self._session.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _options(self, timeout: float | None, metadata: Mapping[str, Any] | None) -> Any:
        return options(
            reply=self._session.inbox.reply,
            timeout=timeout,
            metadata=metadata,
            max_bytes=self._max_bytes,
        )

    async def _submit(self, target: Any, new: Sequence[NewJob]) -> list[AsyncJob]:
        slot = target.lane.slot
        jobs = [AsyncJob(self._session, f"{slot}-{job.uid}", pushed=True) for job in new]
        self._session.inbox.expect(jobs)
        try:
            await self._session.submit(target, new)
        except BaseException:
            self._session.inbox.forget(jobs)
            raise
        return jobs

    async def _submit_what_fits(self, target: Any, new: Sequence[NewJob]) -> list[AsyncJob]:
        jobs: list[AsyncJob] = []
        for size in portions(len(new)):
            with suppress(LaneFull):
                jobs += await self._submit(target, new[len(jobs) : len(jobs) + size])
        return jobs
