"""What a rehearsal tells, from the diary that its process left behind."""

from __future__ import annotations

import msgspec
import pytest

from umbel_batching.dead_letters import RecordedBatch
from umbel_config.errors import ArtifactTampered, ModelLoadFailed
from umbel_worker.rehearsal import Note, Rehearsal, _cause, _Ending, _raise_if_refused, _told

IDS = ["a", "b"]
BATCH = RecordedBatch(
    batch_id="b" * 32,
    lane="digits@3",
    worker="host:12",
    reason="size",
    started_at=1,
    cause=None,
    job_ids=IDS,
    payloads=[b"x", b"y"],
    missing=0,
)
LOADED = Note(what="loaded", at=1.0, device="cpu")
BEGUN = Note(what="forward", at=2.0)
RETURNED = Note(what="returned", at=2.5)
RAISED = Note(what="raised", at=2.25, kind="ValueError", message="bad")
RESULTS = Note(what="results", at=3.0, failures=[None, "ValueError: bad"])


def told(*notes: Note, code: int | None = 0) -> Rehearsal:
    return _told(BATCH, IDS, 0, _Ending(code, 9.0, list(notes), "words"))


def test_a_batch_that_went_through() -> None:
    fine = msgspec.structs.replace(RESULTS, failures=[None, None])
    seen = told(LOADED, BEGUN, RETURNED, fine)
    assert (seen.whole, seen.seconds, seen.stage, seen.ok) == ("succeeded", 0.5, "done", True)
    assert [each.id for each in seen.results] == IDS


def test_a_batch_that_raised_and_was_run_apart() -> None:
    seen = told(LOADED, BEGUN, RAISED, BEGUN, RETURNED, BEGUN, RAISED, RESULTS)
    assert (seen.whole, seen.error, seen.seconds) == ("raised", "ValueError: bad", 0.25)
    assert (seen.forwards, seen.ok) == (3, False)
    assert [(each.ok, each.error) for each in seen.results] == [
        (True, None),
        (False, "ValueError: bad"),
    ]


@pytest.mark.parametrize(
    ("notes", "code", "expected"),
    [
        ((), None, ("never ran", "out of time", "loading", 0.0)),
        ((), 1, ("never ran", "exit code 1", "loading", 0.0)),
        ((LOADED,), -9, ("never ran", "SIGKILL", "whole", 0.0)),
        ((LOADED, BEGUN), -11, ("died", "SIGSEGV", "whole", 7.0)),
        ((LOADED, BEGUN), None, ("timed out", "out of time", "whole", 7.0)),
        ((LOADED, BEGUN, RAISED, BEGUN), -6, ("raised", "SIGABRT", "apart", 0.25)),
        ((LOADED, BEGUN, RETURNED, RESULTS), -11, ("succeeded", "SIGSEGV", "apart", 0.5)),
    ],
)
def test_a_process_that_did_not_end_well(
    notes: tuple[Note, ...], code: int | None, expected: tuple[str, str, str, float]
) -> None:
    seen = told(*notes, code=code)
    assert (seen.whole, seen.ended, seen.stage, seen.seconds) == expected
    assert (seen.results, seen.ok, seen.last_words) == ([], False, "words")


def test_a_signal_without_a_name_has_its_number() -> None:
    assert _cause(-40) == "signal 40"


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("ArtifactTampered", ArtifactTampered),
        ("ModelLoadFailed", ModelLoadFailed),
        ("Settings", ModelLoadFailed),
        ("JobNotFound", ModelLoadFailed),
    ],
)
def test_a_model_that_was_refused_raises_what_it_raised_there(
    kind: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match="not today") as caught:
        _raise_if_refused([Note(what="refused", at=1.0, kind=kind, message="not today")])
    assert type(caught.value) is error
