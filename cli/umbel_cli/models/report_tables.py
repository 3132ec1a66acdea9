"""How a comparison of versions is shown to people: a table, and sentences of what is certain."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence

from rich.table import Table
from rich.text import Text

from umbel_registry.comparison import (
    QUANTILES,
    Agreement,
    Comparison,
    Difference,
    Estimate,
    VersionFigures,
)

#: An interval of the error rate wider than this, with no difference in it, tells of few jobs.
_WIDE = 0.1
_STYLES = {"better": "green", "worse": "red"}
_NOTHING = Text("-", style="dim")
#: Of any number, behind the point.
_MOST_DIGITS = 4
#: Jobs of one batch end together, so it is batches that latency is short of.
_FEW_BATCHES = "too few batches to tell"

#: One cell of a row, from the figures of a version.
Cell = Callable[[VersionFigures], Text]


def comparison_table(comparison: Comparison) -> Table:
    """Versions side by side, one a column; each range stands below what was measured.

    Args:
        comparison: of at least one version.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for each in comparison.versions:
        role = "shadow" if each.shadow else "baseline"
        named = each.shadow or each.version == comparison.baseline
        table.add_column(Text(f"{each.version} ({role})" if named else each.version))
    for name, cell in _rows(comparison):
        table.add_row(name, *(cell(each) for each in comparison.versions))
    return table


def notes(comparison: Comparison) -> list[Text]:
    """What is certain of the versions and what is not, one sentence each.

    Args:
        comparison: of at least one version.
    """
    if len(comparison.versions) == 1:
        only = comparison.baseline
        return [Text(f"Only {only} answers, so there is nothing to compare it with.")]
    base = comparison.of(comparison.baseline)
    told = [note for each in comparison.versions if each != base for note in _notes(each, base)]
    sure = round(100 * comparison.confidence)
    last = (
        f"Each range is right {sure} times out of 100; looking at many, or again and again, finds "
        "differences that are none."
    )
    return [*told, Text(last, style="dim")]


def _rows(comparison: Comparison) -> Iterator[tuple[str, Cell]]:
    names = ("errors", *QUANTILES)
    compared = {name for each in comparison.versions for name in each.against_baseline}
    yield "jobs, share of all", _jobs
    for name in names:
        yield ("failed", _errors) if name == "errors" else (f"latency {name}", _latency(name))
        if name in compared:
            yield f"  against {comparison.baseline}", _against(name)
    yield "a batch, on average", _batch
    if any(each.padding is not None for each in comparison.versions):
        yield "  padding", _padding
    told = [each.agreement for each in comparison.versions if each.agreement]
    if told:
        yield from _agreement_rows(told)


def _errors(each: VersionFigures) -> Text:
    return _estimate(each.errors, shares_text)


def _latency(name: str) -> Cell:
    return lambda each: _estimate(each.latency.get(name), times_text)


def _against(name: str) -> Cell:
    return lambda each: _difference(name, each.against_baseline.get(name))


def _jobs(each: VersionFigures) -> Text:
    share = None if each.share is None else shares_text(each.share)
    if each.shadow and not each.jobs:  # its copies are compared, and may not be counted as jobs
        return Text("copies", style="dim")
    return _two_lines(f"{each.jobs:,}", "copies" if each.shadow else share)


def _batch(each: VersionFigures) -> Text:
    if each.batch_size is None or each.compute_ms is None:
        return _NOTHING
    return _two_lines(times_text(each.compute_ms), f"{each.batch_size:,.1f} jobs")


def _padding(each: VersionFigures) -> Text:
    return _NOTHING if each.padding is None else Text(shares_text(each.padding))


def _agreement_rows(told: Sequence[Agreement]) -> Iterator[tuple[str, Cell]]:
    yield "outputs compared", _agreed(lambda own: _count(own.pairs))
    yield "  that agree", _agreed(lambda own: _estimate(own.equal, shares_text))
    if any(own.same_top for own in told):
        yield "  same largest entry", _agreed(lambda own: _estimate(own.same_top, shares_text))
    yield "  relative difference", _agreed(_relative)
    if any(own.unlike for own in told):
        yield "  not comparable", _agreed(lambda own: _count(own.unlike))
    if any(own.failed_pairs for own in told):
        yield "only this one failed", _agreed(lambda own: _estimate(own.failed, shares_text))


def _agreed(cell: Callable[[Agreement], Text]) -> Cell:
    return lambda each: cell(each.agreement) if each.agreement else _NOTHING


def _relative(own: Agreement) -> Text:
    if own.mean_difference is None or own.largest_difference is None:
        return _NOTHING
    return _two_lines(f"{own.mean_difference:.2g}", f"at most {own.largest_difference:.2g}")


def _count(count: int) -> Text:
    return Text(f"{count:,}")


def _estimate(told: Estimate | None, text: Callable[..., str]) -> Text:
    if told is None:
        return _NOTHING
    if math.isinf(told.high):
        return _two_lines(text(told.value), f"{text(told.low)} or more")
    return _two_lines(text(told.value), text(told.low, told.high))


def _difference(name: str, told: Difference | None) -> Text:
    if told is None:
        return _NOTHING
    text = Text(_change_text(name, told), style=_STYLES.get(told.verdict, ""))
    if told.verdict in _STYLES:
        text.append(f", {told.verdict}")
    return text.append(f"\n{_range_text(name, told)}", style="dim")


