"""What the demo measured: accuracy, throughput, batches and times, from the stories of its jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from umbel_cli.demo.load import Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One run of the load.

    Attributes:
        jobs: how many were submitted, one by one.
        seconds: from the first submit to the last result in its producer's hands.
        per_second: jobs through seconds.
        batches: how many forwards ran them.
        sizes: how many batches there were of each size.
        reasons: how many batches were flushed for each reason.
        wait_ms: median and 95th percentile from a job's arrival to the start of its batch.
        compute_ms: the same for the computing of a batch.
    """

    jobs: int
    seconds: float
    per_second: float
    batches: int
    sizes: dict[int, int]
    reasons: dict[str, int]
    wait_ms: tuple[float, float]
    compute_ms: tuple[float, float]


def figures_of(shares: Sequence[Share]) -> Figures:
    """Counts one run.

    Args:
        shares: of all producers.
    """
    stories = [story for share in shares for story in share.stories]
    batches = {story.batch_id: story for story in stories}
    seconds = max(share.finished for share in shares) - min(share.started for share in shares)
    return Figures(
        jobs=len(stories),
        seconds=seconds,
        per_second=len(stories) / seconds,
        batches=len(batches),
        sizes=dict(sorted(Counter(each.batch_size or 0 for each in batches.values()).items())),
        reasons=dict(Counter(str(each.flush_reason) for each in batches.values())),
        wait_ms=_spread([story.wait_ms or 0 for story in stories]),
        compute_ms=_spread([each.compute_ms or 0.0 for each in batches.values()]),
    )


def guesses(shares: Sequence[Share], count: int) -> NDArray[np.int64]:
    """What each digit was read as, ``[count]``; -1 for one whose jobs do not agree.

    Args:
        shares: of all producers.
        count: how many digits there are.
    """
    rows = np.concatenate([share.rows for share in shares])
    read = np.concatenate([share.logits for share in shares]).argmax(axis=1)
    result = np.full(count, -1, dtype=np.int64)
    result[rows] = read
    result[rows[result[rows] != read]] = -1
    return result


def _spread(values: Sequence[float]) -> tuple[float, float]:
    middle, high = np.percentile(values, [50, 95])
    return float(middle), float(high)
