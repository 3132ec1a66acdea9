"""Ceilings: the largest batch that fits into a device's memory, remembered for all workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from umbel_batching.lanes import new_uid
from umbel_batching.policy import BatchPolicy
from umbel_batching.values import Claimed

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

PROBE_MS = 60_000


@pytest.fixture
def lane(make_lab: type[Lab]) -> Lab:
    """A lane of batches of 16 with a ceiling of 5 on the GPU, found just now."""
    lab = make_lab(BatchPolicy(max_batch_size=16, max_queue=1_000))
    lab.submit(16)
    lab.settle(lab.claim(device="cuda"), device="cuda", ceiling=5)
    lab.submit(100)
    return lab


def size(claimed: Claimed) -> int:
    return len(claimed.uids)


def a_while_later(lab: Lab, device: str = "cuda") -> None:
    """Lets the time until the next probe pass."""
    lab.client.hset(lab.keys.lane, f"ceiling_at:{device}", lab.now() - PROBE_MS)


def test_no_ceiling_is_known_at_first(lab: Lab) -> None:
    lab.submit(4)
    claimed = lab.claim(device="cuda")
    assert (size(claimed), claimed.ceiling) == (4, 0)
    lab.settle(claimed, device="cuda")
    assert lab.client.hget(lab.keys.lane, "ceiling:cuda") is None


def test_a_ceiling_bounds_the_batches_of_every_worker(lane: Lab) -> None:
    for token in ("a", "b"):
        claimed = lane.claim(token=token, device="cuda")
        assert (size(claimed), claimed.ceiling) == (5, 5)


def test_a_ceiling_holds_for_one_kind_of_device(lane: Lab) -> None:
    claimed = lane.claim(device="cpu")
    assert (size(claimed), claimed.ceiling) == (16, 0)


def test_a_ceiling_is_probed_now_and_then(lane: Lab) -> None:
    a_while_later(lane)
    sizes = [size(lane.claim(device="cuda")) for _ in range(3)]
    assert sizes == [10, 5, 5]


def test_a_probe_never_exceeds_the_policy(lane: Lab) -> None:
    lane.settle(lane.claim(device="cuda"), device="cuda", ceiling=12)
    a_while_later(lane)
    assert size(lane.claim(device="cuda")) == 16


def test_few_jobs_are_no_reason_to_probe(make_lab: type[Lab]) -> None:
    lab = make_lab(BatchPolicy(max_batch_size=16))
    lab.submit(4)
    lab.settle(lab.claim(device="cuda"), device="cuda", ceiling=5)
    a_while_later(lab)
    lab.submit(5)
    assert size(lab.claim(device="cuda")) == 5
    lab.submit(6)
    assert size(lab.claim(device="cuda")) == 6


def test_news_of_a_ceiling_replace_the_old_ones(lane: Lab) -> None:
    a_while_later(lane)
    lane.settle(lane.claim(device="cuda"), device="cuda", ceiling=3)
    assert [size(lane.claim(device="cuda")) for _ in range(2)] == [3, 3]


def test_no_news_leave_the_ceiling_as_it_is(lane: Lab) -> None:
    lane.settle(lane.claim(device="cuda"), device="cuda")
    assert lane.claim(device="cuda").ceiling == 5


def test_a_ceiling_is_forgotten_when_all_fits(lane: Lab) -> None:
    lane.settle(lane.claim(device="cuda"), device="cuda", ceiling=-1)
    claimed = lane.claim(device="cuda")
    assert (size(claimed), claimed.ceiling) == (16, 0)
    assert not {name for name in lane.client.hkeys(lane.keys.lane) if b"ceiling" in name}


def test_a_ceiling_above_the_policy_changes_nothing(lane: Lab) -> None:
    lane.settle(lane.claim(device="cuda"), device="cuda", ceiling=64)
    a_while_later(lane)
    assert [size(lane.claim(device="cuda")) for _ in range(2)] == [16, 16]


def test_a_ceiling_of_one_goes_on_one_by_one(lane: Lab) -> None:
    lane.settle(lane.claim(device="cuda"), device="cuda", ceiling=1)
    assert [size(lane.claim(device="cuda")) for _ in range(3)] == [1, 1, 1]


def test_halves_of_a_lost_batch_respect_the_ceiling_too(lane: Lab) -> None:
    lost = lane.claim()
    assert size(lost) == 16
    lane.lose(lost)
    assert lane.record(lost.uids[0]).cap == 8
    assert [size(lane.claim(device="cuda")) for _ in range(2)] == [5, 5]
    assert size(lane.claim()) == 6


def test_the_same_probe_is_returned_when_asked_again(lane: Lab) -> None:
    a_while_later(lane)
    batch = new_uid()
    assert lane.claim(batch, device="cuda").uids == lane.claim(batch, device="cuda").uids
