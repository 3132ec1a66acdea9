"""Where callbacks may go is decided at submit, once for each URL, and written into the record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from umbel import _callbacks as module
from umbel._callbacks import CallbackChecks
from umbel._prepare import Options, options, prepare
from umbel._way import Target
from umbel_batching import record
from umbel_batching.lanes import Lane
from umbel_batching.record import HEAD
from umbel_config.errors import ConfigError, InvalidInput
from umbel_config.settings import Settings
from umbel_registry import Signature, TensorSpec

URL = "https://hooks.example/a?b=%2F"


@pytest.fixture
def checks() -> CallbackChecks:
    return CallbackChecks(Settings(callback_allow=("hooks.internal:8080", "10.1.2.3:8090")))


@pytest.mark.parametrize(
    ("url", "shared", "part"),
    [
        (None, False, b""),
        (URL, False, b"1https://hooks.example/a?b=%2F"),
        (URL, True, b"mhttps://hooks.example/a?b=%2F"),
        ("HTTPS://Hooks.Example:443", False, b"1https://hooks.example/"),
        ("https://b\u00fccher.example/\u00e4", False, b"1https://xn--bcher-kva.example/%C3%A4"),
        ("http://hooks.internal:8080/a", False, b"1http://hooks.internal:8080/a"),
        ("http://10.1.2.3:8090/a", True, b"mhttp://10.1.2.3:8090/a"),
    ],
)
def test_the_part_of_the_record(
    checks: CallbackChecks, url: str | None, part: bytes, *, shared: bool
) -> None:
    for _ in range(2):  # found out, then remembered
        assert checks.part(url, shared=shared) == part


def test_the_same_url_may_be_shared_or_not(checks: CallbackChecks) -> None:
    parts = [checks.part(URL, shared=shared) for shared in (False, True, False)]
    assert [part[:1] for part in parts] == [b"1", b"m", b"1"]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example",
        "ftp://hooks.example/",
        "http://hooks.example/",
        "https://hooks.example:9/",
        "https://localhost/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest",
        "https://ann:secret@hooks.example/",
        "https://hooks.example/#secret",
        "https://hooks.example/" + "x" * 2048,
        "http://hooks.internal:8081/a",
        "https://hooks.example/\r\nHost: other",
        "https://127.1/",
        "https://0x7f.1/",
    ],
)
def test_a_refused_url_is_refused_each_time(checks: CallbackChecks, url: str) -> None:
    for _ in range(2):
        with pytest.raises(InvalidInput) as caught:
            checks.part(url, shared=False)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", [b"https://hooks.example/", 7, ["https://hooks.example/"], True])
def test_a_url_is_text(checks: CallbackChecks, url: Any) -> None:
    with pytest.raises(InvalidInput, match=f"must be text, not {type(url).__name__}"):
        checks.part(url, shared=False)


def test_a_batch_needs_a_url(checks: CallbackChecks) -> None:
    with pytest.raises(InvalidInput, match="callback_batch needs a callback_url"):
        checks.part(None, shared=True)


def test_a_url_is_judged_once(checks: CallbackChecks, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, judged = checks._guard.check_url, list[str]()

    def check_url(url: str) -> Any:
        judged.append(url)
        return judge(url)

    monkeypatch.setattr(checks._guard, "check_url", check_url)
    for _ in range(3):
        checks.part(URL, shared=False)
    assert judged == [URL]


def test_ever_new_urls_take_no_more_memory(
    checks: CallbackChecks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 8)
    for number in range(100):
        assert checks.part(f"{URL}&n={number}", shared=False).endswith(b"&n=%d" % number)
        assert len(checks._checked) <= 8


def test_an_allow_list_that_cannot_be_read_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match="callback_allow"):
        CallbackChecks(Settings(callback_allow=("http://hooks.internal/",)))


@pytest.fixture
def chosen(checks: CallbackChecks) -> Callable[..., Options]:
    def make(url: str | None = None, **given: Any) -> Options:
        usual: dict[str, Any] = {"reply": "0" * 16, "version": None, "timeout": None}
        usual |= {"priority": "normal", "metadata": None, "max_bytes": 1000}
        return options(callback=checks.part(url, shared=False), **(usual | given))

    return make


@pytest.fixture
def target() -> Target:
    floats = TensorSpec(dtype="float32", shape=(2,))
    return Target(
        Lane(model="digits", version="1"),
        Signature(inputs={"x": floats}, outputs={"y": floats}),
    )


def test_the_record_tells_url_and_metadata_apart(
    chosen: Callable[..., Options], target: Target
) -> None:
    job = prepare(target, [1, 2], chosen(URL, metadata={"user": "ann"}))
    head = b"q" + b"0" * (HEAD - len(record.tail(record.NO_REPLY, b"")) - 1)
    parsed = record.parse(head + job.tail)
    assert (parsed.callback_url, parsed.callback[0]) == (URL, record.ALONE)
    assert parsed.metadata == {"user": "ann"}
    assert bytes(parsed.body) == prepare(target, [1, 2], chosen()).tail[-len(parsed.body) :]


def test_a_callback_makes_no_other_request_of_the_same_key(
    chosen: Callable[..., Options], target: Target
) -> None:
    with_url = prepare(target, [1, 2], chosen(URL), "order 7")
    without = prepare(target, [1, 2], chosen(), "order 7")
    assert (with_url.uid, with_url.fingerprint) == (without.uid, without.fingerprint)
    assert with_url.tail != without.tail
