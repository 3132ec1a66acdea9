"""What a check of the doctor found: one line, how bad it is, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

#: The groups of checks, in the order in which they are read.
GROUPS: Final = ("redis", "settings", "workers", "lanes", "callbacks", "models")
_SHOWN: Final = 5


class Level(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: its name, ``group.name``; never changes between versions of umbel.
        level: how it ended.
        summary: what was seen, in one line; no full stop at its end, nor at that of the advice.
        advice: what to do; empty where nothing is.
    """

    check: str
    level: Level
    summary: str
    advice: str = ""

    @property
    def group(self) -> str:
        """The first half of ``check``."""
        return self.check.partition(".")[0]

    @property
    def name(self) -> str:
        """The second half of ``check``."""
        return self.check.partition(".")[2]


def ok(check: str, summary: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, summary)


def warning(check: str, summary: str, advice: str) -> Finding:
    """Works now, but endangers jobs or speed."""
    return Finding(check, Level.WARNING, summary, advice)


def problem(check: str, summary: str, advice: str) -> Finding:
    """Jobs are lost, refused, or stand still."""
    return Finding(check, Level.PROBLEM, summary, advice)


def skipped(check: str, summary: str, advice: str = "") -> Finding:
    """Could not be looked at."""
    return Finding(check, Level.SKIPPED, summary, advice)


def told(check: str, level: Level, sentences: str) -> Finding:
    """A finding from an error's words: its first sentence is what was seen, the rest advice.

    Args:
        check: as in ``Finding``.
        level: as in ``Finding``.
        sentences: the message of an error.
    """
    end = _end_of_sentence(sentences)
    return Finding(check, level, sentences[:end].rstrip("."), sentences[end + 1 :].rstrip("."))


def _end_of_sentence(text: str) -> int:
    """Where the space after the first sentence stands; a full stop in brackets ends none."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == " " and depth == 0 and text[at - 1] == ".":
            return at
    return len(text)


def worst(findings: Iterable[Finding]) -> Level:
    """The level of all findings together; what was skipped does not count."""
    levels = {finding.level for finding in findings}
    return next((each for each in (Level.PROBLEM, Level.WARNING) if each in levels), Level.OK)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The findings group by group, otherwise as they come."""
    return sorted(findings, key=lambda finding: GROUPS.index(finding.group))


def closing(findings: Sequence[Finding]) -> str:
    """One sentence over all findings, such as ``2 warnings, no problems``."""
    counts = {level: [each.level for each in findings].count(level) for level in Level}
    problems, warnings = counts[Level.PROBLEM], counts[Level.WARNING]
    if problems or warnings:
        words = [counted(warnings, "warning"), counted(problems, "problem")]
        sentence = ", ".join(words[::-1] if problems else words)
    else:
        sentence = "All is well"
    if counts[Level.SKIPPED]:
        sentence += f"; {counted(counts[Level.SKIPPED], 'check')} skipped"
    return sentence + "."


def counted(count: int, one: str, many: str = "") -> str:
    """``no jobs``, ``1 job``, ``1,200 jobs``; ``many`` is the plural where it takes more than s."""
    if count == 1:
        return f"1 {one}"
    return f"{count:,} {many or one + 's'}" if count else f"no {many or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """Names in one line; of many only the first few, and how many more there are."""
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN:,} more"
