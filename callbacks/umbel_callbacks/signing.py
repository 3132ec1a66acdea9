"""Signs callbacks as Standard Webhooks 1.0 has it, and verifies them on the receiver's side.

What is signed, with HMAC-SHA256, is ``id.timestamp.body``. The header holds one signature for each
active secret: while secrets rotate, a receiver may know the old or the new one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets as randomness
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import msgspec

from umbel_callbacks.urls import parse_host
from umbel_config.callback_settings import CallbackSettings
from umbel_config.errors import ConfigError, InvalidInput, SignatureInvalid

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
PREFIX = "whsec_"
_VERSION = "v1"
#: Bytes of a new key, and of the keys that the standard allows.
_NEW_KEY, _MIN_KEY, _MAX_KEY = 32, 24, 64
#: The owner of secrets that are for all hosts.
_ALL = ""
#: Seconds since 1970 for the next 30,000 years; longer text is not read as a number.
_SECONDS = re.compile(r"[0-9]{1,12}")


def new_secret() -> str:
    """A new secret: ``whsec_`` and 32 random bytes in base64."""
    return PREFIX + base64.b64encode(randomness.token_bytes(_NEW_KEY)).decode()


class Secrets:
    """The active secrets, by receiver.

    A host with secrets of its own uses those alone: the exact host goes before the longest
    wildcard domain, and that before the secrets of all hosts.

    Args:
        words: as in the setting ``callback_secrets``; signatures come in their order.

    Raises:
        ConfigError: a word is malformed; the sentence says which one by its place.
    """

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._keys: dict[str, tuple[bytes, ...]] = {}
        for place, word in enumerate(words, 1):
            owner, key = _entry(word, f"Word {place} of callback_secrets")
            self._keys[owner] = tuple(dict.fromkeys((*self._keys.get(owner, ()), key)))

    @classmethod
    def of(cls, settings: CallbackSettings) -> Self:
        """The secrets that the settings name.

        Raises:
            ConfigError: one is malformed.
        """
        return cls(word.get_secret_value() for word in settings.callback_secrets)

    def for_host(self, host: str) -> tuple[bytes, ...]:
        """The keys that sign what is sent to a host; none where no secret is meant for it.

        Args:
            host: in the one form that :func:`umbel_callbacks.urls.parse_host` gives it.
        """
        labels = host.split(".")
        domains = ("*." + ".".join(labels[start:]) for start in range(1, len(labels)))
        owners = (owner for owner in (host, *domains, _ALL) if owner in self._keys)
        return self._keys.get(next(owners, _ALL), ())

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __repr__(self) -> str:
        return f"<Secrets of {len(self._keys)} receivers>"


def sign(keys: Iterable[bytes], message_id: str, timestamp: float, body: bytes) -> dict[str, str]:
    """The headers that sign one attempt; without a key there is no ``webhook-signature``.

    Args:
        keys: of the receiver, see :meth:`Secrets.for_host`.
        message_id: the same for each attempt.
        timestamp: of this attempt, in seconds since 1970; parts of a second are dropped.
        body: what is posted.
    """
    moment = str(int(timestamp))
    headers = {ID: message_id, TIMESTAMP: moment}
    signatures = [f"{_VERSION},{_signature(key, message_id, moment, body)}" for key in keys]
    return headers | ({SIGNATURE: " ".join(signatures)} if signatures else {})


def verify(
    headers: Mapping[str, str],
    body: bytes | str,
    secrets: str | Sequence[str],
    *,
    tolerance_s: float = 300,
    now: float | None = None,
) -> Any:
    """What a callback says, once its signature is found to be right.

    Args:
        headers: of the request; capitals do not matter.
        body: of the request, exactly as it was received.
        secrets: one secret, or all that are valid while they rotate.
        tolerance_s: how far from now the callback may have been signed.
        now: seconds since 1970; default is this machine's clock.

    Returns:
        The parsed JSON of the body.

    Raises:
        SignatureInvalid: a header is missing or malformed, the time is too far from now, or no
            signature fits.
        ConfigError: a secret is malformed, or there is none.
    """
    keys = [_key(word, "A secret given to verify()") for word in _as_list(secrets)]
    raw = body.encode(errors="replace") if isinstance(body, str) else bytes(body)
    named = {name.lower(): value for name, value in headers.items()}
    message_id, moment, signatures = (_header(named, name) for name in (ID, TIMESTAMP, SIGNATURE))
    _check_time(moment, time.time() if now is None else now, tolerance_s)
    expected = [_signature(key, message_id, moment, raw) for key in keys]
    if not _any_fits(expected, signatures):
        raise SignatureInvalid(
            "No signature of the callback fits a secret: the secret is another one, or the body "
            "is not the one that was sent. Verify its bytes before anything parses them."
        )
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise SignatureInvalid("The callback is signed, but its body is not JSON.") from None


def _as_list(secrets: str | Sequence[str]) -> Sequence[str]:
    words = [secrets] if isinstance(secrets, str) else secrets
    if not words:
        raise ConfigError("verify() was given no secret: pass the one that umbel signs with.")
    return words


def _header(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name)
    if not value:
        raise SignatureInvalid(
            f"The request has no header {name}: umbel did not send it, or did not sign it, or a "
            "proxy took the header away."
        )
    return value


def _check_time(moment: str, now: float, tolerance_s: float) -> None:
    if not _SECONDS.fullmatch(moment):
        raise SignatureInvalid(f"The header {TIMESTAMP} is not a whole number of seconds.")
    age = now - int(moment)
    if not abs(age) <= tolerance_s:
        when = f"{age:.0f} s ago" if age > 0 else f"{-age:.0f} s in the future"
        raise SignatureInvalid(
            f"The callback was signed {when}; {tolerance_s:g} s are allowed. It is an old one "
            "sent again by somebody, or a clock is wrong."
        )


def _any_fits(expected: Sequence[str], header: str) -> bool:
    parts = [part.partition(",") for part in header.split(" ")]
    given = [text.encode(errors="replace") for version, _, text in parts if version == _VERSION]
    return any(hmac.compare_digest(own.encode(), each) for own in expected for each in given)


def _signature(key: bytes, message_id: str, moment: str, body: bytes) -> str:
    # Servers hand on odd bytes of a header as lone surrogates; they fit no signature.
    content = f"{message_id}.{moment}.".encode(errors="replace") + body
    return base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()


def _entry(word: str, what: str) -> tuple[str, bytes]:
    """Whose secret a word is, and its key."""
    if word.startswith(PREFIX):
        return _ALL, _key(word, what)
    owner, _, secret = word.partition("=")
    key = _key(secret, what)
    domain = owner.removeprefix("*.")
    try:
        return owner[: len(owner) - len(domain)] + parse_host(domain)[0], key
    except InvalidInput:
        raise ConfigError(
            f"{what} is not for a host: write HOST={PREFIX}... or *.DOMAIN={PREFIX}..., without "
            "a port."
        ) from None


def _key(secret: str, what: str) -> bytes:
    text = secret.removeprefix(PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        key = b""
    if text == secret or not _MIN_KEY <= len(key) <= _MAX_KEY:
        raise ConfigError(
            f"{what} is malformed: a secret is {PREFIX} and {_MIN_KEY} to {_MAX_KEY} bytes in "
            "base64. Make one with `umbel callbacks secret`."
        )
    return key
