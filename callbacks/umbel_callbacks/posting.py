"""One attempt: a POST to a checked address, bounded in time and in what is read of the answer."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import TypeVar

import aiohttp
from yarl import URL

from umbel_callbacks.guard import ReceiverPolicy
from umbel_callbacks.names import LookupsBusy, NameService
from umbel_callbacks.resolver import make_connector, receiving
from umbel_callbacks.retries import Answer
from umbel_callbacks.urls import CallbackUrl
from umbel_config.callback_settings import CallbackSettings
from umbel_config.errors import InvalidInput, ReceiverRefused

#: What is read of an answer's body: enough to use its connection again, where it is short.
_READ_BYTES, _READ_S = 64 * 1024, 1.0
#: Bodies above this go out in pieces, so that others are not held up meanwhile.
_LARGE = 2**20
#: Below the time after which many servers close idle connections.
_KEEPALIVE_S = 15.0


E = TypeVar("E", bound=BaseException)
#: Milliseconds since an attempt began.
Clock = Callable[[], int]


class Poster:
    """Makes POSTs, many at the same time; connections are kept and used again.

    It belongs to one event loop. Redirects are not followed, proxies of the environment are not
    used, cookies are not kept.

    Args:
        settings: the time limits.
        guard: says where a POST may go; asked before each, and for each new connection.
        names: looks receivers up.
        tls: how certificates are checked; default: by the system's authorities.
    """

    def __init__(
        self,
        settings: CallbackSettings,
        guard: ReceiverPolicy,
        names: NameService,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._guard, self._names = guard, names
        self._total_s = settings.callback_timeout_s
        self._session = aiohttp.ClientSession(
            connector=make_connector(guard, names, keepalive_s=_KEEPALIVE_S, ssl=tls or True),
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=settings.callback_connect_timeout_s,
                sock_read=settings.callback_read_timeout_s,
            ),
            headers={"User-Agent": f"umbel/{version('umbel')}", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Sends one POST, and tells what came of it; raises nothing but a cancellation.

        Args:
            url: of the receiver.
            headers: beside those of HTTP itself.
            body: JSON.
        """
        started = time.perf_counter()

        def took_ms() -> int:
            return round((time.perf_counter() - started) * 1000)

        try:
            target = self._guard.check_url(url)
            async with asyncio.timeout(self._total_s):
                response = await self._sent(target, headers, body)
            return await _heard(response, took_ms)
        except (InvalidInput, ReceiverRefused) as error:
            # Tried again: settings change, and so do the addresses of a name.
            return Answer(took_ms=took_ms(), note=str(error))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if refusal := _within(error, ReceiverRefused):
                return Answer(took_ms=took_ms(), note=str(refusal))
            blameless = _within(error, LookupsBusy)
            return Answer(took_ms=took_ms(), note=_said(error), at_fault=blameless is None)

    async def aclose(self) -> None:
        """Closes all connections, and the name service."""
        await self._session.close()
        self._names.close()

    async def _sent(
        self, target: CallbackUrl, headers: Mapping[str, str], body: bytes
    ) -> aiohttp.ClientResponse:
        with receiving(target) as attempt:
            try:
                return await self._send(target, headers, body)
            except aiohttp.ClientConnectorError:
                raise
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if attempt.connected:
                    raise
                # An idle connection, that the receiver closed as our request came in.
                return await self._send(target, headers, body)

    async def _send(
        self, target: CallbackUrl, headers: Mapping[str, str], body: bytes
    ) -> aiohttp.ClientResponse:
        return await self._session.post(
            URL(target.url, encoded=True),
            data=body if len(body) <= _LARGE else io.BytesIO(body),
            headers={"Content-Type": "application/json", **headers},
            allow_redirects=False,
        )


def retry_after_s(text: str | None, now: float | None = None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110, section 10.2.3).

    Args:
        text: its value: seconds, or a date.
        now: seconds since 1970; default is this machine's clock.

    Returns:
        ``None`` where there is none, or none that can be read.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    with suppress(ValueError, TypeError, OverflowError, IndexError):  # of odd dates
        moment = parsedate_to_datetime(text).timestamp()
        return max(0.0, moment - (time.time() if now is None else now))
    return None


async def _heard(response: aiohttp.ClientResponse, took_ms: Clock) -> Answer:
    async with response:
        answer = Answer(
            status=response.status,
            took_ms=took_ms(),
            note=_reason(response),
            retry_after_s=retry_after_s(response.headers.get("Retry-After")),
        )
        await _read_some(response)
        return answer


async def _read_some(response: aiohttp.ClientResponse) -> None:
    """Reads a short body, so that the connection can be used again; others lose theirs.

    The status has been heard, so that nothing of what happens here changes the answer.
    """
    if response.content.at_eof():
        return
    with suppress(TimeoutError, aiohttp.ClientError, OSError, ValueError):
        async with asyncio.timeout(_READ_S):
            left = _READ_BYTES
            while left > 0 and not response.content.at_eof():
                left -= len(await response.content.readany())
    if not response.content.at_eof():
        response.close()


def _reason(response: aiohttp.ClientResponse) -> str:
    if response.status < 300:  # noqa: PLR2004
        return ""
    if response.status < 400:  # noqa: PLR2004
        return "redirects are not followed"
    return "".join(each if each.isprintable() else " " for each in response.reason or "")[:80]


def _within(error: BaseException | None, kind: type[E]) -> E | None:
    """The error of that kind that a library may have wrapped."""
    while error is not None:
        if isinstance(error, kind):
            return error
        error = error.__cause__ or error.__context__
    return None


def _said(error: BaseException) -> str:
    """What went wrong with the connection, in words that hold nothing of the URL but its host."""
    if busy := _within(error, LookupsBusy):
        return str(busy)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "not reached in time"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return "no trusted TLS connection"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name leads to no address"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"not reached: {os.strerror(error.os_error.errno or errno.EHOSTUNREACH).lower()}"
    if isinstance(error, aiohttp.ServerDisconnectedError | OSError):
        return "the connection was closed without an answer"
    return f"no HTTP answer ({type(error).__name__})"
