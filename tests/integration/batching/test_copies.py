"""The flusher and copies for shadows: one slot of all, one attempt each, and word of every loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from umbel_batching.flusher import Flusher
from umbel_batching.keys import lane_keys
from umbel_batching.lanes import Lane
from umbel_batching.policy import BatchPolicy
from umbel_batching.record import State
from umbel_config.connect import connect

if TYPE_CHECKING:
    from tests.integration.batching.conftest import Hints, MakeStation, Station

POLICY = BatchPolicy(max_batch_size=4, max_wait_ms=0)


@pytest.fixture
def lost() -> list[str]:
    return []


@pytest.fixture
def flusher(redis_url: str, namespace: str, hints: Hints, lost: list[str]) -> Iterator[Flusher]:
    client = connect(redis_url, purpose="blocking")
    made = Flusher(client, namespace, hints, on_lost=lost.append)
    yield made
    made.stop()
    made.run()  # ends what its turns have begun, and its client


@pytest.fixture
def copies(make_station: MakeStation) -> Station:
    station = make_station(POLICY)
    station.lane = Lane(model="digits", version="1", policy=POLICY, shadow=True)
    station.slot = station.lane.slot
    station.keys = lane_keys(station.namespace, station.slot)
    station.announce(3)
    return station


def test_copies_get_one_slot_of_all_workers(
    copies: Station, make_station: MakeStation, flusher: Flusher, hints: Hints
) -> None:
    copies.submit(12)
    make_station(POLICY, model="other").submit(12)
    while flusher.turn():
        pass
    assert sorted(hints.lanes) == ["digits@1~shadow", *["other@1"] * 3]


def test_a_copy_whose_worker_is_lost_is_given_up_and_leaves_no_letter(
    copies: Station, flusher: Flusher, hints: Hints, lost: list[str]
) -> None:
    uids = copies.submit(8)
    assert flusher.turn() == 1
    claimed = copies.claim(hints.drains[0].token)
    assert flusher.turn() == 0
    assert lost == []
    for zset in (copies.keys.leases, copies.keys.drains):
        (member,) = copies.client.zrange(zset, 0, -1)
        copies.client.zadd(zset, {member: 1})
    copies.client.zadd(copies.shared.wake, {copies.slot: 1})
    assert flusher.turn() == 1, "the copies that wait have their turn"
    assert lost == ["digits@1~shadow"]
    assert copies.states(uids[:4]) == [State.FAILED] * 4
    assert copies.record(claimed.uids[0]).attempts == 1
    assert copies.client.exists(copies.keys.dead, copies.keys.recordings) == 0
    assert 0 < copies.client.ttl(copies.keys.job + uids[0]) <= 120
