"""Lengths of inputs in nine bits: how much a job weighs in a batch that is padded.

A waiting job's length stands in its score, so that a claim can put jobs of like length together
without reading them, and there is room for 512 codes. Code 0 is no length; the others are steps of
a sixteenth of an octave. A length is rounded up to its step, so that what a batch costs is never
underestimated, and by less than 4.5 percent: up to 23, and for every power of two, not at all.
"""

from __future__ import annotations

from bisect import bisect_left

#: Steps in which a length doubles; the scripts know it too.
PER_OCTAVE = 16
#: Number of codes: they are parts of a millisecond in a score, which stays an exact double.
CODES = 512
#: The code of whatever has no length: all inputs of a model of fixed shapes.
NO_LENGTH = 0
_LONGEST = [int(2 ** (step / PER_OCTAVE)) for step in range(CODES - 1)]


def code_of(length: int) -> int:
    """The code of a length, 1 to 511.

    Args:
        length: in whatever unit; less than 1 counts as 1, more than 3.9e9 as that.
    """
    return min(bisect_left(_LONGEST, length) + 1, CODES - 1)


def longest_of(code: int) -> int:
    """The longest length that a code stands for; 0 for ``NO_LENGTH``.

    Args:
        code: 0 to 511.
    """
    return _LONGEST[code - 1] if code else 0
