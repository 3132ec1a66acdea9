"""What a Redis URL says, read once and strictly: for redis-py and for Celery's broker alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from umbel_config.errors import ConfigError

DEFAULT_PORT = 6379

_KINDS: Mapping[str, Literal["tcp", "tls", "unix"]] = {
    "redis": "tcp",
    "rediss": "tls",
    "unix": "unix",
    "redis+socket": "unix",
}
#: Options of a URL that both redis-py and kombu understand. Timeouts and retries are settings.
_TLS_OPTIONS = frozenset(
    {
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_keyfile",
    }
)
_TLS_CHECKS = ("required", "optional", "none")
_FORMS = "redis://host:6379/0, rediss://host:6379/0 or unix:///path/to/redis.sock?db=0"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """Where a Redis is and who we are there; its ``repr`` shows no password.

    Attributes:
        kind: ``tcp``, ``tls`` or ``unix``.
        host: host name or address; empty for a Unix socket.
        port: TCP port; 0 for a Unix socket.
        path: path of the Unix socket; empty otherwise.
        db: number of the database.
        tls: the ``ssl_*`` options of the URL, as text.
    """

    kind: Literal["tcp", "tls", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Mapping[str, str] = field(default_factory=dict)

    @property
    def masked(self) -> str:
        """The address as a URL fit for a log: no password."""
        secret = "***" if self.password else None
        return self._url("unix", "db", secret, {})

    @property
    def broker_url(self) -> str:
        """The address as kombu 5.7 reads it, passwords included.

        kombu knows no ``unix://``, takes the database of a socket from ``virtual_host``, and
        checks no certificate unless ``ssl_cert_reqs`` is spelled out.
        """
        secret = None if self.password is None else quote(self.password, safe="")
        tls = {"ssl_cert_reqs": "required", **self.tls} if self.kind == "tls" else {}
        return self._url("redis+socket", "virtual_host", secret, tls)

    def client_options(self) -> dict[str, Any]:
        """Keyword arguments of a redis-py connection to this address, without its class."""
        place = {"path": self.path} if self.kind == "unix" else self._host_and_port()
        options: dict[str, Any] = {"db": self.db, **place, **self.tls}
        if "ssl_check_hostname" in options:
            options["ssl_check_hostname"] = options["ssl_check_hostname"] == "true"
        if self.username:
            options["username"] = self.username
        if self.password:
            options["password"] = self.password
        return options

    def _host_and_port(self) -> dict[str, Any]:
        return {"host": self.host, "port": self.port}

    def _url(self, socket_scheme: str, db_option: str, secret: str | None, tls: Any) -> str:
        user = quote(self.username or "", safe="")
        who = f"{user}:{secret}@" if secret else (f"{user}@" if user else "")
        if self.kind == "unix":
            return f"{socket_scheme}://{who}{quote(self.path)}?{db_option}={self.db}"
        host = f"[{self.host}]" if ":" in self.host else quote(self.host, safe="")
        scheme = "rediss" if self.kind == "tls" else "redis"
        options = f"?{urlencode(tls)}" if tls else ""
        return f"{scheme}://{who}{host}:{self.port}/{self.db}{options}"


def parse_address(url: str) -> RedisAddress:
    """Reads a Redis URL.

    Args:
        url: ``redis://``, ``rediss://`` (TLS), ``unix://`` or kombu's ``redis+socket://``. Special
            characters of user and password are percent-encoded.

    Raises:
        ConfigError: the URL is malformed, of another scheme, or carries an unknown option.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        # The reason is not repeated: urllib quotes the part it stumbled over, maybe a password.
        raise ConfigError(
            "The Redis URL is malformed. Write " + _FORMS + "; characters such as / @ : # in a "
            "password must be percent-encoded."
        ) from None
    kind = _KINDS.get(parts.scheme)
    if kind is None:
        raise ConfigError(f"The Redis URL has no known scheme. Write {_FORMS}.")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    place = (
        _socket(parts.path, options, host)
        if kind == "unix"
        else {"host": unquote(host or "localhost"), "port": port or DEFAULT_PORT}
    )
    named_db = "" if kind == "unix" else parts.path.strip("/")
    return RedisAddress(
        kind=kind,
        **place,
        db=_db(options.pop("db", named_db)),
        username=unquote(parts.username or "") or options.pop("username", None),
        password=unquote(parts.password or "") or options.pop("password", None),
        tls=_tls(kind, options),
    )


def _socket(path: str, options: dict[str, str], host: str | None) -> dict[str, Any]:
    if host or not path.strip("/"):
        raise ConfigError(
            "The Redis URL of a Unix socket needs an absolute path after three slashes: "
            "unix:///path/to/redis.sock?db=0."
        )
    if "virtual_host" in options:
        options.setdefault("db", options.pop("virtual_host"))
    return {"path": unquote(path)}


def _db(text: str) -> int:
    if text and not text.isdecimal():
        raise ConfigError(
            f"The database in the Redis URL must be a number such as 0, not {text!r}."
        )
    return int(text or 0)


def _tls(kind: str, options: dict[str, str]) -> dict[str, str]:
    known = _TLS_OPTIONS if kind == "tls" else frozenset()
    unknown = sorted(set(options) - known)
    if unknown:
        raise ConfigError(
            f"The Redis URL has options that umbel does not take: {', '.join(unknown)}. "
            "Timeouts and retries are settings (redis_timeout_s, redis_retries); "
            "ssl_* options go with rediss://."
        )
    if "ssl_cert_reqs" in options:
        options["ssl_cert_reqs"] = options["ssl_cert_reqs"].lower().removeprefix("cert_")
        _one_of("ssl_cert_reqs", options, _TLS_CHECKS)
    if "ssl_check_hostname" in options:
        options["ssl_check_hostname"] = options["ssl_check_hostname"].lower()
        _one_of("ssl_check_hostname", options, ("true", "false"))
    return options


def _one_of(name: str, options: Mapping[str, str], allowed: tuple[str, ...]) -> None:
    if options[name] not in allowed:
        raise ConfigError(f"{name} in the Redis URL must be one of: {', '.join(allowed)}.")
