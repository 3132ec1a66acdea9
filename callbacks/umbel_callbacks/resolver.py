"""Names of receivers looked up once, judged, and connected to as judged: the guard inside aiohttp.

A check that looks a name up by itself judges one answer while the connection uses another. Here
aiohttp's own resolver asks the guard, and aiohttp connects to what its resolver returned. The
session must not be given `trust_env=True`: its proxy would connect in our place.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from ssl import SSLContext
from typing import TYPE_CHECKING, Protocol

import aiohttp
import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.resolver
from aiohttp.abc import AbstractResolver, ResolveResult

from umbel_callbacks.addresses import Address
from umbel_callbacks.guard import ReceiverPolicy
from umbel_callbacks.urls import CallbackUrl
from umbel_config.errors import ConfigError, ReceiverRefused

if TYPE_CHECKING:
    from aiohttp.connector import AddrInfoType

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
        self._flights: dict[tuple[str, int], asyncio.Future[list[Address]]] = {}

    async def addresses(self, host: str, port: int) -> list[Address]:
        """All addresses of ``host``.

        Raises:
            OSError: the name has none, or nobody answered in time.
        """
        flight = self._flights.get((host, port)) or self._start(host, port)
        done, _ = await asyncio.wait([flight], timeout=self._timeout_s)
        if not done:
            raise socket.gaierror(
                socket.EAI_AGAIN, f"no answer about {host} within {self._timeout_s:g} s"
            )
        return list(flight.result())

    def close(self) -> None:
        """Gives up the threads, without waiting for lookups under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, host: str, port: int) -> asyncio.Future[list[Address]]:
        loop = asyncio.get_running_loop()
        flight = loop.run_in_executor(self._pool, _look_up, host, port)
        self._flights[host, port] = flight
        flight.add_done_callback(lambda _: self._land(host, port))
        return flight

    def _land(self, host: str, port: int) -> None:
        flight = self._flights.pop((host, port))
        if not flight.cancelled():
            flight.exception()  # seen, though all who waited may be gone


def _look_up(host: str, port: int) -> list[Address]:
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


@dataclass(slots=True)
class _Attempt:
    """A request under way: where it goes, and which addresses the guard allowed it."""

    url: CallbackUrl
    allowed: set[Address] = field(default_factory=set)


_attempt: ContextVar[_Attempt | None] = ContextVar("umbel_callback_attempt", default=None)


@contextmanager
def receiving(url: CallbackUrl) -> Iterator[None]:
    """The block in which a request to ``url`` is made; outside, the connector makes no connection.

    aiohttp connects in the task that makes the request, so a context variable finds its way to the
    resolver, past redirects and proxies that lead elsewhere: those are refused.
    """
    token = _attempt.set(_Attempt(url))
    try:
        yield
    finally:
        _attempt.reset(token)


class CheckedResolver(AbstractResolver):
    """Looks a name up once, and returns its addresses if the guard allows every one of them.

    Args:
        guard: judges the addresses.
        names: looks them up.
    """

    def __init__(self, guard: ReceiverPolicy, names: NameService) -> None:
        self._guard = guard
        self._names = names

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of ``host``, all of them judged.

        Raises:
            OSError: the name cannot be looked up.
            ReceiverRefused: the guard refuses one, or this is not where the request was to go.
        """
        attempt = _attempt.get()
        if attempt is None or (host, port) != (attempt.url.host, attempt.url.port):
            raise ReceiverRefused(f"{host} is not where this callback goes; it was not called.")
        found = await self._names.addresses(host, port)
        self._guard.check_addresses(attempt.url, found)
        attempt.allowed.update(found)
        fitting = [one for one in found if family in (socket.AF_UNSPEC, _family(one))]
        return [_result(host, one, port) for one in fitting]

    async def close(self) -> None:
        """Nothing to close; who made the name service closes it."""


class CheckedSockets:
    """Makes sockets for addresses that the guard allowed in this very request, and no others.

    For names it repeats what `CheckedResolver` made sure of. For URLs with an IP address, where
    aiohttp asks no resolver, it is the check.

    Args:
        guard: judges addresses that stand in the URL.
    """

    def __init__(self, guard: ReceiverPolicy) -> None:
        self._guard = guard

    def __call__(self, addr_info: AddrInfoType) -> socket.socket:
        """A socket for the connection that ``addr_info`` describes.

        Raises:
            ReceiverRefused: the connection would lead to another address.
        """
        family, kind, protocol, _, sockaddr = addr_info
        address, attempt = ip_address(sockaddr[0]), _attempt.get()
        if attempt is None or sockaddr[1] != attempt.url.port:
            raise ReceiverRefused("A connection led away from its callback; it was not made.")
        if address == attempt.url.literal:
            self._guard.check_addresses(attempt.url, [address])
        elif address not in attempt.allowed:
            raise ReceiverRefused(f"A connection led away from {attempt.url.host}; it was refused.")
        return socket.socket(family, kind, protocol)


def make_connector(
    guard: ReceiverPolicy,
    names: NameService,
    *,
    limit: int = 0,
    keepalive_s: float = 30.0,
    ssl: SSLContext | bool = True,
) -> aiohttp.TCPConnector:
    """A connector that reaches what the guard allows, for requests inside `receiving`.

    A connection that is kept alive was judged when it was made; each new one is judged anew. Give
    the session `trust_env=False`, and its requests `yarl.URL(url.url, encoded=True)` and
    `allow_redirects=False`.

    Args:
        guard: judges addresses.
        names: looks names up, once for each new connection.
        limit: connections at the same time; 0 sets no limit.
        keepalive_s: seconds that an idle connection is kept.
        ssl: how certificates are checked, as aiohttp takes it.
    """
    return aiohttp.TCPConnector(
        resolver=CheckedResolver(guard, names),
        socket_factory=CheckedSockets(guard),
        use_dns_cache=False,
        limit=limit,
        keepalive_timeout=keepalive_s,
        ssl=ssl,
    )


def _distinct(texts: Iterable[str]) -> list[Address]:
    return list(dict.fromkeys(ip_address(text) for text in texts))


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET


def _result(host: str, address: Address, port: int) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=str(address),
        port=port,
        family=_family(address),
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )


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
