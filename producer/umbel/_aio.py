"""The client for asyncio: the same names as ``Client``, awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from umbel._aio_gather import AsyncGather
from umbel._aio_job import AsyncJob
from umbel._aio_session import AsyncSession
from umbel._aio_stream import completed, mapped
from umbel._aio_submission import AsyncSubmission
from umbel._callbacks import CallbackChecks
from umbel._prepare import Options, check_routing_key, options, prepare, prepare_many
from umbel._way import Way
from umbel_batching.lanes import split_id
from umbel_batching.record import Priority
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
        self._callbacks = CallbackChecks(settings)
        self._session = AsyncSession(settings)
        self._gather = AsyncGather(self._session)

    async def submit(
        self,
        model: str,
        inputs: Any,
        *,
        version: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  (the job's deadline, not this call's)
        priority: Priority | str = "normal",
        callback_url: str | None = None,
        callback_batch: bool = False,
        idempotency_key: str | None = None,
        routing_key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> AsyncJob:
        """Queues one job; see ``Client.submit`` for arguments and errors."""
        check_routing_key(routing_key)
        callback = self._callbacks.part(callback_url, shared=callback_batch)
        common: dict[str, Any] = {"version": version, "job_timeout": timeout, "priority": priority}
        way, chosen = await self._chosen(model, metadata=metadata, callback=callback, **common)
        target = way.one(routing_key)
        return await self._gather.submit(target, prepare(target, inputs, chosen, idempotency_key))

    async def submit_many(
        self,
        model: str,
        rows: Iterable[Any],
        *,
        version: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        priority: Priority | str = "normal",
        callback_url: str | None = None,
        callback_batch: bool = False,
        idempotency_keys: Sequence[str | None] | None = None,
        routing_keys: Sequence[str | None] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> list[AsyncJob]:
        """Queues one job for each row; see ``Client.submit_many``."""
        callback = self._callbacks.part(callback_url, shared=callback_batch)
        common: dict[str, Any] = {"version": version, "job_timeout": timeout, "priority": priority}
        way, chosen = await self._chosen(model, metadata=metadata, callback=callback, **common)
        groups = prepare_many(way, rows, chosen, idempotency_keys, routing_keys)
        return await AsyncSubmission(self._session, groups).go()

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
    ) -> AsyncIterator[Any]:
        """Yields the model's outputs in the order of the rows; see ``Client.map``."""
        common: dict[str, Any] = {"version": version, "job_timeout": timeout}
        common |= {"priority": priority, "metadata": metadata}

        async def begin(chunk: Any) -> AsyncSubmission:
            way, chosen = await self._chosen(model, **common)
            return AsyncSubmission(self._session, prepare_many(way, chunk, chosen))

        return mapped(
            begin,
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
        """Closes all connections once all submits are answered; queued jobs go on."""
        try:
            await self._gather.settled()
        finally:
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

    async def _chosen(
        self,
        model: str,
        *,
        version: str | None,
        job_timeout: float | None,
        priority: Priority | str,
        metadata: Mapping[str, Any] | None,
        callback: bytes = b"",
    ) -> tuple[Way, Options]:
        """Where jobs go and what else was chosen; from here on their outcomes are heard."""
        way = await self._session.way(model, version)
        await self._session.listen()
        chosen = options(
            reply=self._session.inbox.reply,
            version=version,
            timeout=job_timeout,
            priority=priority,
            metadata=metadata,
            max_bytes=self._max_bytes,
            callback=callback,
        )
        return way, chosen
