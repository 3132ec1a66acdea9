"""How the URL of a callback is read: strictly, and into one form."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import pytest
import yarl
from hypothesis import example, given
from hypothesis import strategies as st

from umbel_callbacks.urls import MAX_URL_LENGTH, CallbackUrl, parse_host, parse_url
from umbel_config.errors import InvalidInput

IDEOGRAPHIC_STOP = "\u3002"
FULL_WIDTH_STOP = "\uff0e"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://a.example", "https://a.example/"),
        ("HTTPS://A.Example/", "https://a.example/"),
        ("https://a.example?x=1", "https://a.example/?x=1"),
        ("https://a.example./x", "https://a.example/x"),
        ("https://a.example:443/x", "https://a.example/x"),
        ("https://a.example:0443/x", "https://a.example/x"),
        ("https://a.example:80/x", "https://a.example:80/x"),
        ("http://a.example:80/x", "http://a.example/x"),
        ("https://b\u00fccher.example/", "https://xn--bcher-kva.example/"),
        ("https://XN--BCHER-KVA.example/", "https://xn--bcher-kva.example/"),
        ("https://fa\u00df.example/", "https://xn--fa-hia.example/"),
        (f"https://a{IDEOGRAPHIC_STOP}example/", "https://a.example/"),
        ("https://exa\u00admple.com/", "https://example.com/"),
        ("https://_hooks.r3---x.example/", "https://_hooks.r3---x.example/"),
        ("https://redis/", "https://redis/"),
        ("https://8.8.8.8./", "https://8.8.8.8/"),
        ("https://[2A00:0:0::1]:8443/", "https://[2a00::1]:8443/"),
        ("https://a.example/\u00fc?\u00e9=\u20ac", "https://a.example/%C3%BC?%C3%A9=%E2%82%AC"),
    ],
)
def test_a_url_has_one_form(given: str, url: str) -> None:
    assert parse_url(given).url == url
    assert parse_url(url).url == url


@pytest.mark.parametrize(
    "rest",
    [
        "/a/../b/./c",
        "//a//b",
        "/%2e%2E/%0d%0a%00",
        "/%zz%",
        "/a;b=c?d=e&d=f?g=/h@i:j",
        "/'\"<>^`{|}~!*()[]",
        "/?",
        "/@b.example/",
    ],
)
def test_path_and_query_stay_as_they_are(rest: str) -> None:
    assert parse_url(f"https://a.example{rest}").url == f"https://a.example{rest}"


def test_all_parts_of_a_url() -> None:
    assert parse_url("http://Hooks.Example:8080/x?y") == CallbackUrl(
        url="http://hooks.example:8080/x?y",
        scheme="http",
        host="hooks.example",
        port=8080,
        receiver="hooks.example:8080",
        literal=None,
    )


@pytest.mark.parametrize(
    ("given", "host", "receiver"),
    [
        ("https://8.8.8.8:443/", "8.8.8.8", "8.8.8.8"),
        ("https://[2a00::1]/", "2a00::1", "[2a00::1]"),
        ("https://[2a00::1]:1/", "2a00::1", "[2a00::1]:1"),
        ("https://[::ffff:7f00:1]/", None, None),
    ],
)
def test_an_address_is_known_as_one(given: str, host: str | None, receiver: str | None) -> None:
    url = parse_url(given)
    assert url.literal == ip_address(url.host)
    if host is not None:
        assert (url.host, url.receiver) == (host, receiver)


@pytest.mark.parametrize("value", [None, b"https://a.example/", 7, ["https://a.example/"]])
def test_what_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="is text, not"):
        parse_url(value)


@pytest.mark.parametrize("code", [*range(0x21), *range(0x7F, 0xA1), 0x2028, 0x3000, 0xD800, 0x5C])
@pytest.mark.parametrize("place", ["{}https://a.example/", "https://a{}.example/", "https://a/b{}"])
def test_blanks_controls_and_backslashes_are_refused_anywhere(code: int, place: str) -> None:
    with pytest.raises(InvalidInput, match="no blanks"):
        parse_url(place.format(chr(code)))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example",
        "//a.example/",
        "https:a.example",
        "https:/a.example",
        "ftp://a.example/",
        "file:///etc/passwd",
        "gopher://a.example/",
        "javascript:alert(1)",
        "unix://a/b",
        "httpss://a.example/",
        "\uff48ttps://a.example/",
        "https\uff1a//a.example/",
        "https://",
        "https:///x",
        "https://?x",
        "https://:443/",
        "https://./",
        "https://../",
        "https://a..example/",
        "https://.a.example/",
        "https://a.example../",
        f"https://{'a' * 64}.example/",
        f"https://{'a.' * 126}aa/",
        "https://-a.example/",
        "https://a-.example/",
        "https://a.example:/",
        "https://a.example:0/",
        "https://a.example:65536/",
        "https://a.example:000443/",
        "https://a.example:+443/",
        "https://a.example:-1/",
        "https://a.example:4_43/",
        "https://a.example:0x1bb/",
        "https://a.example:https/",
        "https://a.example:443:443/",
        "https://a.example:\u0664\u0664\u0663/",
        "https://a.example:\uff14\uff14\uff13/",
        "https://u@a.example/",
        "https://u:p@a.example/",
        "https://@a.example/",
        "https://:@a.example/",
        "https://a.example@b.example/",
        "https://a.example\uff20b.example/",
        "https://a.example/#",
        "https://a.example/#x",
        "https://a.example#@b.example/",
        "https://%61.example/",
        "https://a%2eexample/",
        "https://a.example%00.b.example/",
        "https://a.example%20/",
        "https://a%40b.example/",
        "https://127.0.0.1%2f.example/",
        "https://a.example\uff0fb/",
        "https://a.example\uff1fb/",
        "https://a.example\u2100b/",
        "https://xn--/",
        "https://xn--a.example/",
        "https://xn--zzzzzzz99.example/",
        "https://\u2488.example/",
        "https://a\u202e.example/",
        "https://a,b.example/",
        "https://a!b.example/",
        "https://*.example/",
        "https://a;b.example/",
        "https://a\u007cb.example/",
        "https://<a>.example/",
        "https://a.example]/",
        "https://[a.example]/",
        "https://[]/",
        "https://[::1/",
        "https://::1/",
        "https://2a00::1/",
        "https://[::1]x/",
        "https://[::1]:x/",
        "https://[[::1]]/",
        "https://[fe80::1%eth0]/",
        "https://[fe80::1%25eth0]/",
        "https://[v1.a]/",
        "https://[127.0.0.1]/",
        "https://[::127.0.1]/",
        "https://[1:2:3:4:5:6:7:8:9]/",
    ],
)
def test_a_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        parse_url(url)


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "127.0.1",
        "2130706433",
        "0177.0.0.1",
        "0x7f.1",
        "0x7f.0x0.0x0.0x1",
        "0x7f000001",
        "0X7F000001",
        "0x",
        "017700000001",
        "127.0.0.01",
        "127.0.0.0x1",
        "127.0.0.1.1",
        "127.0.0.256",
        "127.0.0.1..",
        "a.example.1",
        "a.0x7f",
        "1.2.3.09",
        "0",
        "\u2460\u2461\u2466.0.0.1",
        "\uff11\uff12\uff17.0.0.1",
        f"127{IDEOGRAPHIC_STOP}0{IDEOGRAPHIC_STOP}0{IDEOGRAPHIC_STOP}1",
        f"127{FULL_WIDTH_STOP}0{FULL_WIDTH_STOP}0{FULL_WIDTH_STOP}1",
        "\u0661\u0662\u0667.0.0.1",
        "127.0.0.1\u00ad",
    ],
)
def test_a_host_that_a_resolver_may_take_for_an_address_is_refused(host: str) -> None:
    with pytest.raises(InvalidInput):
        parse_url(f"https://{host}/")


def test_the_length_counts_before_and_after_quoting() -> None:
    start = "https://a.example/"
    assert parse_url(start + "x" * (MAX_URL_LENGTH - len(start)))
    for path in ("x" * (MAX_URL_LENGTH - len(start) + 1), "\u20ac" * 300):
        with pytest.raises(InvalidInput, match="2048"):
            parse_url(start + path)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:s3cret@a.example/s3cret",
        "https://user:s3cret/@a.example",
        "https://a.example/s3cret?s3cret#s3cret",
        "https://a.example:x/s3cret",
        "s3cret://a.example/",
        "https://a.example/s3cret " + "s3cret",
        "https://[s3cret]/s3cret",
        "https://s3cret%41/",
    ],
)
def test_no_message_shows_a_secret(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_url(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_host_alone_is_read_like_that_of_a_url() -> None:
    assert parse_host("B\u00fccher.example") == ("xn--bcher-kva.example", None)
    assert parse_host("[::1]") == ("::1", ip_address("::1"))
    assert parse_host("10.0.0.1") == ("10.0.0.1", ip_address("10.0.0.1"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://u:p@a.example/", "no user and no password"),
        ("https://a%2eexample/", "without percent signs"),
        ("https://a.example/#x", "no fragment"),
        ("https://127.1/", "four decimal numbers"),
        ("https://[fe80::1%eth0]/", "has a zone"),
        ("https://a.example:x/", "bad port"),
        ("https:///x", "names no host"),
        ("ftp://a.example/", "starts with https://"),
    ],
)
def test_a_message_says_what_is_wrong(url: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_url(url)


_TEXT = st.text(alphabet="aA1.:/@%[]\\#?x0\u3002\u2460\u00fc-_ \t", max_size=20)


@given(_TEXT)
@example("a.example:8443//b@c:1/[d]")
def test_other_parsers_see_the_host_that_was_judged(rest: str) -> None:
    try:
        url = parse_url(f"https://{rest}")
    except InvalidInput:
        return
    sent = yarl.URL(url.url, encoded=True)
    assert (sent.scheme, sent.raw_host, sent.port) == (url.scheme, url.host, url.port)
    before, mark, after = url.url.partition("?")
    assert str(sent) == before + (mark + after if after else "")  # yarl drops an empty query
    parted = urlsplit(url.url)
    assert (parted.hostname, parted.port or 443, parted.username) == (url.host, url.port, None)
