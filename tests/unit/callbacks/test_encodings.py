"""How a version's outputs are written: asked for once, with a default where nobody knows."""

from __future__ import annotations

from typing import Any

import fakeredis
import pytest

from umbel_callbacks.encodings import Encodings
from umbel_config.errors import ArtifactTampered, ModelNotFound, StoreUnavailable, VersionNotFound
from umbel_registry import Catalog, Manifest
from umbel_registry.manifest import ModelFile, build_manifest


def manifest(version: str, **changes: Any) -> Manifest:
    fields = {
        "name": "digits",
        "format": "handler",
        "handler": "shop_models:Digits",
        "inputs": {"x": {"dtype": "float32"}},
        "outputs": {"y": {"dtype": "float32"}},
    }
    return build_manifest(ModelFile.model_validate(fields | changes), {}, version)


class Register:
    """A catalog that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None

    async def get(self, _: str, version: str) -> Manifest:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return manifest(version, output_encoding="base64")


async def test_a_catalog_knows() -> None:
    catalog = Catalog(fakeredis.FakeRedis(), "test")
    catalog.register(manifest("1"))
    catalog.register(manifest("2", output_encoding="base64"))

    async def get(model: str, version: str) -> Manifest:
        return catalog.get(model, version)

    encodings = Encodings(get)
    assert await encodings.of("digits", "1") == "list"
    assert await encodings.of("digits", "2") == "base64"
    assert await encodings.of("digits", "3") == "list"
    assert await encodings.of("other", "1") == "list"


async def test_a_version_is_asked_for_once() -> None:
    register = Register()
    encodings = Encodings(register.get)
    assert {await encodings.of("digits", "1") for _ in range(5)} == {"base64"}
    assert await encodings.of("digits", "2") == "base64"
    assert register.asked == 2


@pytest.mark.parametrize("error", [ModelNotFound, VersionNotFound, ArtifactTampered])
async def test_an_unknown_version_has_the_default_until_it_is_known(error: type[Exception]) -> None:
    register = Register()
    register.error = error("gone")
    encodings = Encodings(register.get)
    assert await encodings.of("digits", "1") == "list"
    register.error = None
    assert await encodings.of("digits", "1") == "base64"


async def test_an_outage_is_no_answer() -> None:
    register = Register()
    register.error = StoreUnavailable("Redis is away.")
    with pytest.raises(StoreUnavailable):
        await Encodings(register.get).of("digits", "1")
