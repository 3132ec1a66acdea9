"""The versions of a route side by side, each figure and each difference with how sure it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from umbel_registry.figures import Figures
from umbel_registry.intervals import CONFIDENCE, Bounds, newcombe, square_and_add, wilson

Verdict = Literal["better", "worse", "no clear difference"]
#: Quantiles of the latency that are told, by name; for the middle two versions are compared too.
QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
COMPARED: Final = ("p50", "p95")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value and where the true one lies.

    Attributes:
        value: as measured.
        low: lower end of its interval.
        high: upper end; ``inf``, in JSON ``null``, where there are too few samples to tell.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A version's figure less that of the baseline; of these figures less is better.

    Attributes:
        value: as measured.
        low: lower end of its interval; ``-inf``, in JSON ``null``, where there are too few samples.
        high: upper end; ``inf``, in JSON ``null``, where there are too few samples.
        verdict: ``better`` or ``worse`` where the interval leaves out 0.
    """

    value: float
    low: float
    high: float
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How the outputs of a shadow compare with those that were given for the same inputs.

    Attributes:
        pairs: inputs for which there were both.
        equal: the share of pairs that agree; ``None`` where there are none.
        same_top: the share of pairs whose largest entries have the same place; ``None`` where
            outputs are not a row of numbers.
        unlike: pairs without a difference that could be measured: other shapes, names or types.
        mean_difference: mean of the differences of all other pairs, relative to the largest number
            of each output; ``None`` if there are none.
        largest_difference: the largest of them.
        failed_pairs: inputs for which only the shadow failed.
        failed: their share of these and the pairs.
    """

    pairs: int
    equal: Estimate | None
    same_top: Estimate | None
    unlike: int
    mean_difference: float | None
    largest_difference: float | None
    failed_pairs: int
    failed: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFigures:
    """One version's part of a comparison; ``None`` where nothing was measured.

    Attributes:
        version: the version.
        shadow: whether it gets copies only, whose outputs nobody sees.
        jobs: how many it has settled.
        share: its part of the jobs of all versions but shadows.
        failed: how many of its jobs failed.
        errors: the share of its jobs that failed.
        latency: from arrival of a job to its end, in ms, by name of the quantile.
        batches: how many batches it ran.
        batch_size: jobs in a batch, on average.
        compute_ms: computing a batch, on average.
        padding: elements that fill up shorter inputs in their batches, for each real one.
        agreement: of its outputs, for a shadow.
        against_baseline: its differences from the baseline: ``errors``, and of the latency ``p50``
            and ``p95``. A shadow's latency is not compared: its jobs wait until no others do.
    """

    version: str
    shadow: bool
    jobs: int
    share: float | None
    failed: int
    errors: Estimate | None
    latency: dict[str, Estimate]
    batches: int
    batch_size: float | None
    compute_ms: float | None
    padding: float | None
    agreement: Agreement | None
    against_baseline: dict[str, Difference]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Versions side by side.

    Attributes:
        baseline: the version that all others are compared with.
        confidence: how often an interval covers the truth. Each is for itself: of twenty
            differences between equal versions, one is expected to look clear at 0.95.
        versions: the baseline first.
    """

    baseline: str
    confidence: float
    versions: list[VersionFigures]

    def of(self, version: str) -> VersionFigures:
        """The figures of one version.

        Args:
            version: one of those compared.

        Raises:
            KeyError: it is not.
        """
        return {each.version: each for each in self.versions}[version]


