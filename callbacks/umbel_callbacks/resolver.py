"""Names of receivers looked up once, judged, and connected to as judged: the guard inside aiohttp.

A check that looks a name up by itself judges one answer while the connection uses another. Here
aiohttp's own resolver asks the guard, and aiohttp connects to what its resolver returned. The
session must not be given `trust_env=True`: its proxy would connect in our place.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from ssl import SSLContext
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from umbel_callbacks.addresses import Address
from umbel_callbacks.guard import ReceiverPolicy
from umbel_callbacks.names import NameService
from umbel_callbacks.urls import CallbackUrl
from umbel_config.errors import ReceiverRefused

if TYPE_CHECKING:
    from aiohttp.connector import AddrInfoType


@dataclass(slots=True)
class _Attempt:
    """A request under way: where it goes, which addresses the guard allowed it.

    One that is not ``connected`` anew goes over a connection that was kept.
    """

    url: CallbackUrl
    allowed: set[Address] = field(default_factory=set)
    connected: bool = False


_attempt: ContextVar[_Attempt | None] = ContextVar("umbel_callback_attempt", default=None)


@contextmanager
def receiving(url: CallbackUrl) -> Iterator[_Attempt]:
    """The block in which a request to ``url`` is made; outside, the connector makes no connection.

    aiohttp connects in the task that makes the request, so a context variable finds its way to the
    resolver, past redirects and proxies that lead elsewhere: those are refused.
    """
    attempt = _Attempt(url)
    token = _attempt.set(attempt)
    try:
        yield attempt
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
        attempt.connected = True
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
