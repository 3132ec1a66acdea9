"""Every wrong input is refused with its own error, and nothing is queued."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from umbel import (
    AsyncClient,
    Client,
    ConfigError,
    InvalidInput,
    ModelNotFound,
    PayloadTooLarge,
    StoreRefused,
    StoreUnavailable,
    UmbelError,
    VersionNotFound,
)
from umbel_config.settings import Settings

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register

F32 = {"dtype": "float32", "shape": [4]}
ROW = np.arange(4, dtype=np.float32) + 100

BAD: dict[str, tuple[str, Any, dict[str, Any], type[UmbelError], str]] = {
    "unknown model": ("afine", ROW, {}, ModelNotFound, "Did you mean 'affine'"),
    "model of a wrong type": (None, ROW, {}, ModelNotFound, "None"),  # type: ignore[dict-item]
    "list for a model": (["affine"], ROW, {}, ModelNotFound, "named by text"),  # type: ignore[dict-item]
    "unknown version": ("affine", ROW, {"version": "7"}, VersionNotFound, "It has: 1"),
    "version as a number": ("affine", ROW, {"version": 1}, VersionNotFound, "give '1', in quotes"),
    "dtype": ("affine", ROW.astype(np.float64), {}, InvalidInput, "float64"),
    "integers": ("affine", np.arange(4), {}, InvalidInput, "int64"),
    "shape": ("affine", ROW[:3], {}, InvalidInput, r"\[3\]"),
    "batch dimension": ("affine", ROW[None], {}, InvalidInput, "batch dimension"),
    "ragged": ("affine", [[1.0], [1.0, 2.0]], {}, InvalidInput, "x"),
    "text for an array": ("affine", "text", {}, InvalidInput, "x"),
    "texts for numbers": ("affine", ["a", "b", "c", "d"], {}, InvalidInput, "x"),
    "objects": ("affine", np.array([object()] * 4), {}, InvalidInput, "x"),
    "none": ("affine", None, {}, InvalidInput, "x"),
    "extra name": ("affine", {"x": ROW, "z": ROW}, {}, InvalidInput, "unknown: z"),
    "missing name": ("pair", {"a": ROW}, {}, InvalidInput, "missing: b"),
    "no dict for two inputs": ("pair", ROW, {}, InvalidInput, "dict by name"),
    "nan": ("strict", np.full(4, np.nan, dtype=np.float32), {}, InvalidInput, "NaN"),
    "array for text": ("shout", ROW, {}, InvalidInput, "x"),
    "bytes for text": ("shout", b"abc", {}, InvalidInput, "x"),
    "half a character": ("shout", "\ud800", {}, InvalidInput, "x"),
    "too large": ("long", np.zeros(4096, dtype=np.float32), {}, PayloadTooLarge, "max_payload"),
    "timeout": ("affine", ROW, {"timeout": -1}, InvalidInput, "timeout"),
    "metadata": ("affine", ROW, {"metadata": {"a": object()}}, InvalidInput, "metadata"),
}


@pytest.fixture
def site(settings: MakeSettings, register: Register) -> Settings:
    """Models of several signatures, and a small limit for payloads."""
    made = settings(allowed_modules=("umbel_test_handlers",), max_payload_bytes=10_000)
    register(made)
    register(made, "strict", inputs={"x": F32 | {"allow_nan": False}})
    register(
        made, "long", inputs={"x": F32 | {"shape": [-1]}}, outputs={"y": F32 | {"shape": [-1]}}
    )
    register(made, "shout", "Shout", {"x": {"dtype": "string"}}, {"y": {"dtype": "string"}})
    register(made, "pair", "Sum", {"a": F32, "b": F32})
    return made


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_nothing_queued(
    site: Settings, queued: Callable[[], int], case: str
) -> None:
    model, value, options, error, sentence = BAD[case]
    with Client(settings=site) as client:
        with pytest.raises(error, match=sentence) as caught:
            client.submit(model, value, **options)
        with pytest.raises(error):
            client.submit_many(model, [value, value], **options)
    assert not caught.value.retryable
    assert queued() == 0


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_is_refused_by_the_async_client_too(
    site: Settings, queued: Callable[[], int], case: str
) -> None:
    model, value, options, error, sentence = BAD[case]
    async with AsyncClient(settings=site) as client:
        with pytest.raises(error, match=sentence):
            await client.submit(model, value, **options)
        with pytest.raises(error):
            await client.submit_many(model, [value, value], **options)
    assert queued() == 0


def test_many_are_all_or_none_where_a_row_is_wrong(
    site: Settings, queued: Callable[[], int]
) -> None:
    with Client(settings=site) as client, pytest.raises(InvalidInput, match="Row 400"):
        client.submit_many("affine", [ROW] * 400 + [ROW[:2]])
    assert queued() == 0


@pytest.mark.parametrize("rows", ["abc", b"abc", {"x": 1}])
def test_one_value_is_no_list_of_rows(site: Settings, rows: Any, queued: Callable[[], int]) -> None:
    with Client(settings=site) as client, pytest.raises(InvalidInput, match="list of rows"):
        client.submit_many("shout", rows)
    assert queued() == 0


def test_metadata_at_its_limit_travels(site: Settings) -> None:
    with Client(settings=site) as client:
        job = client.submit("affine", ROW, metadata={"text": "x" * 60_000})
        assert len(job.info().metadata["text"]) == 60_000


def test_redis_down_is_said(settings: MakeSettings, tmp_path: Any) -> None:
    nowhere = settings(redis_url=f"unix://{tmp_path}/none.sock", redis_retries=0)
    with Client(settings=nowhere) as client, pytest.raises(StoreUnavailable, match=r"none\.sock"):
        client.submit("affine", ROW)


async def test_redis_down_is_said_by_the_async_client(
    settings: MakeSettings, tmp_path: Any
) -> None:
    nowhere = settings(redis_url=f"unix://{tmp_path}/none.sock", redis_retries=0)
    async with AsyncClient(settings=nowhere) as client:
        with pytest.raises(StoreUnavailable, match=r"none\.sock"):
            await client.submit("affine", ROW)


def test_no_redis_at_all_says_how_to_get_one(settings: MakeSettings, tmp_path: Any) -> None:
    with Client(settings=Settings(state_dir=tmp_path)) as client:
        with pytest.raises(StoreUnavailable, match="umbel up"):
            client.submit("affine", ROW)
        with pytest.raises(StoreUnavailable):
            client.job("aaaaaaaa-" + "0" * 32).state()


def test_wrong_password_is_refused_and_never_shown(own_redis: Callable[..., Any]) -> None:
    server = own_redis("--requirepass", "right-one")
    url = server.url.replace("unix://", "unix://:wrong-one@")
    with Client(url) as client, pytest.raises(StoreRefused) as caught:
        client.submit("affine", ROW)
    assert "wrong-one" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://localhost", "redis://localhost:port", "nonsense"])
def test_bad_address_is_a_setting_error(url: str) -> None:
    with pytest.raises(ConfigError), Client(url) as client:
        client.submit("affine", ROW)
