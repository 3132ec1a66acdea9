"""The table of special-purpose networks, edge by edge, and addresses inside addresses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis.strategies import ip_addresses

from umbel_callbacks.addresses import SPECIAL, Refusal, own_refusal, parts, refusal

PRIVATE = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "::1/128",
    "fc00::/7",
]
NEVER = [
    "0.0.0.0/8",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "::2/128",
    "::ffff:0:0/96",
    "::ffff:0:0:0/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/23",
    "2001::/32",
    "2001:2::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "3fff::/20",
    "5f00::/16",
    "fd00:ec2::/32",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]
#: The addresses just outside the networks above, where those are public.
OUTSIDE = [
    "1.0.0.0",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.1.255",
    "192.0.3.0",
    "192.31.195.255",
    "192.31.197.0",
    "192.52.192.255",
    "192.52.194.0",
    "192.88.98.255",
    "192.88.100.0",
    "192.167.255.255",
    "192.169.0.0",
    "192.175.47.255",
    "192.175.49.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "2000::",
    "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001:200::",
    "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001:db9::",
    "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "2003::",
    "2620:4f:7fff:ffff:ffff:ffff:ffff:ffff",
    "2620:4f:8001::",
    "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "3fff:1000::",
    "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
]


@pytest.mark.parametrize("network", PRIVATE)
def test_all_of_a_private_network_is_private(network: str) -> None:
    for address in (ip_network(network)[0], ip_network(network)[-1]):
        refused = refusal(address)
        assert refused is not None
        assert (refused.kind, str(refused.network)) == ("private", network)


@pytest.mark.parametrize("network", NEVER)
def test_all_of_a_special_network_is_for_no_receiver(network: str) -> None:
    for address in (ip_network(network)[0], ip_network(network)[-1]):
        refused = refusal(address)
        assert refused is not None
        assert refused.kind == "never", address


@pytest.mark.parametrize("address", OUTSIDE)
def test_the_neighbours_of_a_special_network_are_public(address: str) -> None:
    assert refusal(ip_address(address)) is None


@pytest.mark.parametrize("row", SPECIAL, ids=str)
def test_the_addresses_around_a_row_fall_under_other_rows_or_none(row: Refusal) -> None:
    network = row.network
    for value in (int(network[0]) - 1, int(network[-1]) + 1):
        if 0 <= value < 2**network.max_prefixlen:
            outside = (IPv4Address if network.version == 4 else IPv6Address)(value)
            assert own_refusal(outside) != row
    assert own_refusal(network[0]) is not None
    assert own_refusal(network[-1]) is not None


@pytest.mark.parametrize(
    "address",
    [
        "1::1",
        "64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff",
        "64:ff9b:0:0:0:1::",
        "100:0:0:2::",
        "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "4000::",
        "5eff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "8000::1",
        "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "fe00::1",
    ],
)
def test_ipv6_outside_of_global_unicast_is_refused(address: str) -> None:
    refused = refusal(ip_address(address))
    assert refused is not None
    assert refused.kind == "never"


WRAPPERS = {
    "mapped": "::ffff:{0:02x}{1:02x}:{2:02x}{3:02x}",
    "translated": "::ffff:0:{0:02x}{1:02x}:{2:02x}{3:02x}",
    "compatible": "::{0:02x}{1:02x}:{2:02x}{3:02x}",
    "nat64": "64:ff9b::{0:02x}{1:02x}:{2:02x}{3:02x}",
    "6to4": "2002:{0:02x}{1:02x}:{2:02x}{3:02x}::1",
    "teredo server": "2001:0:{0:02x}{1:02x}:{2:02x}{3:02x}:0:ffff:f7f7:f7f7",
    "isatap": "2a00:1450:4001:1::5efe:{0:02x}{1:02x}:{2:02x}{3:02x}",
    "isatap, universal": "2a00:1450:4001:1:200:5efe:{0:02x}{1:02x}:{2:02x}{3:02x}",
    "isatap, group": "2a00:1450:4001:1:300:5efe:{0:02x}{1:02x}:{2:02x}{3:02x}",
}


@pytest.mark.parametrize("inner", ["127.0.0.1", "169.254.169.254", "10.1.2.3", "8.8.8.8"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_embedded_address_is_found(wrapper: str, inner: str) -> None:
    address = ip_address(WRAPPERS[wrapper].format(*IPv4Address(inner).packed))
    assert parts(address)[:2] == (address, IPv4Address(inner))
    if inner != "8.8.8.8":
        assert refusal(address) is not None


def test_the_client_in_a_teredo_address_is_found_behind_its_mask() -> None:
    address = ip_address("2001:0:808:808:0:ffff:80ff:fffe")
    assert parts(address) == (address, IPv4Address("8.8.8.8"), IPv4Address("127.0.0.1"))


def test_nat64_and_isatap_of_public_addresses_are_public() -> None:
    assert refusal(ip_address("64:ff9b::8.8.8.8")) is None
    assert refusal(ip_address("2a00:1450:4001:1::5efe:8.8.8.8")) is None


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("64:ff9b::10.0.0.1", "private"),
        ("64:ff9b::169.254.169.254", "never"),
        ("::ffff:8.8.8.8", "never"),
        ("::ffff:127.0.0.1", "never"),
        ("2002:a00:1::1", "never"),
    ],
)
def test_the_worst_verdict_on_wrapper_and_content_counts(address: str, kind: str) -> None:
    refused = refusal(ip_address(address))
    assert refused is not None
    assert refused.kind == kind


@pytest.mark.parametrize("address", ["fe80::1%eth0", "2a00:1450:4001::1%1", "::1%lo"])
def test_an_address_with_a_zone_is_refused(address: str) -> None:
    refused = refusal(ip_address(address))
    assert refused is not None
    assert refused.kind == "never"


@pytest.mark.parametrize("address", ["::", "::1"])
def test_unspecified_and_loopback_embed_nothing(address: str) -> None:
    assert parts(ip_address(address)) == (ip_address(address),)


@given(ip_addresses(v=6))
def test_ipv6_is_public_only_in_global_unicast_or_behind_nat64(address: IPv6Address) -> None:
    if refusal(address) is None:
        assert int(address) >> 125 == 1 or address in ip_network("64:ff9b::/96")


def test_a_refusal_reads_well() -> None:
    assert str(refusal(ip_address("127.0.0.1"))) == "loopback, 127.0.0.0/8"
