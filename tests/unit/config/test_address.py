"""Redis URLs: what is read from them, what is refused, and what kombu makes of our answer."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from umbel_config.address import RedisAddress, parse_address
from umbel_config.connect import celery_broker_url
from umbel_config.errors import ConfigError

# Only parts of kombu are typed, so it is taken as it comes.
Connection: Any = import_module("kombu").Connection


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://", {"host": "localhost", "port": 6379, "db": 0}),
        ("redis://store:6380/3", {"host": "store", "port": 6380, "db": 3}),
        ("redis://[::1]:6380", {"host": "::1", "port": 6380, "db": 0}),
        ("redis://store?db=4", {"host": "store", "port": 6379, "db": 4}),
        (
            "redis://me:p%40ss%2Fword@store",
            {"host": "store", "port": 6379, "db": 0, "username": "me", "password": "p@ss/word"},
        ),
        ("redis://:pw@store", {"host": "store", "port": 6379, "db": 0, "password": "pw"}),
        ("unix:///run/my%20redis.sock?db=2", {"path": "/run/my redis.sock", "db": 2}),
        ("unix:///s.sock?password=pw", {"path": "/s.sock", "db": 0, "password": "pw"}),
        ("unix://me:pw@/s.sock", {"path": "/s.sock", "db": 0, "username": "me", "password": "pw"}),
        ("redis+socket:///s.sock?virtual_host=5", {"path": "/s.sock", "db": 5}),
        (
            "rediss://store?ssl_cert_reqs=CERT_NONE&ssl_check_hostname=False",
            {
                "host": "store",
                "port": 6379,
                "db": 0,
                "ssl_cert_reqs": "none",
                "ssl_check_hostname": False,
            },
        ),
    ],
)
def test_address_becomes_client_options(url: str, options: dict[str, Any]) -> None:
    assert parse_address(url).client_options() == options


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "no known scheme"),
        ("store:6379", "no known scheme"),
        ("http://store", "no known scheme"),
        ("sentinel://store:26379", "no known scheme"),
        ("redis://store:port/0", "malformed"),
        ("redis://:hunter2/x@store:6379", "percent-encoded"),
        ("redis://[::1/0", "malformed"),
        ("redis://store/zero", "must be a number"),
        ("redis://store/-1", "must be a number"),
        ("redis://store?socket_timeout=1", "socket_timeout"),
        ("redis://store?ssl_cert_reqs=none", "rediss://"),
        ("rediss://store?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
        ("rediss://store?ssl_check_hostname=perhaps", "ssl_check_hostname"),
        ("unix://", "absolute path"),
        ("unix://relative/redis.sock", "absolute path"),
    ],
)
def test_bad_url_is_explained_without_its_password(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        parse_address(url)
    assert "hunter2" not in str(caught.value)


def test_repr_and_masked_show_no_password() -> None:
    address = parse_address("rediss://me:hunter2@store:6380/1?ssl_ca_certs=ca.pem")
    assert "hunter2" not in repr(address)
    assert address.masked == "rediss://me:***@store:6380/1"
    assert parse_address("redis://store").masked == "redis://store:6379/0"
    assert RedisAddress(kind="unix", path="/s.sock", db=2).masked == "unix:///s.sock?db=2"


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("redis://store", "redis://store:6379/0"),
        ("redis://me:p%40@store:1/2", "redis://me:p%40@store:1/2"),
        ("redis://[::1]", "redis://[::1]:6379/0"),
        ("unix:///s.sock", "redis+socket:///s.sock?virtual_host=0"),
        ("unix://:p%2F@/a%20b.sock?db=3", "redis+socket://:p%2F@/a%20b.sock?virtual_host=3"),
        ("rediss://store", "rediss://store:6379/0?ssl_cert_reqs=required"),
        (
            "rediss://store?ssl_cert_reqs=none",
            "rediss://store:6379/0?ssl_cert_reqs=none",
        ),
    ],
)
def test_broker_url(url: str, broker: str) -> None:
    assert celery_broker_url(url) == broker


@pytest.mark.parametrize(
    "url",
    [
        "redis://store:6380/3",
        "redis://me:p%40ss%2Fw%3Bord@store",
        "redis://:pw@[::1]:6380/1",
        "unix:///run/my%20redis.sock?db=2",
        "unix://me:p%40ss%3B@/s.sock",
        "rediss://store",
        "rediss://store?ssl_ca_certs=ca.pem&ssl_check_hostname=false&ssl_cert_reqs=optional",
    ],
)
def test_kombu_reads_the_same_address(url: str) -> None:
    ours = parse_address(url)
    connection = Connection(celery_broker_url(url))
    transport = connection.transport
    channel = transport.Channel.__new__(transport.Channel)
    channel.connection = transport
    theirs = transport.Channel._connparams(channel)
    for name, value in ours.client_options().items():
        if name != "ssl_cert_reqs":
            assert theirs[name] == value, name
    assert theirs["password"] == ours.password
    assert ours.password is None or ours.password not in connection.as_uri()


def test_broker_checks_certificates_unless_told_otherwise() -> None:
    import ssl

    assert Connection(celery_broker_url("rediss://store")).ssl == {
        "ssl_cert_reqs": ssl.CERT_REQUIRED
    }
