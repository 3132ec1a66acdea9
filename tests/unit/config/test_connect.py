"""Redis clients: explicit timeouts, retries and addresses; verdicts on servers."""

from __future__ import annotations

from typing import Any

import pytest
import redis
import redis.asyncio
from redis.exceptions import TimeoutError as RedisTimeoutError

from umbel_config.connect import MAX_BLOCK_S, Purpose, connect, connect_async
from umbel_config.errors import ConfigError, StoreUnsuitable
from umbel_config.server import address_of, judge, parse_version
from umbel_config.settings import Settings, load_settings

MAKERS = pytest.mark.parametrize("make", [connect, connect_async])


def options(client: redis.Redis | redis.asyncio.Redis) -> dict[str, Any]:
    return client.connection_pool.connection_kwargs


@MAKERS
@pytest.mark.parametrize(
    ("purpose", "seconds"), [("command", 7.0), ("blocking", 7.0 + MAX_BLOCK_S), ("pubsub", None)]
)
def test_read_timeout_follows_the_purpose(
    make: Any, purpose: Purpose, seconds: float | None
) -> None:
    settings = load_settings(redis_url="redis://store", redis_timeout_s=7.0)
    assert options(make(settings, purpose=purpose))["socket_timeout"] == seconds


@MAKERS
def test_everything_that_redis_py_would_guess_is_set(make: Any) -> None:
    settings = load_settings(redis_url="redis://store", redis_retries=5, redis_connect_timeout_s=2)
    client = make(settings, client_name="umbel-test")
    given = options(client)
    assert given["socket_connect_timeout"] == 2
    assert given["socket_keepalive"] is True
    assert given["health_check_interval"] == 30
    assert given["decode_responses"] is False
    assert given["protocol"] == 2
    assert given["client_name"] == "umbel-test"
    connection = client.connection_pool.connection_class(
        **{name: value for name, value in given.items() if "maint" not in name}
    )
    assert connection.retry.get_retries() == 5
    assert RedisTimeoutError in connection.retry._supported_errors


@MAKERS
def test_retries_can_be_overridden(make: Any) -> None:
    assert options(make("redis://store", retries=0))["retry"].get_retries() == 0


@MAKERS
@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://store", "Connection"),
        ("rediss://store", "SSLConnection"),
        ("unix:///s.sock", "UnixDomainSocketConnection"),
        ("redis+socket:///s.sock?virtual_host=1", "UnixDomainSocketConnection"),
    ],
)
def test_scheme_chooses_the_connection(make: Any, url: str, kind: str) -> None:
    assert make(url).connection_pool.connection_class.__name__ == kind


@MAKERS
def test_tls_options_reach_the_connection(make: Any) -> None:
    client = make("rediss://store?ssl_ca_certs=ca.pem&ssl_check_hostname=true&ssl_certfile=c.pem")
    connection = client.connection_pool.make_connection()
    if isinstance(client, redis.asyncio.Redis):
        connection = connection.ssl_context
    assert connection.ca_certs == "ca.pem"
    assert connection.certfile == "c.pem"
    assert connection.check_hostname is True
    assert connection.cert_reqs.name == "CERT_REQUIRED"


@MAKERS
def test_bare_url_takes_default_timeouts_whatever_the_environment(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UMBEL_REDIS_TIMEOUT_S", "1")
    assert options(make("redis://store"))["socket_timeout"] == 10.0


@MAKERS
def test_settings_without_url_are_refused_with_the_remedy(make: Any) -> None:
    with pytest.raises(ConfigError, match="UMBEL_REDIS_URL"):
        make(Settings.model_construct())


@MAKERS
@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://me:hunter2@store:1/2", "redis://me:***@store:1/2"),
        ("rediss://store", "rediss://store:6379/0"),
        ("unix://:hunter2@/s.sock?db=1", "unix://:***@/s.sock?db=1"),
    ],
)
def test_address_of_a_client_is_masked(make: Any, url: str, masked: str) -> None:
    assert address_of(make(url)) == masked


def facts(**changes: object) -> dict[str, object]:
    return {
        "redis_version": "7.2.4",
        "redis_mode": "standalone",
        "role": "master",
        "maxmemory": 0,
        "maxmemory_policy": "noeviction",
        "aof_enabled": 1,
    } | changes


def test_good_server_passes_without_warnings() -> None:
    info = judge("redis://store", facts(redis_version="6.2.0", maxmemory=1024))
    assert (info.version, info.maxmemory, info.aof, info.warnings) == ("6.2.0", 1024, True, ())
    assert not info.is_valkey


def test_valkey_is_told_apart() -> None:
    assert judge("redis://store", facts(server_name="valkey")).is_valkey


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"maxmemory_policy": "allkeys-lru"}, "maxmemory-policy is allkeys-lru"),
        ({"aof_enabled": 0}, "appendonly is off"),
    ],
)
def test_what_endangers_jobs_is_warned_about(changes: dict[str, object], named: str) -> None:
    warnings = judge("redis://store", facts(**changes)).warnings
    assert len(warnings) == 1
    assert warnings[0].startswith(named)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"redis_version": "6.0.20"}, r"version 6\.0\.20; umbel needs Redis 6\.2"),
        ({"redis_version": ""}, "version unknown"),
        ({"redis_mode": "sentinel"}, "runs as sentinel"),
        ({"redis_mode": "cluster"}, "single primary"),
        ({"role": "slave"}, "read-only replica"),
    ],
)
def test_unsuitable_server_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(StoreUnsuitable, match=reason):
        judge("redis://store", facts(**changes))


def test_versions_are_compared_as_numbers() -> None:
    assert parse_version("6.10.1") > parse_version("6.2.14")
    assert parse_version("8.0.1-rc2") == (8, 0)
    assert parse_version("") == ()
