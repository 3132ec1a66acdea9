"""Findings: levels, words for counts and names, and how the report looks."""

from __future__ import annotations

import io
import json

import msgspec
import pytest
from rich.console import Console

from umbel_cli.doctor.findings import (
    Finding,
    Level,
    closing,
    counted,
    in_order,
    listed,
    ok,
    problem,
    skipped,
    told,
    warning,
    worst,
)
from umbel_cli.doctor.report import as_json, as_text

FINE = ok("redis.version", "Redis 6.2.14 [here]")
ODD = warning("redis.memory", "81% used", "Raise maxmemory")
BAD = problem("lanes.served", "Jobs wait", "Start a worker")
BLIND = skipped("workers.answer", "This needs celery", "pip install it")


@pytest.mark.parametrize(
    ("findings", "level", "sentence"),
    [
        ([FINE], Level.OK, "All is well."),
        ([FINE, BLIND], Level.OK, "All is well; 1 check skipped."),
        ([FINE, ODD], Level.WARNING, "1 warning, no problems."),
        ([ODD, ODD, BLIND, BLIND], Level.WARNING, "2 warnings, no problems; 2 checks skipped."),
        ([BAD, FINE], Level.PROBLEM, "1 problem, no warnings."),
        ([ODD, BAD, BAD], Level.PROBLEM, "2 problems, 1 warning."),
    ],
)
def test_closing_sentence_and_level(findings: list[Finding], level: Level, sentence: str) -> None:
    assert worst(findings) is level
    assert closing(findings) == sentence


@pytest.mark.parametrize(
    ("count", "words"), [(0, "no batches"), (1, "1 batch"), (1200, "1,200 batches")]
)
def test_counts(count: int, words: str) -> None:
    assert counted(count, "batch", "batches") == words


def test_plural_is_an_s_where_nothing_else_is_said() -> None:
    assert [counted(n, "job") for n in (0, 1, 2)] == ["no jobs", "1 job", "2 jobs"]


def test_of_many_names_the_first_five_are_shown() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed([*"abcde"]) == "a, b, c, d, e"
    assert listed([*"abcdefgh"]) == "a, b, c, d, e and 3 more"


@pytest.mark.parametrize(
    ("sentences", "summary", "advice"),
    [
        ("Redis is away.", "Redis is away", ""),
        (
            "Redis is away (no. 3. gone). Start it. Or not.",
            "Redis is away (no. 3. gone)",
            "Start it. Or not",
        ),
        (
            "version 6.0.16; needs 6.2 or newer. Upgrade it.",
            "version 6.0.16; needs 6.2 or newer",
            "Upgrade it",
        ),
    ],
)
def test_an_error_is_split_into_what_was_seen_and_what_to_do(
    sentences: str, summary: str, advice: str
) -> None:
    found = told("redis.version", Level.PROBLEM, sentences)
    assert found == Finding("redis.version", Level.PROBLEM, summary, advice)


def test_groups_have_an_order_and_keep_the_one_inside() -> None:
    late = ok("redis.clock", "agrees")
    assert in_order([BAD, BLIND, FINE, late]) == [FINE, late, BLIND, BAD]


def shown(findings: list[Finding], width: int = 100) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(as_text(findings))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_report_is_one_line_a_check_with_advice_beneath() -> None:
    assert shown([FINE, ODD, BLIND, BAD]) == [
        "Redis",
        "  ✓ version      Redis 6.2.14 [here]",
        "  ! memory       81% used",
        "                 → Raise maxmemory",
        "",
        "Workers",
        "  - answer       This needs celery",
        "                 → pip install it",
        "",
        "Lanes",
        "  ✗ served       Jobs wait",
        "                 → Start a worker",
        "",
        "1 problem, 1 warning; 1 check skipped.",
    ]


def test_long_lines_are_folded_under_their_own_column() -> None:
    lines = shown([ok("redis.version", "word " * 30)], width=60)
    assert len(lines) > 4
    assert all(line.startswith(" " * 17 + "word") for line in lines[2:-2])


def test_json_has_the_level_of_all_and_each_finding() -> None:
    value = json.loads(msgspec.json.encode(as_json([FINE, ODD])))
    assert value == {
        "level": "warning",
        "findings": [
            {
                "check": "redis.version",
                "level": "ok",
                "summary": "Redis 6.2.14 [here]",
                "advice": "",
            },
            {
                "check": "redis.memory",
                "level": "warning",
                "summary": "81% used",
                "advice": "Raise maxmemory",
            },
        ],
    }
