"""How the batch sizes that workers chose are shown: what is in force, and what it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.table import Table
from rich.text import Text

from umbel_batching.census import LaneStatus
from umbel_batching.policy import BatchPolicy
from umbel_batching.tuning import Tuned

#: Why a size is in force, in words.
_WHY = {
    "objective": "a larger one would miss it",
    "efficient": "a larger one is no faster",
    "bound": "max_batch_size",
    "learning": "still growing",
    "unattainable": "no size holds it",
}
#: A batch cost misjudged by more than this part is worth a look.
_ODD = 0.2
_COLUMNS = ("objective", "size", "wait", "a + b·n, ms", "foretold", "seen", "off", "p95")


def mode_text(policy: BatchPolicy) -> str:
    """Mode and objective of a policy, in a few words."""
    if not policy.objective_ms:
        return "static"
    return f"adaptive, 95 of 100 jobs within {policy.objective_ms:,} ms"


def tuning_table(lanes: Iterable[LaneStatus]) -> Table:
    """What was chosen for the adaptive lanes among ``lanes``, one row for each kind of device."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("adaptive lane", no_wrap=True)
    table.add_column("device")
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why this size")
    for lane in lanes:
        if lane.mode == "adaptive" and not lane.tuned:
            blanks = ["-"] * (len(_COLUMNS) - 1)
            table.add_row(
                lane.lane, "-", f"{lane.latency_objective_ms:,} ms", *blanks, "no batch yet"
            )
        for told in lane.tuned:
            table.add_row(lane.lane, told.kind, *_cells(told), _WHY[told.why])
    return table


def tuning_lines(lane: LaneStatus | None) -> Iterator[str]:
    """The same of one lane in sentences; none for a lane that is static or not there."""
    if lane is None or lane.mode == "static":
        return
    if not lane.tuned:
        yield "adaptive: no batch yet"
    for told in lane.tuned:
        seen = "none ran lately"
        if told.observed_ms is not None:
            seen = f"{told.observed_ms:.3g} seen"
        off = "" if told.error is None else f", {told.error:.0%} off on average"
        yield (
            f"{told.kind}: up to {told.size:,} jobs, waiting at most {told.wait_ms} ms "
            f"({_WHY[told.why]}); a batch of n takes {_line(told)} ms; "
            f"of {told.size:,}: {told.cost_ms:.3g} ms foretold, {seen}{off}; "
            f"p95 {told.latency_ms:.3g} ms"
        )


def _cells(told: Tuned) -> Iterator[str | Text]:
    yield f"{told.objective_ms:,} ms"
    yield f"{told.size:,}"
    yield f"{told.wait_ms} ms"
    yield _line(told)
    yield f"{told.cost_ms:.3g} ms"
    yield "-" if told.observed_ms is None else f"{told.observed_ms:.3g} ms"
    odd = told.error is not None and told.error > _ODD
    yield Text("-" if told.error is None else f"{told.error:.0%}", style="yellow" if odd else "")
    missed = told.latency_ms > told.objective_ms
    yield Text(f"{told.latency_ms:.3g} ms", style="yellow" if missed else "")


def _line(told: Tuned) -> str:
    return f"{told.fixed_ms:.3g} + {told.per_job_ms:.3g}·n"