def compare(
    figures: Mapping[str, Figures],
    baseline: str,
    *,
    shadows: Collection[str] = (),
    confidence: float = CONFIDENCE,
) -> Comparison:
    """Compares versions.

    Jobs of one batch end together and may fail together, so they do not count as so many
    independent ones: for latency there are only as many as batches, for errors as the failures of
    the version show, or those of the others where it has none.

    Args:
        figures: of each version, in the order in which they shall be told.
        baseline: the version, one of ``figures``, to compare all others with.
        shadows: versions that get copies only.
        confidence: how often an interval shall cover the truth.
    """
    answered = sum(each.jobs for version, each in figures.items() if version not in shadows)
    order = sorted(figures, key=lambda version: version != baseline)
    clumping = max(each.clumping for each in figures.values())
    trials = {
        version: each.independent_jobs(None if each.failed else clumping)
        for version, each in figures.items()
    }

    def told(version: str) -> VersionFigures:
        own, shadow = figures[version], version in shadows
        return VersionFigures(
            version=version,
            shadow=shadow,
            jobs=own.jobs,
            share=own.jobs / answered if answered and not shadow else None,
            failed=own.failed,
            errors=_proportion(own.failed, own.jobs, confidence, trials[version]),
            latency=_latency(own, confidence),
            batches=own.batches,
            batch_size=own.jobs / own.batches if own.batches else None,
            compute_ms=own.compute_ms / own.batches if own.batches else None,
            padding=own.padding,
            agreement=_agreement(own, confidence),
            against_baseline={} if version == baseline else against(version),
        )

    def against(version: str) -> dict[str, Difference]:
        own, base = figures[version], figures[baseline]
        errors = _more_errors(own, base, trials[version], trials[baseline], confidence)
        return errors if version in shadows else errors | _slower(own, base, confidence)

    return Comparison(baseline, confidence, [told(version) for version in order])


def _proportion(
    count: int, total: int, confidence: float, trials: float | None = None
) -> Estimate | None:
    """A share of a total that is worth so many independent trials; ``None`` of nothing."""
    if not total:
        return None
    worth = total if trials is None else trials
    bounds = wilson(count / total * worth, worth, confidence)
    return Estimate(count / total, bounds.low, bounds.high)


def _latency(figures: Figures, confidence: float) -> dict[str, Estimate]:
    estimates = {}
    for name, q in QUANTILES.items():
        value = figures.latency.quantile(q)
        if value is not None:
            bounds = figures.latency.quantile_interval(q, confidence, independent=figures.batches)
            estimates[name] = Estimate(value, bounds.low, bounds.high)
    return estimates


def _agreement(figures: Figures, confidence: float) -> Agreement | None:
    if not figures.pairs and not figures.failed_pairs:
        return None
    measured = figures.pairs - figures.unlike
    return Agreement(
        pairs=figures.pairs,
        equal=_proportion(figures.equal, figures.pairs, confidence),
        same_top=_proportion(figures.same_top, figures.tops, confidence),
        unlike=figures.unlike,
        mean_difference=figures.difference / measured if measured else None,
        largest_difference=figures.largest if measured else None,
        failed_pairs=figures.failed_pairs,
        failed=_proportion(figures.failed_pairs, figures.pairs + figures.failed_pairs, confidence),
    )


def _more_errors(
    own: Figures, base: Figures, trials: float, base_trials: float, confidence: float
) -> dict[str, Difference]:
    """The difference of the error rates."""
    if not own.jobs or not base.jobs:
        return {}
    first, second = own.failed / own.jobs, base.failed / base.jobs
    bounds = newcombe(first * trials, trials, second * base_trials, base_trials, confidence)
    return {"errors": _difference(first - second, bounds)}


def _slower(own: Figures, base: Figures, confidence: float) -> dict[str, Difference]:
    """The differences of the quantiles of the latency."""
    first, second = _latency(own, confidence), _latency(base, confidence)
    found: dict[str, Difference] = {}
    for name in COMPARED:
        if name in first and name in second:
            one, other = first[name], second[name]
            bounds = square_and_add(
                *(one.value, Bounds(one.low, one.high)),
                *(other.value, Bounds(other.low, other.high)),
            )
            found[name] = _difference(one.value - other.value, bounds)
    return found


def _difference(value: float, bounds: Bounds) -> Difference:
    verdict: Verdict = "no clear difference"
    if bounds.excludes(0.0):
        verdict = "worse" if value > 0 else "better"
    return Difference(value, bounds.low, bounds.high, verdict)
