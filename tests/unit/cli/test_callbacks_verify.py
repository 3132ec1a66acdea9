"""``umbel callbacks verify``: right signatures, and every way in which one is not."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer

from umbel_callbacks.signing import Secrets, new_secret, sign
from umbel_cli.callbacks.received import read_body, read_headers

BODY = b'{"type":"job.succeeded","data":{"output":"\xc3\xa9"}}'
SECRET = new_secret()


@pytest.fixture(autouse=True)
def _no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMBEL_REDIS_URL", "redis://127.0.0.1:1")


def headers_of(body: bytes = BODY, *, age_s: float = 3, secret: str = SECRET) -> dict[str, str]:
    return sign(Secrets([secret]).for_host("x"), "k3f9x2ab-1", time.time() - age_s, body)


def options(headers: dict[str, str]) -> list[str]:
    return [word for name, value in headers.items() for word in (f"--{name[8:]}", value)]


def lines(headers: dict[str, str]) -> str:
    return "".join(f"{name.title()}: {value}\r\n" for name, value in headers.items())


@pytest.fixture
def body_file(tmp_path: Path) -> str:
    (tmp_path / "body.json").write_bytes(BODY)
    return f"@{tmp_path / 'body.json'}"


def test_a_valid_one_tells_id_type_and_age(run: Any, body_file: str) -> None:
    words = ("callbacks", "verify", body_file, *options(headers_of()), "--secret", SECRET)
    answer = run(*words)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("valid  k3f9x2ab-1  job.succeeded  signed ")
    told = run(*words, "--json").json
    assert list(told) == ["valid", "id", "type", "timestamp", "age_s"]
    assert (told["valid"], told["id"], told["type"]) == (True, "k3f9x2ab-1", "job.succeeded")
    assert 3 <= told["age_s"] < 300
    assert SECRET not in answer.out


def test_one_from_the_future_says_so(run: Any, body_file: str) -> None:
    words = options(headers_of(age_s=-200))
    answer = run("callbacks", "verify", body_file, *words, "--secret", SECRET)
    assert answer.code == 0
    assert answer.out.endswith("s in the future\n")


def test_the_body_may_be_text_a_file_or_standard_input(run: Any, body_file: str) -> None:
    more = (*options(headers_of()), "--secret", SECRET)
    assert run("callbacks", "verify", BODY.decode(), *more).code == 0
    assert run("callbacks", "verify", body_file, *more).code == 0
    assert run("callbacks", "verify", "-", *more, stdin=BODY.decode()).code == 0
    assert run("callbacks", "verify", *more, stdin=BODY.decode()).code == 0


def test_headers_as_they_came(run: Any, body_file: str, tmp_path: Path) -> None:
    text = "POST /hook HTTP/1.1\r\nHost: x:8000\r\n" + lines(headers_of())
    (tmp_path / "headers").write_bytes(text.encode() + b"X-Odd: \xff\r\n")
    for given in (text, f"@{tmp_path / 'headers'}"):
        words = ("callbacks", "verify", body_file, "--headers", given, "--secret", SECRET)
        assert run(*words).code == 0
    assert read_headers(None, None, None, "webhook-id: a: b ")["webhook-id"] == "a: b"


def test_secrets_of_the_settings_whoever_they_are_for(
    run: Any, body_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("callbacks", "verify", body_file, *options(headers_of()))
    answer = run(*words)
    assert answer.code == 2
    assert "give --secret, or set callback_secrets" in answer.err
    for text in (SECRET, f"*.example.com={SECRET}", f"{new_secret()},hooks.example.com={SECRET}"):
        monkeypatch.setenv("UMBEL_CALLBACK_SECRETS", text)
        assert run(*words).code == 0, text
    monkeypatch.setenv("UMBEL_CALLBACK_SECRETS", new_secret())
    assert run(*words).code == 1
    assert run(*words, "--secret", new_secret(), "--secret", SECRET).code == 0
    monkeypatch.setenv("UMBEL_CALLBACK_SECRETS", f"{SECRET},nonsense")
    answer = run(*words)
    assert (answer.code, "Word 2 of callback_secrets is malformed" in answer.err) == (2, True)


def test_what_is_wrong_is_said(run: Any, body_file: str) -> None:
    good = headers_of()
    for headers, more, text in (
        (good, ("--secret", new_secret()), "No signature of the callback fits"),
        (headers_of(BODY + b" "), ("--secret", SECRET), "the body is not the one that was sent"),
        (headers_of(age_s=900), ("--secret", SECRET), "was signed 90"),
        (headers_of(age_s=30), ("--secret", SECRET, "--tolerance", "10"), "10 s are allowed"),
        (good | {"webhook-timestamp": "noon"}, ("--secret", SECRET), "not a whole number"),
        (good | {"webhook-signature": ""}, ("--secret", SECRET), "no header webhook-signature"),
    ):
        answer = run("callbacks", "verify", body_file, *options(headers), *more)
        assert (answer.code, answer.out) == (1, ""), text
        assert text in answer.err
        assert len(answer.err.splitlines()) == 1
        answer = run("callbacks", "verify", body_file, *options(headers), *more, "--json")
        assert (answer.code, answer.out) == (1, "")
        assert msgspec.json.decode(answer.err)["error"] == "SignatureInvalid"


def test_a_longer_tolerance_lets_old_ones_pass(run: Any, body_file: str) -> None:
    words = (*options(headers_of(age_s=900)), "--secret", SECRET, "--tolerance", "3600")
    assert run("callbacks", "verify", body_file, *words).code == 0


def test_a_line_break_that_a_file_ends_with_is_found_out(run: Any, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(BODY + b"\r\n")
    words = ("callbacks", "verify", f"@{tmp_path / 'body'}", *options(headers_of()))
    answer = run(*words, "--secret", SECRET)
    assert answer.code == 1
    assert "fits the body without the line break at its end" in answer.err
    answer = run(*words, "--secret", new_secret())
    assert "No signature of the callback fits" in answer.err


def test_a_missing_header_is_named(run: Any, body_file: str) -> None:
    text = lines({"webhook-id": "a", "webhook-timestamp": "1"})
    answer = run("callbacks", "verify", body_file, "--headers", text, "--secret", SECRET)
    assert (answer.code, "no header webhook-signature" in answer.err) == (1, True)


@pytest.mark.parametrize("body", [b"[1]", b'{"kind": 1}', b"7"])
def test_an_event_without_a_type(run: Any, body: bytes) -> None:
    words = (body.decode(), *options(headers_of(body)), "--secret", SECRET)
    assert "  no type  " in run("callbacks", "verify", *words).out
    assert run("callbacks", "verify", *words, "--json").json["type"] is None


def test_a_malformed_secret_is_not_repeated(run: Any, body_file: str) -> None:
    words = (body_file, *options(headers_of()), "--secret", "whsec_hunter2")
    answer = run("callbacks", "verify", *words)
    assert answer.code == 2
    assert "malformed" in answer.err
    assert "hunter2" not in answer.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--id", "a"), "--timestamp and --signature, or --headers"),
        ((), "or --headers"),
        (("--headers", "a: b", "--id", "a"), "--headers goes without"),
    ],
)
def test_headers_are_given_in_one_way(run: Any, words: tuple[str, ...], text: str) -> None:
    answer = run("callbacks", "verify", "{}", *words, "--secret", SECRET)
    assert answer.code == 2
    assert text in " ".join(answer.err.replace("│", " ").split())


def test_what_cannot_be_read_is_named(run: Any, body_file: str, tmp_path: Path) -> None:
    gone, more = f"@{tmp_path / 'gone'}", ("--secret", SECRET)
    for words in ((gone, "--headers", lines(headers_of())), (body_file, "--headers", gone)):
        answer = run("callbacks", "verify", *words, *more)
        assert (answer.code, answer.out) == (1, "")
        assert f"Cannot read {gone[1:]}: No such file" in answer.err
    answer = run("callbacks", "verify", "-", *options(headers_of()), *more, stdin="")
    assert (answer.code, "The body is empty" in answer.err) == (1, True)


def test_a_terminal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    with pytest.raises(typer.BadParameter, match="Give the BODY"):
        read_body(None)


def test_bytes_that_are_no_text_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"\xff\r\n\x00")
    assert read_body(f"@{tmp_path / 'odd'}") == b"\xff\r\n\x00"
    assert read_body("\udcff") == b"\xff"


def test_the_secret_that_umbel_up_made_is_found(run: Any, body_file: str, tmp_path: Path) -> None:
    words = ("callbacks", "verify", body_file, *options(headers_of()))
    words += ("--state-dir", str(tmp_path / "state"))
    assert run(*words).code == 2
    assert not (tmp_path / "state").exists()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "callback-secret").write_text(f"{SECRET}\n")
    assert run(*words).code == 0
