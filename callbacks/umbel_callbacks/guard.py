"""The guard: which receivers callbacks may go to, by URL and by the addresses of its name.

A URL is judged without a lookup, when a job is submitted and before each attempt; the addresses
that its name leads to are judged for each new connection. What the first check cannot know, it
leaves to the second: a name over http, or on a port that is not public, passes `check_url` where
`callback_allow` has a network, and then each of its addresses must lie in such a network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_network
from typing import TYPE_CHECKING, Protocol

from umbel_callbacks.addresses import Address, Network, is_scoped, own_refusal, parts
from umbel_callbacks.urls import CallbackUrl, parse_host, parse_url
from umbel_config.errors import ConfigError, InvalidInput, ReceiverRefused

if TYPE_CHECKING:  # the light client needs the guard, but not the settings model
    from umbel_config.callback_settings import CallbackSettings

_NETWORK = re.compile(r"[0-9a-fA-F:.]+/[0-9]{1,3}")
_ENTRY = re.compile(
    r"(?P<below>\*\.)?(?P<host>\[[^\[\]]*\]|[^:\[\]*/?#@\\\s]+)(?::(?P<port>[0-9]{1,5}))?"
)
_MAX_PORT = 65_535
_LOCALHOST = "localhost"


class ReceiverPolicy(Protocol):
    """What decides where callbacks may go; `Guard` is one, an operator may bring another."""

    def check_url(self, text: str) -> CallbackUrl:
        """Judges a URL without looking anything up.

        Raises:
            InvalidInput: no callback may go there.
        """

    def check_addresses(self, url: CallbackUrl, addresses: Sequence[Address]) -> None:
        """Judges all addresses that the host of ``url`` has now; no other is connected to.

        Raises:
            ReceiverRefused: one of them may not be connected to, or there is none.
        """


@dataclass(frozen=True, slots=True)
class _Names:
    """An entry for a name, or for all names below it; port ``None`` is any."""

    host: str
    below: bool
    port: int | None

    def match(self, url: CallbackUrl) -> bool:
        fits = url.host.endswith(f".{self.host}") if self.below else url.host == self.host
        return fits and self.port in (None, url.port)


@dataclass(frozen=True, slots=True)
class _Addresses:
    """An entry for a network; port ``None`` is any."""

    network: Network
    port: int | None

    def covers(self, address: Address, port: int) -> bool:
        return self.port in (None, port) and address in self.network and not is_scoped(address)


class Guard:
    """The policy of `callback_allow` and `callback_ports`.

    Public receivers are reached over https and on ``ports`` alone. An entry with a name allows
    http, other ports and private addresses, but not those that no receiver has, such as link-local
    ones with the metadata of a cloud: these take an entry with their network.

    Args:
        allow: entries ``HOST``, ``HOST:PORT``, ``*.DOMAIN``, ``*.DOMAIN:PORT``, ``NETWORK/BITS``,
            ``ADDRESS`` or ``ADDRESS:PORT``, IPv6 with a port in brackets.
        ports: ports of public receivers.

    Raises:
        ConfigError: an entry is none of these, or a port is out of range.
    """

    def __init__(self, allow: Iterable[str], ports: Iterable[int]) -> None:
        entries = [_entry(text) for text in allow]
        self._names = [entry for entry in entries if isinstance(entry, _Names)]
        self._networks = [entry for entry in entries if isinstance(entry, _Addresses)]
        self._ports = tuple(sorted(set(ports)))
        if not all(1 <= port <= _MAX_PORT for port in self._ports):
            raise ConfigError(f"callback_ports holds ports from 1 to {_MAX_PORT}.")

    @classmethod
    def of(cls, settings: CallbackSettings) -> Guard:
        """The guard that the settings ask for.

        Raises:
            ConfigError: they hold an entry that cannot be read.
        """
        return cls(settings.callback_allow, settings.callback_ports)

    def check_url(self, text: str) -> CallbackUrl:
        """Judges a URL without a lookup: its form, scheme, port and, if it has one, its address.

        Raises:
            InvalidInput: no callback may go there; the message names the setting that decides.
        """
        url = parse_url(text)
        if problem := self._problem(url):
            raise InvalidInput(problem)
        return url

    def check_addresses(self, url: CallbackUrl, addresses: Sequence[Address]) -> None:
        """Judges all addresses of the host of ``url``: one that is refused spoils them all.

        Raises:
            ReceiverRefused: there is none, or one may not be connected to.
        """
        if not addresses:
            raise ReceiverRefused(f"{url.host} has no address; set up its DNS record.")
        for address in addresses:
            if problem := self._address_problem(url, address):
                raise ReceiverRefused(problem)

    def _problem(self, url: CallbackUrl) -> str | None:
        if self._named(url):
            return None
        if url.literal is not None:
            return self._address_problem(url, url.literal)
        if url.host == _LOCALHOST or url.host.endswith(f".{_LOCALHOST}"):
            return f"{url.host} is this machine; add {url.receiver} to callback_allow to allow it."
        if any(entry.port in (None, url.port) for entry in self._networks):
            return None  # `check_addresses` asks for addresses inside these networks
        return self._channel_problem(url)

    def _address_problem(self, url: CallbackUrl, address: Address) -> str | None:
        named = self._named(url)
        channel = None if named else self._channel_problem(url)
        for part in parts(address):
            if any(entry.covers(part, url.port) for entry in self._networks):
                continue
            refused = own_refusal(part)
            if refused and not (named and refused.kind == "private"):
                way = (
                    f"{url.host} or its network"
                    if self._name_helps(url, refused.kind)
                    else ("the network of its address")
                )
                return (
                    f"{url.host} leads to an address that callbacks do not go to ({refused}); "
                    f"add {way} to callback_allow if they should."
                )
            if channel:
                return channel
        return None

    def _name_helps(self, url: CallbackUrl, kind: str) -> bool:
        return kind == "private" and url.literal is None

    def _channel_problem(self, url: CallbackUrl) -> str | None:
        """What is wrong with scheme and port, unless the receiver is on the allow list."""
        otherwise = f"or add {url.receiver}, or the network of all its addresses, to callback_allow"
        if url.scheme != "https":
            return f"{url.host} is to be called over https; write https://, {otherwise}."
        if url.port not in self._ports:
            listed = ", ".join(map(str, self._ports)) or "none"
            return (
                f"Port {url.port} of {url.host} is not in callback_ports ({listed}); use another "
                f"port, {otherwise}."
            )
        return None

    def _named(self, url: CallbackUrl) -> bool:
        return url.literal is None and any(entry.match(url) for entry in self._names)


def _entry(text: str) -> _Names | _Addresses:
    try:
        if _NETWORK.fullmatch(text):
            return _Addresses(ip_network(text), None)
        if text.count(":") > 1 and not text.startswith("["):
            return _Addresses(_one(IPv6Address(text)), None)
        return _host_entry(text)
    except (ValueError, InvalidInput):
        raise ConfigError(
            f"callback_allow has the entry {text[:80]!r}; write HOST, HOST:PORT, *.DOMAIN, "
            "NETWORK/BITS with no bits behind BITS, ADDRESS or [ADDRESS]:PORT."
        ) from None


def _host_entry(text: str) -> _Names | _Addresses:
    match = _ENTRY.fullmatch(text)
    if match is None:
        raise ValueError
    host, literal = parse_host(match["host"])
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 1 <= port <= _MAX_PORT:
        raise ValueError
    if literal is None:
        return _Names(host, match["below"] is not None, port)
    if match["below"]:
        raise ValueError
    return _Addresses(_one(literal), port)


def _one(address: Address) -> Network:
    """The network of this address alone."""
    if is_scoped(address):
        raise ValueError
    return ip_network(address)
