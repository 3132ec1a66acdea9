"""Signatures: what is signed here is verified by the standard's own library, no more."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from umbel_callbacks.signing import Secrets, new_secret, sign, verify
from umbel_config.callback_settings import CallbackSettings
from umbel_config.errors import ConfigError, SignatureInvalid

NOW = 1_700_000_000
BODY = b'{"type":"job.succeeded","data":{"output":[1.5,null,"\xc3\xa9"]}}'
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(bytes(range(64))).decode()

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
ids = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)


def keys(*secrets: str) -> tuple[bytes, ...]:
    return Secrets(secrets).for_host("app.example.com")


def signed(*secrets: str, body: bytes = BODY, timestamp: float = NOW) -> dict[str, str]:
    return sign(keys(*secrets), "k3f9x2ab-0193", timestamp, body)


def test_the_example_of_the_standard() -> None:
    body = b'{"test": 2432232314}'
    headers = sign(keys(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("receiver", [SECRET, OTHER])
def test_while_secrets_rotate_either_is_enough(receiver: str) -> None:
    headers = signed(SECRET, OTHER, timestamp=time.time())
    assert headers["webhook-signature"].count("v1,") == 2
    assert Webhook(receiver).verify(BODY, headers) == json.loads(BODY)
    assert verify(headers, BODY, receiver) == json.loads(BODY)


def test_a_receiver_may_know_both_secrets_too() -> None:
    assert verify(signed(SECRET), BODY, [OTHER, SECRET], now=NOW) == json.loads(BODY)
    assert verify(signed(OTHER), BODY.decode(), [OTHER, SECRET], now=NOW) == json.loads(BODY)


@given(value=json_values, message_id=ids)
def test_any_body_and_id_verifies_here_and_there(value: Any, message_id: str) -> None:
    body = json.dumps(value).encode()
    secret = new_secret()
    headers = sign(keys(secret), message_id, time.time(), body)
    assert verify(headers, body, secret) == value
    assert Webhook(secret).verify(body, headers) == value


@given(place=st.integers(0, len(BODY) - 1), flip=st.integers(1, 255))
def test_any_changed_byte_of_the_body_is_refused(place: int, flip: int) -> None:
    changed = bytearray(BODY)
    changed[place] ^= flip
    with pytest.raises(SignatureInvalid, match="fits a secret"):
        verify(signed(SECRET), bytes(changed), SECRET, now=NOW)


@given(data=st.data())
def test_any_changed_character_of_a_header_is_refused(data: st.DataObject) -> None:
    headers = signed(SECRET)
    name = data.draw(st.sampled_from(sorted(headers)))
    place = data.draw(st.integers(0, len(headers[name]) - 1))
    other = data.draw(st.characters(min_codepoint=32, max_codepoint=0x2FF))
    changed = headers[name][:place] + other + headers[name][place + 1 :]
    if changed != headers[name]:
        with pytest.raises(SignatureInvalid):
            verify({**headers, name: changed}, BODY, SECRET, now=NOW)


def test_another_secret_is_refused_here_and_there() -> None:
    headers = signed(SECRET, timestamp=time.time())
    with pytest.raises(SignatureInvalid, match="the secret is another one, or the body is not"):
        verify(headers, BODY, new_secret())
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(BODY, headers)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-signature", "webhook-timestamp"])
def test_lone_surrogates_are_refused_like_all_else(name: str) -> None:
    headers = signed(SECRET)
    with pytest.raises(SignatureInvalid):
        verify(headers | {name: headers[name] + "\udcff"}, BODY, SECRET, now=NOW)
    with pytest.raises(SignatureInvalid):
        verify(headers, BODY.decode() + "\udcff", SECRET, now=NOW)


def test_names_of_headers_may_have_capitals() -> None:
    headers = {name.title(): value for name, value in signed(SECRET).items()}
    assert verify(headers, BODY, SECRET, now=NOW)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_header_is_named(name: str, value: str | None) -> None:
    headers = signed(SECRET)
    del headers[name]
    if value is not None:
        headers[name] = value
    with pytest.raises(SignatureInvalid, match=f"no header {name}"):
        verify(headers, BODY, SECRET, now=NOW)


@pytest.mark.parametrize(
    ("shift", "words"), [(301, "301 s ago; 300 s are allowed"), (-301, "301 s in the future")]
)
def test_a_signature_holds_for_a_while(shift: int, words: str) -> None:
    headers = signed(SECRET)
    assert verify(headers, BODY, SECRET, now=NOW + shift, tolerance_s=301)
    with pytest.raises(SignatureInvalid, match=words):
        verify(headers, BODY, SECRET, now=NOW + shift)


@pytest.mark.parametrize("moment", ["nan", "1e9", "-5", "1.5", "٣", "9" * 40, "0x1", " 1"])
def test_a_time_that_is_no_whole_number_is_refused(moment: str) -> None:
    headers = sign(keys(SECRET), "id", NOW, BODY) | {"webhook-timestamp": moment}
    with pytest.raises(SignatureInvalid, match="not a whole number of seconds"):
        verify(headers, BODY, SECRET, now=NOW)


def test_parts_of_a_second_are_dropped() -> None:
    assert signed(SECRET, timestamp=NOW + 0.999) == signed(SECRET)


def test_unknown_versions_and_rubbish_are_skipped() -> None:
    headers = signed(SECRET)
    good = headers["webhook-signature"]
    headers["webhook-signature"] = f"v1a,{good[3:]} rubbish v1 v1,%% v1,é {good}"
    assert verify(headers, BODY, SECRET, now=NOW)
    headers["webhook-signature"] = f"v1a,{good[3:]} {good[3:]} v2,{good[3:]}"
    with pytest.raises(SignatureInvalid):
        verify(headers, BODY, SECRET, now=NOW)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_signed_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(SignatureInvalid, match="is not JSON"):
        verify(signed(SECRET, body=body), body, SECRET, now=NOW)


def test_without_a_key_nothing_is_signed_and_nothing_verifies() -> None:
    headers = sign((), "id", NOW, BODY)
    assert headers == {"webhook-id": "id", "webhook-timestamp": str(NOW)}
    with pytest.raises(SignatureInvalid, match="did not sign it"):
        verify(headers, BODY, SECRET, now=NOW)
    with pytest.raises(ConfigError, match="given no secret"):
        verify(signed(SECRET), BODY, [], now=NOW)


def test_new_secrets_differ_and_hold_32_bytes() -> None:
    one, other = new_secret(), new_secret()
    assert one != other
    assert one.startswith("whsec_")
    assert [len(key) for key in keys(one, other)] == [32, 32]


HOSTS = Secrets([
    SECRET,
    f"App.Example.com.={OTHER}",
    "*.example.com=whsec_" + base64.b64encode(b"d" * 24).decode(),
    "*.eu.example.com=whsec_" + base64.b64encode(b"e" * 25).decode(),
    "*.eu.example.com=whsec_" + base64.b64encode(b"f" * 26).decode(),
    "[2001:DB8::1]=whsec_" + base64.b64encode(b"g" * 27).decode(),
    "bücher.example=whsec_" + base64.b64encode(b"h" * 28).decode(),
])  # fmt: skip


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("app.example.com", [64]),
        ("other.example.com", [24]),
        ("a.b.example.com", [24]),
        ("app.eu.example.com", [25, 26]),
        ("example.com", [24]),
        ("notexample.com", [24]),
        ("2001:db8::1", [27]),
        ("2001:db8::2", [24]),
        ("xn--bcher-kva.example", [28]),
        ("127.0.0.1", [24]),
    ],
)
def test_a_host_uses_the_nearest_secrets_alone(host: str, expected: list[int]) -> None:
    assert [len(key) for key in HOSTS.for_host(host)] == expected
    if host in {"example.com", "notexample.com"}:
        assert HOSTS.for_host(host) == keys(SECRET), "a wildcard is for hosts below its domain"


def test_a_host_that_no_secret_is_meant_for_has_none() -> None:
    only = Secrets([f"app.example.com={SECRET}"])
    assert only
    assert only.for_host("other.example.com") == ()
    assert not Secrets()
    assert Secrets().for_host("app.example.com") == ()


def test_a_secret_named_twice_signs_once() -> None:
    assert len(keys(SECRET, OTHER, SECRET)) == 2


def test_padding_may_be_left_out() -> None:
    assert keys(OTHER.rstrip("=")) == keys(OTHER)


def test_settings_hold_them() -> None:
    settings = CallbackSettings(callback_secrets=(SecretStr(SECRET), SecretStr(OTHER)))
    assert Secrets.of(settings).for_host("app.example.com") == keys(SECRET, OTHER)


@pytest.mark.parametrize(
    "word",
    [
        "",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec-MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS!",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSé",
        "whsec_" + base64.b64encode(b"s" * 23).decode(),
        "whsec_" + base64.b64encode(b"s" * 65).decode(),
        "app.example.com=MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "app.example.com:443=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "*=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "a b=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "https://a.example=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    ],
)
def test_a_malformed_word_is_told_by_its_place_and_never_shown(word: str) -> None:
    with pytest.raises(ConfigError, match="Word 2 of callback_secrets is") as caught:
        Secrets([SECRET, word])
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    for shown in (str(caught.value), repr(caught.value)):
        assert "MfKQ" not in shown
        assert len(word) < 10 or word[6:] not in shown


def test_a_malformed_secret_of_a_receiver_is_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"given to verify\(\) is malformed") as caught:
        verify(signed(SECRET), BODY, "hunter2hunter2", now=NOW)
    assert "hunter2" not in str(caught.value)


def test_no_secret_is_shown_by_what_holds_them() -> None:
    shown = repr(HOSTS) + str(HOSTS)
    assert shown == "<Secrets of 6 receivers>" * 2
