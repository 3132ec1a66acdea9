"""What one scenario found, and which promises it broke."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the fault table.

    Attributes:
        name: of the scenario.
        title: the fault in words.
        accepted: jobs that ``submit`` returned for.
        visible: those whose result, or whose failure where it is deserved, a client got.
        lost: accepted jobs without one.
        wrong: results that are not what plain torch gives, and failures of innocent jobs.
        published_twice: jobs whose outcome was pushed again, or whose terminal record changed.
        computed_twice: jobs that went into a forward more than once.
        recoveries: milliseconds from a fault to each result it held up.
        note: what was done, and what else was seen.
        allowed_loss: most jobs that may be lost; ``None``: the promise is that none is.
        broken: sentences about promises that did not hold.
    """

    name: str
    title: str
    accepted: int = 0
    visible: int = 0
    lost: int = 0
    wrong: int = 0
    published_twice: int = 0
    computed_twice: int = 0
    recoveries: tuple[float, ...] = ()
    note: str = ""
    allowed_loss: int | None = None
    broken: tuple[str, ...] = ()

    @property
    def p50_ms(self) -> float | None:
        """Median recovery."""
        return median(self.recoveries) if self.recoveries else None

    @property
    def max_ms(self) -> float | None:
        """Longest recovery."""
        return max(self.recoveries, default=None)

    def problems(self) -> list[str]:
        """Sentences about all promises of this row that did not hold; empty if all is well."""
        found = list(self.broken)
        if not self.accepted and not found:
            found.append("no job was accepted, so nothing was tried")
        if self.lost > (self.allowed_loss or 0):
            found.append(f"{self.lost} accepted jobs are lost")
        if self.wrong:
            found.append(f"{self.wrong} results are wrong")
        if self.published_twice and self.allowed_loss is None:
            found.append(f"{self.published_twice} results were published twice")
        return found
