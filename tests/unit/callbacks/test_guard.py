"""The guard: what it lets pass by default, what the allow list opens, and what it says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from umbel_callbacks.guard import Guard, ReceiverPolicy
from umbel_callbacks.urls import CallbackUrl
from umbel_config.errors import ConfigError, InvalidInput, ReceiverRefused
from umbel_config.settings import load_settings

PORTS = (443, 8443)
#: Each of them is refused by the guard of the default settings, without a lookup.
HOSTILE = [
    # http, and other schemes
    "http://hooks.example/",
    "http://hooks.example:443/",
    "http://8.8.8.8/",
    "ftp://hooks.example/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "redis://127.0.0.1:6379/0",
    "dict://127.0.0.1:6379/info",
    "data:text/plain,x",
    # ports of other services
    "https://hooks.example:22/",
    "https://hooks.example:80/",
    "https://hooks.example:6379/",
    "https://8.8.8.8:53/",
    "https://hooks.example:0/",
    "https://hooks.example:65979/",  # 443 modulo 65536
    # this machine
    "https://localhost/",
    "https://LOCALHOST/",
    "https://localhost./",
    "https://a.localhost/",
    "https://localhos\u1d57/",
    "https://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3/",
    "https://127.0.0.1/",
    "https://127.0.0.1./",
    "https://127.255.255.254/",
    "https://0.0.0.0/",
    "https://0.1.2.3/",
    "https://[::]/",
    "https://[::1]/",
    "https://[0:0:0:0:0:0:0:1]/",
    "https://[0000:0000:0000:0000:0000:0000:0000:0001]/",
    # this machine, spelt as only old resolvers read it
    "https://127.1/",
    "https://127.0.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0177.0.0.1/",
    "https://0177.0.0.01/",
    "https://017700000001/",
    "https://127.0.0.1.1/",
    "https://\u2460\u2461\u2466.0.0.1/",
    "https://\uff11\uff12\uff17.0.0.1/",
    "https://127\u30020\u30020\u30021/",
    "https://127\uff0e0\uff0e0\uff0e1/",
    "https://0/",
    "https://0x0/",
    # metadata services
    "https://169.254.169.254/latest/meta-data/",
    "https://169.254.170.2/v2/credentials",
    "https://2852039166/",
    "https://0xa9fea9fe/",
    "https://0251.0376.0251.0376/",
    "https://100.100.100.200/latest/meta-data/",
    "https://168.63.129.16/",
    "https://[fd00:ec2::254]/",
    "https://[fd20:ce::254]/",
    # private and special networks
    "https://10.0.0.1/",
    "https://172.16.0.1/",
    "https://172.31.255.255/",
    "https://192.168.1.1/",
    "https://100.64.0.1/",
    "https://192.0.0.192/",
    "https://192.0.2.1/",
    "https://198.18.0.1/",
    "https://203.0.113.7/",
    "https://224.0.0.1/",
    "https://240.0.0.1/",
    "https://255.255.255.255/",
    "https://[fc00::1]/",
    "https://[fd12:3456::1]/",
    "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[fec0::1]/",
    "https://[ff02::1]/",
    "https://[100::1]/",
    "https://[2001:db8::1]/",
    "https://[3fff::1]/",
    "https://[5f00::1]/",
    "https://[4000::1]/",
    # addresses inside addresses
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::ffff:a9fe:a9fe]/",
    "https://[::ffff:8.8.8.8]/",
    "https://[::ffff:0:7f00:1]/",
    "https://[::127.0.0.1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[64:ff9b::169.254.169.254]/",
    "https://[64:ff9b:1::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[2002:a9fe:a9fe::1]/",
    "https://[2001:0:7f00:1::]/",
    "https://[2001:0:808:808:0:ffff:80ff:fffe]/",
    "https://[2a00:1450:4001:1::5efe:7f00:1]/",
    "https://[2a00:1450:4001:1:200:5efe:a9fe:a9fe]/",
    # two readings of one text
    "https://hooks.example@127.0.0.1/",
    "https://hooks.example:443@127.0.0.1/",
    "https://127.0.0.1\\@hooks.example/",
    "https://hooks.example\\@127.0.0.1/",
    "https://127.0.0.1#@hooks.example/",
    "https://127.0.0.1 @hooks.example/",
    "https://hooks.example\t@127.0.0.1/",
    "https://127.0.0.1%2f@hooks.example/",
    "https://127.0.0.1%00.hooks.example/",
    "https://%31%32%37.0.0.1/",
    "https://127.0.0.1\uff0fhooks.example/",
    "https://hooks.example\uff20127.0.0.1/",
    "https://hooks.example\r\nHost: 127.0.0.1/",
    "https://hooks.example/x\r\nX-Injected: 1",
    "https://hooks.example/\x00",
    "https:\\\\127.0.0.1/",
    "https:127.0.0.1/",
    "https:///127.0.0.1/",
    "//127.0.0.1/",
    "\thttps://127.0.0.1/",
    "https://[::1]:443@hooks.example/",
    "https://[::1]hooks.example/",
    "https://hooks.example:443:6379/",
]


@pytest.fixture
def default() -> Guard:
    return Guard((), PORTS)


def check(guard: ReceiverPolicy, text: str, *addresses: str) -> CallbackUrl:
    """Both checks, as submitter and sender make them."""
    url = guard.check_url(text)
    guard.check_addresses(url, [ip_address(address) for address in addresses])
    return url


def test_the_table_is_long_enough() -> None:
    assert len(set(HOSTILE)) == len(HOSTILE) >= 80


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_hostile_url_is_refused(default: Guard, text: str) -> None:
    with pytest.raises(InvalidInput):
        default.check_url(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://hooks.example/x?y",
        "https://hooks.example:8443/",
        "https://8.8.8.8/",
        "https://[2a00:1450:4001::1]:8443/",
        "https://[64:ff9b::808:808]/",
        "https://notlocalhost/",
    ],
)
def test_public_receivers_need_no_setting(default: Guard, text: str) -> None:
    assert default.check_url(text).url == text


def test_settings_make_a_guard() -> None:
    guard = Guard.of(load_settings(callback_allow="a.internal,10.0.0.0/8", callback_ports="444"))
    check(guard, "http://a.internal:1/", "192.168.0.1")
    check(guard, "https://b.example:444/", "8.8.8.8")
    with pytest.raises(InvalidInput, match=r"callback_ports \(444\)"):
        Guard((), (444,)).check_url("https://b.example/")


PUBLIC = ("8.8.8.8", "2a00:1450::1")


@pytest.mark.parametrize(
    ("allow", "text", "addresses"),
    [
        # a name: any port, http, private addresses
        (["a.internal"], "http://a.internal/", ["10.0.0.1", "127.0.0.1", "::1", "fc00::1"]),
        (["a.internal"], "http://A.Internal.:9/", ["100.64.0.1", "64:ff9b::10.0.0.1"]),
        (["a.internal"], "http://a.internal/", PUBLIC),
        (["a.internal:9"], "http://a.internal:9/", ["10.0.0.1"]),
        (["b\u00fccher.example"], "http://xn--bcher-kva.example/", ["10.0.0.1"]),
        (["localhost"], "http://localhost:8000/", ["127.0.0.1", "::1"]),
        (["*.localhost"], "http://a.localhost:8000/", ["127.0.0.1"]),
        # all names below one
        (["*.internal"], "http://a.internal/", ["10.0.0.1"]),
        (["*.internal:9"], "http://a.b.internal:9/", ["10.0.0.1"]),
        # networks
        (["10.0.0.0/8"], "http://10.1.2.3:9/", ["10.1.2.3"]),
        (["10.0.0.0/8"], "http://a.internal:9/", ["10.1.2.3", "10.255.255.255"]),
        (["10.0.0.0/8"], "https://a.internal/", ["10.1.2.3", *PUBLIC]),
        (["169.254.0.0/16"], "https://a.internal/", ["169.254.1.1"]),
        (["10.0.0.1"], "http://10.0.0.1:9/", ["10.0.0.1"]),
        (["10.0.0.1:9"], "http://10.0.0.1:9/", ["10.0.0.1"]),
        (["fd00::1"], "http://[fd00::1]:9/", ["fd00::1"]),
        (["[fd00::1]"], "http://[fd00::1]:9/", ["fd00::1"]),
        (["[fd00::1]:9"], "http://[fd00::1]:9/", ["fd00::1"]),
        (["fd00::/8", "127.0.0.0/8"], "http://a.internal/", ["fd00::1", "127.0.0.1"]),
        # addresses inside addresses, both allowed
        (["10.0.0.0/8"], "https://a.internal/", ["64:ff9b::10.0.0.1"]),
        (["10.0.0.0/8", "64:ff9b::/96"], "http://a.internal/", ["64:ff9b::10.0.0.1"]),
        (["10.0.0.0/8", "::ffff:0:0/96"], "http://a.internal/", ["::ffff:10.0.0.1"]),
    ],
)
def test_the_allow_list_opens_what_it_names(
    allow: list[str], text: str, addresses: Sequence[str]
) -> None:
    check(Guard(allow, PORTS), text, *addresses)


@pytest.mark.parametrize(
    ("allow", "text", "addresses"),
    [
        ([], "https://a.internal/", ["10.0.0.1"]),
        ([], "https://a.example/", ["8.8.8.8", "127.0.0.1"]),
        ([], "https://a.example/", ["127.0.0.1", "8.8.8.8"]),
        ([], "https://a.example/", []),
        (["a.internal"], "http://a.internal/", []),
        # a name opens no addresses that are no receiver's
        (["a.internal"], "http://a.internal/", ["169.254.169.254"]),
        (["a.internal"], "http://a.internal/", ["10.0.0.1", "0.0.0.0"]),
        (["a.internal"], "http://a.internal/", ["100.100.100.200"]),
        (["a.internal"], "http://a.internal/", ["fd00:ec2::254"]),
        (["a.internal"], "http://a.internal/", ["::ffff:10.0.0.1"]),
        (["a.internal"], "http://a.internal/", ["64:ff9b::169.254.169.254"]),
        (["a.internal"], "http://a.internal/", ["fe80::1%eth0"]),
        # other names, ports and networks
        (["a.internal"], "https://b.internal/", ["10.0.0.1"]),
        (["a.internal:9"], "https://a.internal/", ["10.0.0.1"]),
        (["*.internal"], "https://internal/", ["10.0.0.1"]),
        (["*.internal"], "https://ainternal/", ["10.0.0.1"]),
        (["10.0.0.0/8"], "https://a.internal/", ["11.0.0.1", "10.0.0.1", "172.16.0.1"]),
        (["10.0.0.1:9"], "https://a.internal/", ["10.0.0.1"]),
        (["fe80::/10"], "https://a.internal/", ["fe80::1%eth0"]),
        # http and odd ports are for listed networks alone
        (["10.0.0.0/8"], "http://a.example/", ["8.8.8.8"]),
        (["10.0.0.0/8"], "http://a.example/", ["10.0.0.1", "8.8.8.8"]),
        (["10.0.0.0/8"], "https://a.example:9/", ["8.8.8.8"]),
        # addresses inside addresses, of which one is not allowed
        (["10.0.0.0/8"], "http://a.internal/", ["64:ff9b::10.0.0.1"]),
        (["10.0.0.0/8"], "https://a.internal/", ["::ffff:10.0.0.1"]),
        (["::ffff:0:0/96"], "https://a.internal/", ["::ffff:10.0.0.1"]),
        (["::/0"], "https://a.internal/", ["64:ff9b::10.0.0.1"]),
        (["::/0"], "https://a.internal/", ["2002:7f00:1::"]),
    ],
)
def test_addresses_that_the_allow_list_does_not_cover_are_refused(
    allow: list[str], text: str, addresses: list[str]
) -> None:
    guard = Guard(allow, PORTS)
    url = guard.check_url(text)
    with pytest.raises(ReceiverRefused):
        guard.check_addresses(url, [ip_address(address) for address in addresses])


@pytest.mark.parametrize(
    ("allow", "text"),
    [
        (["a.internal:9"], "http://a.internal/"),
        (["a.internal"], "http://b.internal/"),
        (["*.internal"], "http://internal/"),
        (["*.internal"], "http://internal.example/"),
        (["10.0.0.1:9"], "http://10.0.0.1/"),
        (["10.0.0.1:9"], "http://a.internal/"),
        (["10.0.0.0/8"], "http://11.0.0.1/"),
        (["10.0.0.0/8"], "http://8.8.8.8/"),
        (["10.0.0.0/8"], "https://127.0.0.1/"),
        (["127.0.0.0/8"], "https://localhost/"),
        (["::/0"], "https://[::ffff:10.0.0.1]/"),
        (["a.internal"], "https://169.254.169.254/"),
    ],
)
def test_urls_that_the_allow_list_does_not_cover_are_refused(allow: list[str], text: str) -> None:
    with pytest.raises(InvalidInput, match="callback_allow"):
        Guard(allow, PORTS).check_url(text)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        " ",
        "*",
        "*.",
        "*.*",
        "a.*",
        "*a.example",
        "a.example:",
        "a.example:0",
        "a.example:65536",
        "a.example:x",
        "a.example:1:2",
        "https://a.example",
        "a.example/x",
        "u@a.example",
        "a..example",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.0/255.0.0.0",
        "10.0.0/8",
        "10.1",
        "*.10.0.0.1",
        "fe80::1%eth0",
        "[fe80::1%eth0]",
        "[fd00::]/8",
        "[10.0.0.1]",
        "fd00::1/8",
        "fd00:::1",
    ],
)
def test_an_entry_that_cannot_be_read_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match="callback_allow"):
        Guard([entry], PORTS)


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match="callback_ports"):
        Guard([], [443, port])


HTTPS = "{0} is to be called over https; write https://, or add {0}:81, or the network of all its "
PORT = "Port 9 of a.example is not in callback_ports (443, 8443); use another port, or add "
ADDRESS = "{} leads to an address that callbacks do not go to (private use, 10.0.0.0/8); add {} "


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        (
            "http://a.example:81/s3cret?s3cret",
            HTTPS.format("a.example"),
            "addresses, to callback_allow.",
        ),
        (
            "https://a.example:9/s3cret",
            PORT,
            "a.example:9, or the network of all its addresses, to callback_allow.",
        ),
        (
            "https://10.0.0.1/s3cret",
            ADDRESS.format("10.0.0.1", "the network of its address"),
            "to callback_allow if they should.",
        ),
        (
            "https://localhost:8443/s3cret",
            "localhost is this machine; ",
            "add localhost:8443 to callback_allow to allow it.",
        ),
    ],
)
def test_a_refused_url_says_what_to_do(default: Guard, text: str, start: str, end: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        default.check_url(text)
    assert str(caught.value) == start + end


def test_a_refused_address_is_not_told_beyond_its_network(default: Guard) -> None:
    with pytest.raises(ReceiverRefused) as caught:
        check(default, "https://a.example/s3cret", "10.1.2.3")
    told = ADDRESS.format("a.example", "a.example or its network")
    assert str(caught.value) == told + "to callback_allow if they should."


def test_the_light_client_can_import_the_guard() -> None:
    code = "import sys, umbel_callbacks.guard; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert {"aiohttp", "celery", "dns", "torch"}.isdisjoint(run.stdout.split())
