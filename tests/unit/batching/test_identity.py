"""The identity of the data: made once, remembered, and refused where the layout is another."""

from __future__ import annotations

import fakeredis
import pytest

from umbel_batching.identity import LAYOUT, identify, identify_async
from umbel_batching.keys import shared_keys
from umbel_config.errors import StoreUnsuitable

KEY = shared_keys("t").store


def test_an_empty_namespace_is_given_an_identity_once() -> None:
    client = fakeredis.FakeRedis()
    first = identify(client, "t")
    assert first.layout == LAYOUT
    assert len(first.store) == 16
    assert identify(client, "t") == first
    assert client.ttl(KEY) == -1


def test_namespaces_and_lost_data_have_other_identities() -> None:
    client = fakeredis.FakeRedis()
    first = identify(client, "t")
    assert identify(client, "u").store != first.store
    client.flushall()
    assert identify(client, "t").store != first.store


@pytest.mark.parametrize("raw", ["1 0011223344556677", f"{LAYOUT + 1} aa", "nonsense", ""])
def test_another_layout_is_refused(raw: str) -> None:
    client = fakeredis.FakeRedis()
    client.set(KEY, raw)
    with pytest.raises(StoreUnsuitable, match=r"'t'.*another namespace"):
        identify(client, "t")
    assert client.get(KEY) == raw.encode()


async def test_the_asyncio_twin_reads_and_writes_the_same() -> None:
    server = fakeredis.FakeServer()
    async with fakeredis.FakeAsyncRedis(server=server) as client:
        first = await identify_async(client, "t")
        assert await identify_async(client, "t") == first
    assert identify(fakeredis.FakeRedis(server=server), "t") == first
