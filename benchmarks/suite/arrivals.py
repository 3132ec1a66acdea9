"""When requests are due: constant, Poisson and bursty arrivals, fixed before the load begins."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
#: Of bursty arrivals: seconds of load, and of silence after it; together a period.
ON_S: Final = 0.25
OFF_S: Final = 0.25


def constant(per_s: float, seconds: float) -> Times:
    """One request every ``1 / per_s`` seconds; offsets from the beginning, in seconds.

    Args:
        per_s: requests per second.
        seconds: for so long.

    Raises:
        ValueError: one of them is not positive.
    """
    _check(per_s, seconds)
    return np.arange(int(per_s * seconds)) / per_s


def poisson(per_s: float, seconds: float, seed: int = 0) -> Times:
    """Requests that know nothing of each other, as those of many users.

    Args:
        per_s: requests per second, in the long run.
        seconds: for so long.
        seed: equal seeds give equal times.

    Raises:
        ValueError: one of the first two is not positive.
    """
    _check(per_s, seconds)
    rng = np.random.default_rng(seed)
    # Given their number, the times of a Poisson process are independent and uniform.
    return np.sort(rng.uniform(0, seconds, rng.poisson(per_s * seconds)))


def bursty(per_s: float, seconds: float, seed: int = 0) -> Times:
    """Poisson arrivals in bursts of ``ON_S``, at a higher rate, and nothing for ``OFF_S`` after.

    Args:
        per_s: requests per second, on average over bursts and silence.
        seconds: for so long.
        seed: equal seeds give equal times.

    Raises:
        ValueError: one of the first two is not positive.
    """
    _check(per_s, seconds)
    period = ON_S + OFF_S
    whole, rest = divmod(seconds, period)
    loaded = whole * ON_S + min(rest, ON_S)
    times = poisson(per_s * period / ON_S, loaded, seed)
    return times + np.floor(times / ON_S) * OFF_S


KINDS: Final = {"constant": constant, "Poisson": poisson, "bursty": bursty}


def _check(per_s: float, seconds: float) -> None:
    if not (per_s > 0 and seconds > 0):
        raise ValueError(f"no load: {per_s:g} requests per second for {seconds:g} s")
