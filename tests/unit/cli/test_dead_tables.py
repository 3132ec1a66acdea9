"""Times and evidence of dead letters, as people read them."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console, RenderableType

from umbel_batching.dead_letters import DeadLetter, RecordedBatch
from umbel_batching.record import Event
from umbel_cli.dead.inputs import Part
from umbel_cli.dead.rehearse import _report
from umbel_cli.dead.tables import ago, evidence_table, letters_table, moment
from umbel_worker.rehearsal import Rehearsal, Rehearsed

NOW = 1_700_000_000_000
LETTER = DeadLetter(
    id="k3f9x2ab-" + "0" * 32,
    lane="digits@3",
    created_at=NOW - 500,
    died_at=NOW,
    attempts=3,
    error="ValueError: " + "long [red] " * 50,
    batch_id="b" * 32,
    worker="host:12",
    replayable=True,
    history=[Event("lost", NOW - 9, "a" * 32, "host:11", "killed by [SIGSEGV]")],
)
BATCH = RecordedBatch(
    batch_id="b" * 32,
    lane="digits@3",
    worker="host:12",
    reason="size",
    started_at=NOW - 10,
    cause=None,
    job_ids=[LETTER.id],
    payloads=[b"x"],
    missing=1,
)
TOLD = Rehearsal(
    batch_id="b" * 32,
    lane="digits@3",
    jobs=1,
    missing=1,
    device="cpu",
    whole="raised",
    error="ValueError: [bad]",
    ended=None,
    stage="done",
    seconds=0.25,
    forwards=1,
    results=[Rehearsed(id=LETTER.id, ok=False, error="ValueError: [bad]")],
    last_words="",
)


def drawn(what: RenderableType, width: int = 150) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(what, crop=False, soft_wrap=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("past_ms", "text"),
    [
        (-5, "0 s ago"),
        (59_999, "59 s ago"),
        (60_000, "1 min ago"),
        (7_200_000, "2 h ago"),
        (3 * 86_400_000, "3 d ago"),
    ],
)
def test_how_long_ago(past_ms: int, text: str) -> None:
    assert ago(NOW - past_ms, NOW) == text


def test_moments_have_a_date_where_it_is_not_today() -> None:
    assert moment(NOW, NOW).count(":") == 2
    assert moment(NOW - 3 * 86_400_000, NOW).startswith("2023-11-1")


def test_a_narrow_terminal_cuts_no_id() -> None:
    lines = drawn(letters_table([LETTER], width=120), width=60).splitlines()
    assert lines[1].startswith(f"{LETTER.id}  digits@3")
    assert lines[1].endswith("…")
    assert len(lines[1]) <= 120


def test_evidence_keeps_brackets_and_counts_what_is_missing() -> None:
    part = Part(name="a", type="float32", shape=[4], bytes=20)
    text = drawn(evidence_table(LETTER, [part], BATCH))
    for words in ("killed by [SIGSEGV]", "long [red]", "a: float32 [4], 20 B", "2 jobs, flushed"):
        assert words in text
    bare = drawn(evidence_table(LETTER, None, None))
    assert "not recorded" in bare
    assert "that of an identical job" in bare
    gone = msgspec.structs.replace(LETTER, replayable=False)
    assert "input       not kept" in drawn(evidence_table(gone, None, None))


def test_a_batch_that_raised_and_lacks_a_job() -> None:
    text = drawn(_report(BATCH, TOLD))
    assert "1 job on cpu" in text
    assert "1 job of it not kept" in text
    assert "raised ValueError: [bad] after 0.250 s" in text
    assert "run apart" not in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"whole": "died", "error": None, "ended": "SIGSEGV", "stage": "whole"},
            ("process died of SIGSEGV after 0.250 s", "in the whole batch", "last [words]"),
        ),
        (
            {"whole": "timed out", "error": None, "ended": "out of time", "stage": "whole"},
            ("did not come back after", "was killed, out of time"),
        ),
        (
            {"whole": "never ran", "error": None, "ended": "exit code 3", "stage": "loading"},
            ("never ran", "died of exit code 3 while the model was loaded"),
        ),
        (
            {"ended": "SIGKILL", "stage": "apart", "forwards": 4},
            ("raised ValueError", "while its jobs were run apart, after 4 forwards"),
        ),
    ],
)
def test_a_process_that_did_not_end_well(changes: dict[str, str], words: tuple[str, ...]) -> None:
    told = msgspec.structs.replace(TOLD, results=[], last_words="last [words]\n", **changes)
    text = drawn(_report(BATCH, told))
    for each in words:
        assert each in text
    assert not told.ok