def _two_lines(value: str, below: str | None) -> Text:
    text = Text(value)
    return text.append(f"\n{below}", style="dim") if below else text


def _notes(each: VersionFigures, base: VersionFigures) -> Iterator[Text]:
    """The sentences about one version."""
    idle = [own.version for own in (each, base) if not own.jobs and not own.agreement]
    if idle:
        yield Text(f"{idle[0]} has no jobs of this route yet.")
    for verdict, style in _STYLES.items():
        yield from _clear_notes(each, base, verdict, style)
    yield from _unclear_notes(each, base)
    if each.agreement and each.agreement.equal:
        told = each.agreement.equal
        yield Text(
            f"Outputs of {each.version} agree with those that were given for "
            f"{shares_text(told.value)} of {each.agreement.pairs:,} inputs "
            f"({shares_text(told.low, told.high)})."
        )
    if each.agreement and each.agreement.failed_pairs and each.agreement.failed:
        told = each.agreement.failed
        yield Text(
            f"{each.version} failed for {shares_text(told.value)} of the inputs that "
            f"had an output ({shares_text(told.low, told.high)}).",
            _STYLES["worse"],
        )


def _clear_notes(
    each: VersionFigures, base: VersionFigures, verdict: str, style: str
) -> Iterator[Text]:
    """What is clearly better, or clearly worse."""
    found = {name: told for name, told in each.against_baseline.items() if told.verdict == verdict}
    words = {
        name: f"{_change_text(name, told)} ({_range_text(name, told)})"
        for name, told in found.items()
    }
    errors = words.pop("errors", None)
    if errors:
        more = "more" if verdict == "worse" else "less"
        yield Text(f"{each.version} fails {more} often than {base.version}: {errors}.", style)
    if words:
        slower = "slower" if verdict == "worse" else "quicker"
        listed = ", ".join(f"{name} {text}" for name, text in words.items())
        yield Text(f"{each.version} is {slower} than {base.version}: {listed}.", style)


def _unclear_notes(each: VersionFigures, base: VersionFigures) -> Iterator[Text]:
    """What shows no difference, and what cannot show one yet."""
    unclear: list[str] = []
    few: list[str] = []
    for name, told in each.against_baseline.items():
        if told.verdict in _STYLES:
            continue
        range_text = _range_text(name, told)
        if name == "errors" and told.high - told.low > _WIDE:
            few.append(f"too few jobs to tell about failures ({range_text})")
        elif name == "errors":
            unclear.append(f"failures ({range_text})")
        elif math.isinf(told.low) or math.isinf(told.high):
            few.append(f"{_FEW_BATCHES} about {name}")
        else:
            unclear.append(f"{name} ({range_text})")
    if unclear:
        names = f"{each.version} and {base.version}"
        yield Text(f"No clear difference between {names}: {', '.join(unclear)}.")
    if few:
        yield Text(f"{each.version} against {base.version}: {', '.join(few)}.", "yellow")


def _change_text(name: str, told: Difference) -> str:
    sign = "+" if told.value >= 0 else "-"
    size = abs(told.value)
    return sign + (points_text(size) if name == "errors" else times_text(size))


def _range_text(name: str, told: Difference) -> str:
    if name == "errors":
        return points_text(told.low, told.high)
    if math.isfinite(told.low) and math.isfinite(told.high):
        return times_text(told.low, told.high)
    if told.verdict not in _STYLES:
        return _FEW_BATCHES
    worse = told.verdict == "worse"
    return f"{times_text(told.low)} or more" if worse else f"{times_text(told.high)} or less"


def shares_text(*shares: float) -> str:
    """One share, or two of a range, in percent; close to none and to all with more digits.

    Args:
        *shares: each between 0 and 1.
    """
    edge = any(0 < share < 0.01 or 0.99 < share < 1 for share in shares)  # noqa: PLR2004
    return f"{_range([100 * share for share in shares], 2 if edge else 1)} %"


def points_text(*differences: float) -> str:
    """One difference of shares, or two of a range, in percentage points.

    Args:
        *differences: each between -1 and 1.
    """
    digits = 2 if all(abs(each) < 0.01 for each in differences) else 1  # noqa: PLR2004
    return f"{_range([100 * each for each in differences], digits)} points"


def times_text(*milliseconds: float) -> str:
    """One duration, or two of a range, in the unit that suits the longest.

    Args:
        *milliseconds: of either sign.
    """
    longest = max(abs(each) for each in milliseconds)
    if longest >= 1000:  # noqa: PLR2004
        return f"{_range([each / 1000 for each in milliseconds], 2)} s"
    digits = 2 - bisect((1.0, 100.0), longest)
    return f"{_range(milliseconds, digits)} ms"


def _range(values: Sequence[float], digits: int) -> str:
    """Numbers with so many digits, or more: only what is 0 reads as such."""
    smallest = min((abs(value) for value in values if value), default=1.0)
    needed = min(_MOST_DIGITS, max(digits, -math.floor(math.log10(smallest))))
    digits = needed if round(smallest, digits) == 0 else digits
    whole = (0.0, 100.0)  # exactly none and exactly all are told from what is close to them
    return " to ".join(f"{value:,.{0 if value in whole else digits}f}" for value in values)
