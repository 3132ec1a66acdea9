"""What people write for lengths of time, shares and pairs, and how those are shown."""

from __future__ import annotations

import pytest
import typer

from umbel_cli.models.words import fraction, length_text, number, pairs, percent_text, seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30", 30),
        ("0.5s", 0.5),
        (".5s", 0.5),
        ("250ms", 0.25),
        ("60s", 60),
        ("5m", 300),
        ("1.5h", 5400),
        ("2d", 172_800),
        (" 5m ", 300),
    ],
)
def test_lengths_of_time(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "s", "5x", "-5s", "5 m", "1h30m", "nan", "1e3s"])
def test_no_length_of_time(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no length of time"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1%", 0.01), ("0.01", 0.01), ("12.5%", 0.125), ("0", 0), ("1", 1), ("100%", 1), (".5", 0.5)],
)
def test_shares(text: str, expected: float) -> None:
    assert fraction(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "%", "101%", "5", "-1%", "1 %", "x", "inf"])
def test_no_share(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no share: give one from 0% to 100%"):
        fraction(text)


def test_pairs() -> None:
    assert pairs(["3=90", "url=a=b"], "NAME=VALUE") == {"3": "90", "url": "a=b"}
    assert pairs([], "NAME=VALUE") == {}


@pytest.mark.parametrize("word", ["3", "=3", "3=", "="])
def test_no_pair(word: str) -> None:
    with pytest.raises(typer.BadParameter, match="not of the form VERSION=WEIGHT"):
        pairs([word], "VERSION=WEIGHT")


def test_a_name_is_given_once() -> None:
    with pytest.raises(typer.BadParameter, match="'3' is given twice"):
        pairs(["3=1", "3=2"], "VERSION=WEIGHT")


def test_numbers() -> None:
    assert number("2.5", "a weight") == 2.5
    for text in ("x", "nan", "inf", ""):
        with pytest.raises(typer.BadParameter, match="cannot be a weight"):
            number(text, "a weight")


@pytest.mark.parametrize(
    ("share", "text"),
    [(1, "100 %"), (0.9, "90 %"), (1 / 3, "33.3 %"), (0.001, "0.1 %"), (0.00025, "0.025 %")],
)
def test_shares_are_shown_in_percent(share: float, text: str) -> None:
    assert percent_text(share) == text


@pytest.mark.parametrize(
    ("length_s", "text"),
    [(0.284, "0.284 s"), (30, "30 s"), (90, "1.5 min"), (600, "10 min"), (5400, "1.5 h")],
)
def test_lengths_are_shown_in_their_unit(length_s: float, text: str) -> None:
    assert length_text(length_s) == text
