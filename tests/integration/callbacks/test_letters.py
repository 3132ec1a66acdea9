"""What POSTs hold: read from real records, whatever became of their jobs meanwhile."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from umbel_batching.outbox import Entry, Post
from umbel_batching.record import HEAD, Failure
from umbel_callbacks.letters import Draft, Letter
from umbel_callbacks.sender import Sender
from umbel_registry import Catalog
from umbel_registry.manifest import ModelFile, build_manifest

if TYPE_CHECKING:  # fixtures
    from tests.conftest import WaitUntil
    from tests.integration.callbacks.conftest import Desk, OpenDesk, OpenSender

URL = "http://127.0.0.1:9/hook"


async def leased(sender: Sender) -> list[Post]:
    """All POSTs that are due."""
    call = sender.calls.lease("token", lease_ms=60_000, posts=100, parcel="p" * 32)
    return (await sender.runner.run(call)).posts


async def letters_for(sender: Sender, posts: list[Post]) -> list[Letter]:
    """Letters for these POSTs, in their order."""
    drafts = await sender.letters.read(posts)
    assert [draft.post for draft in drafts] == posts
    return [await sender.letters.write(draft) for draft in drafts]


async def read(sender: Sender) -> list[Letter]:
    return await letters_for(sender, await leased(sender))


def said(letter: Letter) -> Any:
    assert letter.url is not None
    return json.loads(letter.body)


async def test_success(open_desk: OpenDesk, open_sender: OpenSender) -> None:
    desk = open_desk()
    (entry,) = desk.submit(URL, metadata={"user": 7})
    desk.settle([1, 2])
    (letter,) = await read(await open_sender(desk.settings))
    event = said(letter)
    assert (letter.url, event["type"]) == (URL, "job.succeeded")
    timing = event["data"].pop("timing")
    assert event["data"] == {
        "id": entry.job_id,
        "model": "affine",
        "version": "1",
        "state": "succeeded",
        "output": [1, 2],
        "metadata": {"user": 7},
    }
    assert (timing["batch_size"], timing["compute_ms"], timing["attempts"]) == (1, 1.5, 1)
    assert timing["created_at"] <= timing["started_at"] <= timing["finished_at"]
    assert event["timestamp"] == timing["finished_at"]
    assert (letter.delivery.state, letter.delivery.attempts) == ("pending", 0)
    assert letter.delivery.since == letter.delivery.due > 0


async def test_the_other_endings(
    open_desk: OpenDesk, open_sender: OpenSender, wait_until: WaitUntil
) -> None:
    desk = open_desk()
    desk.submit(URL)
    desk.settle(error=Failure("ValueError", "unlucky"))
    (cancelled,) = desk.submit(URL)
    assert desk.runner.run(desk.calls.cancel(desk.lane.slot, cancelled.uid))[0]
    desk.submit(URL, timeout_ms=1)
    wait_until(lambda: desk.runner.run(desk.calls.expire(desk.lane.slot, 10)), "it expires")
    letters = await read(await open_sender(desk.settings))
    errors = {said(letter)["type"]: said(letter)["data"]["error"] for letter in letters}
    assert errors.pop("job.failed") == {"kind": "ValueError", "message": "unlucky"}
    assert {kind: error["kind"] for kind, error in errors.items()} == {
        "job.cancelled": "JobCancelled",
        "job.expired": "JobExpired",
    }


async def test_a_job_without_a_callback_owes_no_letter(
    open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    desk = open_desk()
    _, entry = desk.ended("", URL)
    (letter,) = await read(await open_sender(desk.settings))
    assert letter.post.entries == (entry,)


@pytest.mark.parametrize("shared", [False, True])
async def test_a_forgotten_job_has_nothing_to_send(
    open_desk: OpenDesk, open_sender: OpenSender, *, shared: bool
) -> None:
    desk = open_desk()
    (entry,) = desk.ended(URL, shared=shared)
    sender = await open_sender(desk.settings)
    posts = await leased(sender)
    desk.runner.run(desk.calls.forget(desk.lane.slot, entry.uid))
    (letter,) = await letters_for(sender, posts)
    assert (letter.url, letter.body) == (None, b"")


@pytest.mark.parametrize("shared", [False, True])
async def test_a_job_that_was_replayed_since_has_a_callback_of_its_own(
    open_desk: OpenDesk, open_sender: OpenSender, *, shared: bool
) -> None:
    desk = open_desk()
    (entry,) = desk.submit(URL, shared=shared)
    desk.settle(error=Failure("ValueError", "unlucky"))
    sender = await open_sender(desk.settings)
    posts = await leased(sender)
    assert desk.runner.run(desk.calls.replay(desk.lane.slot, entry.uid)).done
    assert [each.url for each in await letters_for(sender, posts)] == [None]
    desk.settle("fine")
    assert [each.url for each in await letters_for(sender, posts)] == [None]
    (letter,) = [each for each in await read(sender) if each.url]
    assert letter.post.entries == (Entry(entry.slot, entry.uid, 1, entry.url),)
    assert bool(entry.url) is shared
    if not shared:
        assert letter.message_id == f"{entry.job_id}-1"
        assert said(letter)["data"]["output"] == "fine"


async def test_a_parcel_holds_all_that_are_left(
    open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    desk = open_desk()
    entries = desk.ended(*[URL] * 5, shared=True)
    (single,) = desk.ended("http://127.0.0.1:9/other")
    sender = await open_sender(desk.settings)
    posts = await leased(sender)
    assert sorted(len(post.entries) for post in posts) == [1, 5]
    desk.runner.run(desk.calls.forget(desk.lane.slot, entries[2].uid))
    letters = {len(each.post.entries): each for each in await letters_for(sender, posts)}
    parcel = said(letters[5])
    assert (parcel["type"], letters[5].url) == ("job.batch", URL)
    ids = {event["data"]["id"] for event in parcel["data"]}
    assert ids == {entry.job_id for entry in entries} - {entries[2].job_id}
    assert said(letters[1])["data"]["id"] == single.job_id
    assert letters[5].message_id == "p" * 32 + "001"


async def test_the_same_is_read_for_each_attempt(
    open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    desk = open_desk()
    desk.ended(*[URL] * 3, shared=True)
    desk.ended(URL)
    sender = await open_sender(desk.settings)
    posts = await leased(sender)
    first, second = [await letters_for(sender, posts) for _ in range(2)]
    assert [each.body for each in first] == [each.body for each in second]


async def test_outputs_are_written_as_the_model_has_it(
    open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    desk = open_desk()
    fields = {
        "name": "affine",
        "format": "handler",
        "handler": "shop_models:Affine",
        "inputs": {"x": {"dtype": "float32"}},
        "outputs": {"y": {"dtype": "int8"}},
        "output_encoding": "base64",
    }
    manifest = build_manifest(ModelFile.model_validate(fields), {}, "1")
    Catalog(desk.client, desk.settings.namespace).register(manifest)
    desk.ended(URL, output=np.zeros(2, np.int8))
    (letter,) = await read(await open_sender(desk.settings))
    output = said(letter)["data"]["output"]
    assert output == {"dtype": "int8", "shape": [2], "base64": "AAA="}


@pytest.mark.parametrize("output", [np.zeros(500_000), "x" * 2_000_000, [0] * 1_000_000])
@pytest.mark.parametrize("shared", [False, True])
async def test_of_a_huge_output_little_is_read_and_nothing_told(
    open_desk: OpenDesk, open_sender: OpenSender, output: Any, *, shared: bool
) -> None:
    link = "https://app.example.com/{id}"
    desk = open_desk(callback_max_bytes=1024, callback_link=link)
    (entry,) = desk.ended(URL, shared=shared, output=output)
    (letter,) = await read(await open_sender(desk.settings))
    event = said(letter)["data"][0] if shared else said(letter)
    assert event["data"]["link"] == link.format(id=entry.job_id)
    assert (event["data"]["state"], "output" in event["data"]) == ("succeeded", False)
    assert len(letter.body) <= 1024


async def test_an_output_that_just_fits_is_whole(
    open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    # A million zeros take 8 bytes each in Redis, and two as JSON.
    desk = open_desk(callback_max_bytes=262_144)
    desk.ended(URL, output=np.zeros(130_000, np.int64))
    (letter,) = await read(await open_sender(desk.settings))
    assert said(letter)["data"]["output"] == [0] * 130_000


async def test_thin_by_setting(open_desk: OpenDesk, open_sender: OpenSender) -> None:
    desk = open_desk(callback_payload="thin")
    desk.submit(URL, metadata={"user": 7})
    desk.settle([1, 2])
    (letter,) = await read(await open_sender(desk.settings))
    assert said(letter)["data"].keys() == {"id", "model", "version", "state", "timing"}


async def test_a_lane_that_the_store_has_lost_is_unknown(
    open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    desk = open_desk()
    desk.ended(URL, output=1)
    desk.client.hdel(desk.keys.lane, "name")
    (letter,) = await read(await open_sender(desk.settings))
    data = said(letter)["data"]
    assert (data["model"], data["version"], data["output"]) == ("?", "?", 1)


async def test_a_batch_that_the_store_has_lost_leaves_its_times_open(
    open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    desk = open_desk()
    desk.ended(URL, output=1)
    for key in desk.client.scan_iter(match=f"{desk.keys.batch}*"):
        desk.client.delete(key)
    (letter,) = await read(await open_sender(desk.settings))
    assert said(letter)["data"]["timing"]["started_at"] is None
    assert said(letter)["timestamp"]


async def test_nothing_to_read(open_desk: OpenDesk, open_sender: OpenSender) -> None:
    sender = await open_sender(open_desk().settings)
    assert await sender.letters.read([]) == []


async def test_a_parcel_without_entries_has_nothing_to_send(
    open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    sender = await open_sender(open_desk().settings)
    (letter,) = await letters_for(sender, [Post("127.0.0.1:9#", f"={'p' * 32}001", "1", ())])
    assert (letter.url, letter.body, letter.damage) == (None, b"", "")


async def test_single_posts_are_read_together_and_parcels_as_they_are_written(
    open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    desk = open_desk()
    single = desk.ended(URL, "http://127.0.0.2:9/hook")
    shared = desk.ended(*[URL] * 3, shared=True)
    sender = await open_sender(desk.settings)
    drafts = await sender.letters.read(await leased(sender))
    held = {draft.post.entries: draft.pieces for draft in drafts}
    (parcel,) = [draft for draft in drafts if draft.post.is_parcel]
    assert (len(held), parcel.pieces) == (3, None)
    assert sorted(entry.uid for entry in parcel.post.entries) == [each.uid for each in shared]
    for entry in single:
        desk.client.delete(desk.keys.job + entry.uid)  # is not read again
        pieces = held[entry,]
        assert pieces is not None
        assert len(pieces) == 1
    letters = [await sender.letters.write(draft) for draft in drafts]
    told = {letter.post.entries: said(letter) for letter in letters}
    assert {told[entry,]["data"]["id"] for entry in single} == {each.job_id for each in single}
    assert len(told[parcel.post.entries]["data"]) == 3


async def test_a_draft_of_which_nothing_was_read_is_read_by_itself(
    open_desk: OpenDesk, open_sender: OpenSender
) -> None:
    desk = open_desk()
    desk.ended(URL, URL)
    desk.ended(*[URL] * 2, shared=True)
    sender = await open_sender(desk.settings)
    posts = await leased(sender)
    apart = [await sender.letters.write(Draft(post)) for post in posts]
    assert apart == await letters_for(sender, posts)


def damage(desk: Desk, entry: Entry, how: str) -> None:
    """Makes what is stored of a job unreadable."""
    key = desk.keys.job + entry.uid
    if how == "head":
        desk.client.set(key, "nonsense")
    elif how == "state":
        desk.client.setrange(key, 0, "?")
    elif how == "metadata":
        desk.client.setrange(key, HEAD + len(URL) + 1, b"\xc1")
    else:
        desk.client.set(desk.keys.delivery + entry.uid, "nonsense")


@pytest.mark.parametrize("how", ["head", "state", "metadata", "delivery"])
@pytest.mark.parametrize("shared", [False, True])
async def test_a_damaged_record_holds_up_no_other(
    open_desk: OpenDesk, open_sender: OpenSender, how: str, *, shared: bool
) -> None:
    desk = open_desk()
    bad, good = desk.submit(URL, URL, shared=shared, metadata={"user": 7})
    desk.settle(1)
    damage(desk, bad, how)
    letters = await read(await open_sender(desk.settings))
    told = [letter for letter in letters if not letter.damage]
    assert len(told) == 1
    ids = (
        [each["data"]["id"] for each in said(told[0])["data"]]
        if shared
        else [said(told[0])["data"]["id"]]
    )
    assert good.job_id in ids
    if not shared:
        (damaged,) = [letter for letter in letters if letter.damage]
        answer = damaged.unsent()
        assert "not sent: its record cannot be read" in answer.note
        assert answer.hopeless


@pytest.mark.parametrize(
    ("receiver", "host"),
    [
        ("hooks.example", "hooks.example"),
        ("hooks.example:8443", "hooks.example"),
        ("10.0.0.1:80", "10.0.0.1"),
        ("[fd00::1]", "fd00::1"),
        ("[fd00::1]:8443", "fd00::1"),
    ],
)
def test_secrets_are_looked_up_by_the_bare_host(receiver: str, host: str) -> None:
    letter = Letter(Post(receiver, "", "", (Entry("", "", 0),)))
    assert letter.host == host
    assert host in letter.unsent().note
