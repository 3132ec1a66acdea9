"""The URL of a callback: read strictly, and written in one way only.

Parsers of URLs disagree, and each disagreement is a hole: what one checks is not where another
connects. So this one knows little and refuses the rest, and hands on a text that all read alike.
`urllib` is no help: it removes tabs and line breaks instead of refusing them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import quote

import idna

from umbel_config.errors import InvalidInput

#: Longest URL of a callback, in characters, before and after it is normalised.
MAX_URL_LENGTH = 2048
#: URLs that are not read again for each attempt.
_REMEMBERED = 4096
_MAX_HOST, _MAX_LABEL, _MAX_PORT = 253, 63, 65_535
_DEFAULT_PORTS = {"http": 80, "https": 443}

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\xa0\\\ud800-\udfff]|\s")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")
# What the WHATWG URL standard takes for the end of an IPv4 address, however odd.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_ASCII = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackUrl:
    """A URL that is well formed; whether callbacks may go there is the guard's to say.

    Attributes:
        url: the whole of it, in ASCII; path and query are as they were given. Send it without
            quoting it again.
        scheme: ``http`` or ``https``.
        host: the name in lower case, in ASCII and without a last dot, or an IP address.
        port: the port, even where it is the scheme's own.
        receiver: the authority in ``url``: ``host`` or ``host:port``, IPv6 in brackets.
        literal: the IP address that stands in place of a name.
    """

    url: str
    scheme: str
    host: str
    port: int
    receiver: str
    literal: IPv4Address | IPv6Address | None


def parse_url(text: str) -> CallbackUrl:
    """Reads the URL of a callback.

    Raises:
        InvalidInput: the text is no URL with a scheme http or https, or it holds something that has
            no place in the URL of a callback. The message never shows path, query or credentials.
    """
    if not isinstance(text, str):
        raise InvalidInput(f"The URL of a callback is text, not {type(text).__name__}.")
    return _parsed(text)


@lru_cache(_REMEMBERED)
def _parsed(text: str) -> CallbackUrl:
    scheme, authority, rest = _split(text)
    if "@" in authority:
        raise InvalidInput("The URL of a callback holds no user and no password; leave them out.")
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise InvalidInput("A callback's URL has a bad port or host; write https://HOST:PORT/PATH.")
    host, literal = parse_host(match["host"])
    port = int(match["port"] or _DEFAULT_PORTS[scheme])
    if not 1 <= port <= _MAX_PORT:
        raise InvalidInput(f"A callback's URL has a bad port; ports are 1 to {_MAX_PORT}.")
    bracketed = f"[{host}]" if ":" in host else host
    receiver = bracketed if port == _DEFAULT_PORTS[scheme] else f"{bracketed}:{port}"
    url = f"{scheme}://{receiver}{_path(rest)}"
    if len(url) > MAX_URL_LENGTH:
        raise InvalidInput(f"A callback's URL has at most {MAX_URL_LENGTH} characters, quoted.")
    return CallbackUrl(
        url=url, scheme=scheme, host=host, port=port, receiver=receiver, literal=literal
    )


def parse_host(text: str) -> tuple[str, IPv4Address | IPv6Address | None]:
    """Reads a host: a name, four decimal numbers, or an IPv6 address in brackets.

    Returns:
        The host in its one form, without brackets, and the address if it is one.

    Raises:
        InvalidInput: it is none of these.
    """
    if text.startswith("["):
        address = _ipv6(text)
        return address.compressed, address
    if "%" in text:
        raise InvalidInput("A callback's host is written without percent signs.")
    name = _ascii(text)
    # Read twice, so that no text passes that a resolver would take for an address: 127.1, 0x7f.1.
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        literal = _ipv4(name, text)
        return str(literal), literal
    _check_name(name)
    return name, None


def _split(text: str) -> tuple[str, str, str]:
    if len(text) > MAX_URL_LENGTH:
        raise InvalidInput(f"A callback's URL has at most {MAX_URL_LENGTH} characters.")
    if _FORBIDDEN.search(text):
        raise InvalidInput("A callback's URL has no blanks, control characters or backslashes.")
    if "#" in text:
        raise InvalidInput("A callback's URL has no fragment; leave out # and what follows.")
    match = _URL.fullmatch(text)
    if match is None or match["scheme"].lower() not in _DEFAULT_PORTS:
        raise InvalidInput("A callback's URL starts with https://, or with http:// if allowed.")
    return match["scheme"].lower(), match["authority"], match["rest"]


def _path(rest: str) -> str:
    quoted = quote(rest, safe=_ASCII)
    return quoted if quoted.startswith("/") else f"/{quoted}"


def _ascii(text: str) -> str:
    if not text:
        raise InvalidInput("A callback's URL names no host; write https://HOST/PATH.")
    if not text.isascii():
        try:
            text = idna.encode(text, uts46=True, transitional=False, std3_rules=True).decode()
        except UnicodeError:
            raise InvalidInput("A callback's host is no valid international name.") from None
    return text.lower().removesuffix(".")


def _ipv6(text: str) -> IPv6Address:
    try:
        address = IPv6Address(text[1:-1])
    except AddressValueError:
        raise InvalidInput("A callback's host is in brackets, but is no IPv6 address.") from None
    if address.scope_id is not None:
        raise InvalidInput("A callback's IPv6 address has a zone; leave out % and what follows.")
    return address


def _ipv4(name: str, given: str) -> IPv4Address:
    try:
        address = IPv4Address(name)
    except AddressValueError:
        address = None
    if address is None or str(address) != name or not given.isascii():
        raise InvalidInput(
            "A callback's host ends in a number, but is no IPv4 address: write the address as four "
            "decimal numbers."
        )
    return address


def _check_name(name: str) -> None:
    if len(name) > _MAX_HOST:
        raise InvalidInput(f"A callback's host has at most {_MAX_HOST} characters.")
    for label in name.split("."):
        if not label or len(label) > _MAX_LABEL:
            raise InvalidInput(
                f"Between the dots of a callback's host are 1 to {_MAX_LABEL} characters."
            )
        if not _LABEL.fullmatch(label) or (label.startswith("xn--") and not _is_idna(label)):
            raise InvalidInput(
                "A callback's host consists of letters, digits, hyphens and dots; give the name "
                "that its DNS record has."
            )


def _is_idna(label: str) -> bool:
    try:
        return idna.alabel(idna.ulabel(label)).decode() == label
    except UnicodeError:
        return False
