"""Lanes, slots and ids."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel_batching.keys import lane_keys, reply_channel, shared_keys, workers_key
from umbel_batching.lanes import Lane, new_uid, slot_of, split_id, split_name
from umbel_config.errors import JobNotFound


def test_a_lane_is_named_after_its_version() -> None:
    lane = Lane(model="digits", version="3")
    assert lane.name == "digits@3"
    assert split_name(lane.name) == ("digits", "3")
    assert lane.slot == slot_of("digits@3")
    assert slot_of("digits@3") != slot_of("digits@4")


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_a_slot_is_eight_plain_characters(name: str) -> None:
    assert re.fullmatch(r"[a-z2-7]{8}", slot_of(name))


def test_later_uids_sort_after_earlier_ones() -> None:
    uids = [new_uid() for _ in range(2_000)]
    assert uids == sorted(set(uids))
    assert all(re.fullmatch(r"[0-9a-f]{32}", uid) for uid in uids)


def test_an_id_leads_back_to_its_lane() -> None:
    slot, uid = slot_of("digits@3"), new_uid()
    assert split_id(f"{slot}-{uid}") == (slot, uid)


@pytest.mark.parametrize(
    "job_id",
    [
        "",
        "-",
        "0" * 41,
        f"{slot_of('a@1')}-{'0' * 31}",
        f"{slot_of('a@1')}-{'0' * 33}",
        f"{slot_of('a@1')}_{'0' * 32}",
        f"{slot_of('a@1')}-{'0' * 31}g",
        f"{slot_of('a@1')}-{'0' * 31}A",
        f"{slot_of('a@1')}-{'0' * 31}\n",
        f"{slot_of('a@1').upper()}-{'0' * 32}",
        f"abc}}{{def-{'0' * 32}",
        f"ébcdefg²-{'0' * 32}",
        f"abcdefg1-{'0' * 32}",
        f"abcd\x00fgh-{'0' * 32}",
        f"../../..-{'0' * 32}",
    ],
)
def test_what_is_no_id_is_not_found(job_id: str) -> None:
    with pytest.raises(JobNotFound) as caught:
        split_id(job_id)
    assert caught.value.job_id == job_id[:64]


@given(st.text(max_size=60))
def test_any_text_is_an_id_or_not_found(text: str) -> None:
    with pytest.raises(JobNotFound):
        split_id(text)


def test_long_texts_are_cut_in_the_message() -> None:
    with pytest.raises(JobNotFound) as caught:
        split_id("x" * 1_000_000)
    assert len(str(caught.value)) < 300


def test_all_keys_of_a_lane_share_one_hash_tag() -> None:
    keys = lane_keys("ns", "abcdefgh")
    own = [keys.lane, keys.waiting, keys.leases, keys.sent, keys.drains, keys.batch, keys.job]
    assert len(set(own)) == len(own)
    assert all(key.startswith("ns:{abcdefgh}:") for key in own)


def test_shared_keys_begin_with_the_namespace() -> None:
    shared = shared_keys("ns")
    names = [
        shared.lanes,
        shared.wake,
        shared.signal,
        workers_key("ns", "q"),
        reply_channel("ns", "c"),
    ]
    assert len(set(names)) == len(names)
    assert all(name.startswith("ns:") for name in names)


def test_an_id_is_text() -> None:
    with pytest.raises(JobNotFound, match="text, not NoneType"):
        split_id(None)  # type: ignore[arg-type]
