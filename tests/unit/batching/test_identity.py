"""The identity of the data: made once, remembered, and refused where the layout is another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fakeredis
import pytest

from umbel_batching.identity import LAYOUT, identify, identify_async, known_identity
from umbel_batching.keys import lane_keys, shared_keys
from umbel_config.errors import StoreUnsuitable

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

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


def lane_of_layout_1(client: fakeredis.FakeRedis) -> None:
    """What 0.1.0 wrote for a lane; it marked its data with no layout."""
    client.hset(shared_keys("t").lanes, "k3f9x2ab", "digits@1")
    fields = {"name": "digits@1", "queue": "umbel", "max_batch_size": "64", "max_queue": "9"}
    for field, value in fields.items():
        client.hset(lane_keys("t", "k3f9x2ab").lane, field, value)


async def test_data_of_0_1_0_is_refused_though_it_is_not_marked() -> None:
    server = fakeredis.FakeServer()
    client = fakeredis.FakeRedis(server=server)
    lane_of_layout_1(client)
    for look in (identify, known_identity):
        with pytest.raises(StoreUnsuitable, match="layout 1"):
            look(client, "t")
    async with fakeredis.FakeAsyncRedis(server=server) as other:
        with pytest.raises(StoreUnsuitable, match="layout 1"):
            await identify_async(other, "t")
    assert not client.exists(KEY)
    assert identify(client, "elsewhere").layout == LAYOUT


def test_data_that_lost_nothing_but_its_mark_is_given_another_one(lab: Lab) -> None:
    lab.submit()
    assert identify(lab.client, "t").layout == LAYOUT


def test_looking_at_an_identity_makes_none() -> None:
    client = fakeredis.FakeRedis()
    assert known_identity(client, "t") is None
    assert client.dbsize() == 0
    assert identify(client, "t") == known_identity(client, "t")
