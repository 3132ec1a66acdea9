"""Looking up the addresses of receivers: by the system, or by name servers of the operator."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Protocol

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.resolver

from umbel_callbacks.addresses import Address
from umbel_config.errors import ConfigError

if TYPE_CHECKING:
    from umbel_config.callback_settings import CallbackSettings

#: Threads of the system's lookups, so that slow names hold up only themselves.
LOOKUP_THREADS = 64
_DNS_PORT, _MAX_PORT = 53, 65_535
_NAMESERVER = re.compile(
    r"(?P<address>\[[0-9a-fA-F:.]+\]|[0-9.]+)(?::(?P<port>[0-9]{1,5}))?|(?P<bare>[0-9a-fA-F:.]+)"
)


class NameService(Protocol):
    """What looks up the addresses of a name, anew each time it is asked."""

    async def addresses(self, host: str, port: int) -> list[Address]:
        """All addresses of ``host``, at least one.

        Raises:
            OSError: the name has none, or nobody answered in time.
        """

    def close(self) -> None:
        """Gives back what it holds."""


class LookupsBusy(OSError):
    """A name was not looked up, as others took all threads: the receiver is not to blame."""


class SystemNames:
    """The lookups of the operating system, in threads of their own, one per name at a time.

    A lookup cannot be ended: one that takes too long keeps its thread, and whoever asks for the
    name meanwhile waits for the same one.

    Args:
        timeout_s: seconds to wait for an answer.
        threads: lookups side by side.
    """

    def __init__(self, timeout_s: float, threads: int = LOOKUP_THREADS) -> None:
        self._timeout_s = timeout_s
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="umbel-names")
        self._flights: dict[tuple[str, int], _Flight] = {}

    async def addresses(self, host: str, port: int) -> list[Address]:
        """All addresses of ``host``.

        Raises:
            OSError: the name has none, or nobody answered in time.
        """
        flight = self._flights.get((host, port)) or self._start(host, port)
        done, _ = await asyncio.wait([flight.answer], timeout=self._timeout_s)
        if done:
            return list(flight.answer.result())
        if not flight.begun.is_set():
            raise LookupsBusy(f"{host} was not looked up: too many slow names are before it")
        raise socket.gaierror(
            socket.EAI_AGAIN, f"no answer about {host} within {self._timeout_s:g} s"
        )

    def close(self) -> None:
        """Gives up the threads, without waiting for lookups under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, host: str, port: int) -> _Flight:
        loop, begun = asyncio.get_running_loop(), threading.Event()
        answer = loop.run_in_executor(self._pool, _look_up, host, port, begun)
        flight = self._flights[host, port] = _Flight(answer, begun)
        answer.add_done_callback(lambda _: self._land(host, port))
        return flight

    def _land(self, host: str, port: int) -> None:
        answer = self._flights.pop((host, port)).answer
        if not answer.cancelled():
            answer.exception()  # seen, though all who waited may be gone


@dataclass(frozen=True, slots=True)
class _Flight:
    """A lookup under way: its answer, and whether a thread has begun it."""

    answer: asyncio.Future[list[Address]]
    begun: threading.Event


def _look_up(host: str, port: int, begun: threading.Event) -> list[Address]:
    begun.set()
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return _distinct(str(sockaddr[0]) for *_, sockaddr in found)


class NameServers:
    """Name servers of the operator, asked for A and AAAA side by side; nothing is cached.

    Names are taken as they are: no search domains, no file of hosts.

    Args:
        servers: entries ``ADDRESS``, ``ADDRESS:PORT`` or ``[ADDRESS]:PORT``, asked in this order.
        timeout_s: seconds to wait for an answer.

    Raises:
        ConfigError: an entry is none of these, or there is none.
    """

    def __init__(self, servers: Iterable[str], timeout_s: float) -> None:
        self._resolver = dns.asyncresolver.Resolver(configure=False)
        self._resolver.nameservers = [_server(entry) for entry in servers]
        self._resolver.lifetime = timeout_s
        # Each server gets a turn, and one a second one: a lost datagram is no lost lookup.
        self._resolver.timeout = timeout_s / (len(self._resolver.nameservers) + 1)
        if not self._resolver.nameservers:
            raise ConfigError("callback_nameservers is empty; write ADDRESS or ADDRESS:PORT.")

    async def addresses(self, host: str, port: int) -> list[Address]:  # noqa: ARG002  (the protocol's)
        """All addresses of ``host``. One kind of record is enough if the other cannot be had.

        Raises:
            OSError: the name has none, or nobody answered in time.
        """
        answers = await asyncio.gather(
            self._ask(host, "A"), self._ask(host, "AAAA"), return_exceptions=True
        )
        found: list[str] = []
        problems: list[BaseException] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                problems.append(answer)
            else:
                found += answer
        if found:
            return _distinct(found)
        raise _failure(host, problems)

    def close(self) -> None:
        """Nothing is held between lookups."""

    async def _ask(self, host: str, kind: str) -> list[str]:
        answer = await self._resolver.resolve(host, kind, search=False, raise_on_no_answer=False)
        return [record.address for record in answer]


def name_service(settings: CallbackSettings) -> SystemNames | NameServers:
    """The name service that the settings ask for.

    Raises:
        ConfigError: `callback_nameservers` holds an entry that cannot be read.
    """
    timeout_s = settings.callback_connect_timeout_s
    if settings.callback_nameservers:
        return NameServers(settings.callback_nameservers, timeout_s)
    return SystemNames(timeout_s)


def _distinct(texts: Iterable[str]) -> list[Address]:
    return list(dict.fromkeys(ip_address(text) for text in texts))


def _failure(host: str, problems: list[BaseException]) -> OSError:
    for problem in problems:
        if not isinstance(problem, dns.exception.DNSException | OSError):
            raise problem
    known = all(isinstance(problem, dns.resolver.NXDOMAIN) for problem in problems)
    if known:
        return socket.gaierror(socket.EAI_NONAME, f"{host} has no address")
    return socket.gaierror(socket.EAI_AGAIN, f"no name server answered about {host}")


def _server(entry: str) -> dns.nameserver.Nameserver:
    match = _NAMESERVER.fullmatch(entry)
    try:
        if match is None:
            raise ValueError
        address = ip_address((match["bare"] or match["address"]).strip("[]"))
        port = int(match["port"] or _DNS_PORT)
        if not 1 <= port <= _MAX_PORT:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"callback_nameservers has the entry {entry[:80]!r}; write ADDRESS, ADDRESS:PORT or "
            "[ADDRESS]:PORT."
        ) from None
    return dns.nameserver.Do53Nameserver(str(address), port)
