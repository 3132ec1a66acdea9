"""Finds out whether a row's outputs depend on the rows that share its batch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from umbel_config.errors import BatchUnsafe, ModelFolderInvalid
from umbel_registry.differences import Comparer, Difference
from umbel_registry.dryrun import checked_examples, try_rows
from umbel_registry.loading import WrongRowCount
from umbel_registry.manifest import Manifest
from umbel_registry.precision import computes_coarsely, without_tf32
from umbel_registry.trials import make_trial, padded_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from umbel_registry.loading import LoadedModel
    from umbel_registry.trials import Trial

_RANDOM = (
    "Likely cause: dropout in a module that was exported in training mode (call model.eval() "
    "before the export), another random operation, or state that is kept from run to run."
)
_NEIGHBOURS = (
    "Likely cause: BatchNorm in a module that was exported in training mode (call model.eval() "
    "before the export), or an operation over the batch axis: softmax(dim=0), a mean of the batch, "
    "dynamic quantisation with one scale for all rows."
)
_PADDING = (
    "Only rows that were padded differ. Likely cause: a mean, attention, convolution or recurrent "
    "state that takes padding for data; declare a mask in model.yaml and leave out what it says."
)
_WAY_OUT = "Mend the model, or admit it as it is with --accept-batch-variance."


@dataclass(frozen=True, slots=True)
class _Comparison:
    """The outputs of the samples, computed in two ways.

    Attributes:
        how: both ways, in words.
        expected: outputs by sample.
        got: outputs by sample, the other way.
        padded: whether each sample was padded then.
    """

    how: str
    expected: list[Any]
    got: list[Any]
    padded: list[bool]


@dataclass(frozen=True, slots=True)
class _Finding:
    """One row that differs in one comparison."""

    comparison: _Comparison
    place: int
    difference: Difference


def batch_variance(model: LoadedModel, *, accept: bool = False) -> float | None:
    """Runs samples alone, in one batch, again, in another order and among other neighbours.

    Samples are the model's examples, else made up; they are at most four, and the largest batch
    has eight rows.

    Args:
        model: loaded, and past its dry run.
        accept: whether outputs may vary.

    Returns:
        ``None`` for a model whose rows are the same whatever shares their batch, up to rounding.
        Else the largest difference, as a part of the output's largest value; 1 where no number
        can tell it.

    Raises:
        BatchUnsafe: outputs vary and ``accept`` is false, or rows come back in another order; the
            sentence says which, by how much, and what the likely cause is.
        ModelFolderInvalid: the model fails on a sample, or loses rows of a larger batch.
    """
    known = model.manifest
    policy = known.policy if isinstance(known, Manifest) else known.batching
    trial = make_trial(model.signature, checked_examples(model), policy.max_batch_size)
    with without_tf32():
        comparisons = list(_compare(model, trial))
        comparer = _comparer(model, comparisons)
        findings = _find(comparer, comparisons)
        if findings and computes_coarsely(lambda: _run(model, trial.samples)):
            comparer = _comparer(model, comparisons, coarse=True)
            findings = _find(comparer, comparisons)
    if not findings:
        return None
    twice, *others = comparisons
    _refuse_disorder(model, comparer, others)
    worst = max(findings, key=_size)
    if accept:
        return _size(worst)
    random = [finding for finding in findings if finding.comparison is twice]
    if random:
        raise _unsafe(model, max(random, key=_size), _RANDOM)
    raise _unsafe(model, worst, _cause(findings, others))


def _size(finding: _Finding) -> float:
    return finding.difference.relative


def _compare(model: LoadedModel, trial: Trial) -> Iterator[_Comparison]:
    samples, count = trial.samples, len(trial.samples)
    padded = padded_rows(model.signature, samples)
    alone = [_run(model, [row])[0] for row in samples]
    batch = _run(model, samples)
    how = f"in the same batch of {count} run twice"
    yield _Comparison(how, batch, _run(model, samples), padded)
    how = f"alone and in a batch of {count}"
    yield _Comparison(how, alone, batch, padded)
    turned = _run(model, [*samples[1:], samples[0]])
    yield _Comparison(f"{how} in another order", alone, [turned[-1], *turned[:-1]], padded)
    yield _among(model, trial, alone)


def _among(model: LoadedModel, trial: Trial, alone: list[Any]) -> _Comparison:
    neighbours, likeness = trial.neighbours, trial.likeness
    try:
        results = _run(model, [*neighbours, *trial.samples])
    except ModelFolderInvalid as error:
        if isinstance(error.__cause__, WrongRowCount):
            raise
        # Made up as they are, they may be what this model rightly refuses.
        neighbours, likeness = trial.copies, "rows of its own kind"
        results = _run(model, [*neighbours, *trial.samples])
    start = len(neighbours)
    padded = padded_rows(model.signature, [*neighbours, *trial.samples])[start:]
    how = f"alone and in a batch of {len(results)} after {likeness}"
    return _Comparison(how, alone, results[start:], padded)


def _run(model: LoadedModel, rows: Sequence[Any]) -> list[Any]:
    # A copy: a model may hand out a buffer that its next run writes into.
    return copy.deepcopy(try_rows(model, list(rows)))


def _comparer(
    model: LoadedModel, comparisons: list[_Comparison], *, coarse: bool = False
) -> Comparer:
    rows = [row for each in comparisons for row in (*each.expected, *each.got)]
    return Comparer(tuple(model.signature.outputs), rows, coarse=coarse)


def _find(comparer: Comparer, comparisons: list[_Comparison]) -> list[_Finding]:
    return [
        _Finding(each, place, difference)
        for each in comparisons
        for place, (expected, got) in enumerate(zip(each.expected, each.got, strict=True))
        if (difference := comparer.worst(expected, got)) is not None
    ]


def _refuse_disorder(
    model: LoadedModel, comparer: Comparer, comparisons: list[_Comparison]
) -> None:
    """Rows that are right but in a wrong order are no variance: each job would get another's."""
    for each in comparisons:
        matches = [
            [place for place, row in enumerate(each.expected) if comparer.worst(row, got) is None]
            for got in each.got
        ]
        order = [match[0] for match in matches if len(match) == 1]
        if order != list(range(len(matches))) and sorted(order) == list(range(len(matches))):
            place = next(place for place, source in enumerate(order) if place != source)
            raise BatchUnsafe(
                f"Batch safety of {model.manifest.name}: in a batch of {len(order)}, the place of "
                f"row {place} holds what row {order[place]} gives alone. Rows must come back in "
                "the order of the inputs, or each job gets the result of another one."
            )


def _cause(findings: list[_Finding], comparisons: list[_Comparison]) -> str:
    differing = {(id(each.comparison), each.place) for each in findings}
    unharmed = any(
        (id(each), place) not in differing
        for each in comparisons
        for place, padded in enumerate(each.padded)
        if not padded
    )
    padded = all(each.comparison.padded[each.place] for each in findings)
    return _PADDING if padded and unharmed else _NEIGHBOURS


def _unsafe(model: LoadedModel, finding: _Finding, cause: str) -> BatchUnsafe:
    found = finding.difference
    bound = found.bound and f"; {found.bound}"
    return BatchUnsafe(
        f"Batch safety of {model.manifest.name}: row {finding.place} of {found.where}, "
        f"{finding.comparison.how}, {found.problem}{bound}. {cause} {_WAY_OUT}",
        variance=found.relative,
    )
