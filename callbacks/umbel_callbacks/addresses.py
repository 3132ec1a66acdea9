"""Which IP addresses callbacks may not go to: the special-purpose networks, as a table.

Typed in 2026-11 from the IANA IPv4 and IPv6 Special-Purpose Address Registries, and from the
registries of multicast and of the IPv4 and IPv6 address space. `ipaddress.is_global` is no
substitute: its answers vary with the version of Python, and it trusts addresses that embed others.
Blocks are refused even where the registry calls them globally reachable (AS112, AMT, anycast of
protocols): no application listens there.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
Kind: TypeAlias = Literal["private", "never"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an address is none that callbacks go to unasked.

    Attributes:
        network: the narrowest special-purpose network that the address lies in.
        name: what that network is for, for example ``loopback``.
        kind: ``private`` where the name of a host on the allow list is enough, ``never`` where only
            a network on the allow list will do.
    """

    network: Network
    name: str
    kind: Kind

    def __str__(self) -> str:
        return f"{self.name}, {self.network}"


#: Networks that an operator may well run receivers in.
_PRIVATE = (
    ("10.0.0.0/8", "private use"),
    ("100.64.0.0/10", "shared by the customers of a carrier"),
    ("127.0.0.0/8", "loopback"),
    ("172.16.0.0/12", "private use"),
    ("192.168.0.0/16", "private use"),
    ("::1/128", "loopback"),
    ("fc00::/7", "unique local"),
)

_NEVER = (
    ("0.0.0.0/8", "this network"),
    ("0.0.0.0/32", "unspecified"),
    ("169.254.0.0/16", "link local"),
    ("192.0.0.0/24", "protocol assignments of the IETF"),
    ("192.0.0.0/29", "IPv4 service continuity, DS-Lite"),
    ("192.0.0.8/32", "IPv4 dummy address"),
    ("192.0.0.9/32", "port control protocol, anycast"),
    ("192.0.0.10/32", "TURN, anycast"),
    ("192.0.0.170/31", "discovery of NAT64"),
    ("192.0.2.0/24", "documentation"),
    ("192.31.196.0/24", "AS112"),
    ("192.52.193.0/24", "automatic multicast tunneling"),
    ("192.88.99.0/24", "deprecated relays of 6to4"),
    ("192.175.48.0/24", "AS112"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("255.255.255.255/32", "broadcast"),
    ("::/128", "unspecified"),
    ("::/96", "deprecated IPv4-compatible"),
    ("::ffff:0:0/96", "IPv4-mapped"),
    ("::ffff:0:0:0/96", "IPv4-translated"),
    ("64:ff9b:1::/48", "local NAT64"),
    ("100::/64", "discard"),
    ("100:0:0:1::/64", "IPv6 dummy addresses"),
    ("2001::/23", "protocol assignments of the IETF"),
    ("2001::/32", "Teredo"),
    ("2001:1::1/128", "port control protocol, anycast"),
    ("2001:1::2/128", "TURN, anycast"),
    ("2001:1::3/128", "DNS-SD registration, anycast"),
    ("2001:2::/48", "benchmarking"),
    ("2001:3::/32", "automatic multicast tunneling"),
    ("2001:4:112::/48", "AS112"),
    ("2001:10::/28", "deprecated ORCHID"),
    ("2001:20::/28", "ORCHIDv2"),
    ("2001:30::/28", "remote identities of drones"),
    ("2001:db8::/32", "documentation"),
    ("2002::/16", "deprecated 6to4"),
    ("2620:4f:8000::/48", "AS112"),
    ("3fff::/20", "documentation"),
    ("5f00::/16", "segment routing"),
    ("fe80::/10", "link local"),
    ("fec0::/10", "deprecated site local"),
    ("ff00::/8", "multicast"),
)

#: Metadata and key services of clouds that lie in public or private space: no name leads there.
_METADATA = (
    ("100.100.100.200/32", "metadata service"),
    ("168.63.129.16/32", "metadata service"),
    ("fd00:42::42/128", "metadata service"),
    ("fd00:ec2::/32", "metadata service"),
    ("fd20:ce::254/128", "metadata service"),
)


def _network(text: str) -> Network:
    return IPv6Network(text) if ":" in text else IPv4Network(text)


def _table() -> tuple[Refusal, ...]:
    rows = [Refusal(_network(text), name, "private") for text, name in _PRIVATE]
    rows += [Refusal(_network(text), name, "never") for text, name in _NEVER + _METADATA]
    return tuple(sorted(rows, key=lambda row: -row.network.prefixlen))


#: All special-purpose networks, the narrowest first.
SPECIAL = _table()

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_TEREDO = IPv6Network("2001::/32")
_LOW_32 = 0xFFFF_FFFF
#: Networks with an IPv4 address inside, and how far it is to be shifted right.
_EMBEDDING = (
    (_NAT64, 0),
    (IPv6Network("::ffff:0:0/96"), 0),
    (IPv6Network("::ffff:0:0:0/96"), 0),
    (IPv6Network("::/96"), 0),
    (IPv6Network("2002::/16"), 80),
    (_TEREDO, 64),
)
# The interface id of ISATAP (RFC 5214) in any network: 0000:5efe before the IPv4 address, with the
# bits "universal" and "group" as they like.
_ISATAP_MASK, _ISATAP = 0xFCFF_FFFF, 0x0000_5EFE
_NOT_GLOBAL = Refusal(IPv6Network("::/0"), "no global unicast", "never")
_SCOPED = Refusal(IPv6Network("fe80::/10"), "bound to one link by a zone", "never")


def refusal(address: Address) -> Refusal | None:
    """Why callbacks do not go to ``address`` unasked, or ``None``.

    An IPv6 address that embeds an IPv4 address is judged by both, and the worst verdict counts.
    """
    found = [own for part in parts(address) if (own := own_refusal(part))]
    return next((own for own in found if own.kind == "never"), found[0] if found else None)


def own_refusal(address: Address) -> Refusal | None:
    """Like ``refusal``, but without a look at addresses that ``address`` embeds."""
    if is_scoped(address):
        return _SCOPED
    for row in SPECIAL:
        if address in row.network:
            return row
    if isinstance(address, IPv4Address) or address in _GLOBAL_UNICAST or address in _NAT64:
        return None
    return _NOT_GLOBAL


def parts(address: Address) -> tuple[Address, ...]:
    """The address itself, then the IPv4 addresses that it embeds and that traffic may end at.

    IPv4-mapped, -translated and -compatible addresses, NAT64, 6to4, Teredo (server and client) and
    ISATAP. A NAT64 prefix of the operator's own cannot be told from other addresses.
    """
    return (address, *_embedded(address)) if isinstance(address, IPv6Address) else (address,)


def is_scoped(address: Address) -> bool:
    """Whether the address has a zone, as in ``fe80::1%eth0``."""
    return isinstance(address, IPv6Address) and address.scope_id is not None


def _embedded(address: IPv6Address) -> list[IPv4Address]:
    value = int(address)
    if value <= 1:  # unspecified and loopback: they embed nothing
        return []
    found = [value >> shift & _LOW_32 for network, shift in _EMBEDDING if address in network]
    if address in _TEREDO:
        found.append(~value & _LOW_32)
    if value >> 32 & _ISATAP_MASK == _ISATAP:
        found.append(value & _LOW_32)
    return [IPv4Address(embedded) for embedded in found]
