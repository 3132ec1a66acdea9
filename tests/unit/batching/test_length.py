"""Codes of lengths, and which jobs share a batch by them: the best choice that there is."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import fakeredis
import pytest

from umbel_batching.length import CODES, NO_LENGTH, code_of, longest_of
from umbel_batching.scripts import _prelude_for

#: What the script gets: most jobs, most cost, strictly in order, classes apart; then uid and score
#: of each job looked at, then the uids in a hurry.
_BODY = """
local most, cost, count = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[5])
local strict, apart = ARGV[3] == '1', ARGV[4] == '1'
local found, hurry = {}, {}
for at = 6, 5 + 2 * count do found[at - 5] = ARGV[at] end
for at = 6 + 2 * count, #ARGV do hurry[#hurry + 1] = ARGV[at] end
return by_length(found, apart, hurry, most, cost, strict)
"""
_ARRIVAL = 1_780_000_000_000


@dataclass(frozen=True)
class Window:
    """Jobs that were looked at, in the order of their line, by their places.

    Attributes:
        lengths: of each.
        most: jobs of a batch.
        cost: of it at most; 0: no limit.
        hurry: places of those in a hurry.
        bands: of the class of each; none: all of one class.
        strict: whether they are taken as they come.
    """

    lengths: tuple[int, ...]
    most: int = 4
    cost: int = 0
    hurry: frozenset[int] = frozenset()
    bands: tuple[int, ...] = ()
    strict: bool = False

    def fits(self, places: Sequence[int]) -> bool:
        longest = max(self.lengths[place] for place in places)
        affordable = not self.cost or len(places) * longest <= self.cost
        return len(places) == 1 or (len(places) <= self.most and affordable)

    def waste(self, places: Sequence[int]) -> int:
        taken = [self.lengths[place] for place in places]
        return len(taken) * max(taken) - sum(taken)


@pytest.fixture(scope="module")
def server() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis()


def chosen(server: fakeredis.FakeRedis, window: Window) -> list[int]:
    """What the script takes of a window."""
    bands = window.bands or (0,) * len(window.lengths)
    found: list[str] = []
    for place, (length, band) in enumerate(zip(window.lengths, bands, strict=True)):
        code = code_of(length) if length else NO_LENGTH
        found += (str(place), repr(band + _ARRIVAL + place + code / CODES))
    flags = (int(window.strict), int(bool(window.bands)), len(window.lengths))
    args: list[int | str] = [window.most, window.cost, *flags, *found, *sorted(window.hurry)]
    reply = server.eval(_prelude_for(_BODY) + _BODY, 0, *args)
    assert isinstance(reply, list)
    places = [int(place) for place in reply]
    assert places == sorted(set(places))
    return places


def random_window(chance: random.Random, count: int, hurry: float = 0) -> Window:
    lengths = [chance.choice((1, 2, 3, 5, 8, 13, 20)) for _ in range(count)]
    urgent = frozenset(place for place in range(1, count) if chance.random() < hurry)
    cost = chance.choice((0, 0, 10, 25, 60))
    return Window(tuple(lengths), chance.randint(1, 6), cost, urgent)


def certain(window: Window) -> list[int]:
    """The first in line, then those in a hurry, as far as they have room."""
    taken = [0]
    for place in sorted(window.hurry):
        if window.fits([*taken, place]):
            taken.append(place)
    return taken


def test_each_length_has_the_lowest_code_that_is_not_shorter() -> None:
    assert longest_of(NO_LENGTH) == 0
    for code in range(1, CODES - 1):
        longest = longest_of(code)
        assert code_of(longest) <= code
        assert longest_of(code_of(longest)) == longest
        assert longest_of(code_of(longest + 1)) >= longest + 1


@pytest.mark.parametrize("length", [*range(1, 24), *(2**octave for octave in range(32))])
def test_short_lengths_and_powers_of_two_are_exact(length: int) -> None:
    assert longest_of(code_of(length)) == length


def test_lengths_are_rounded_up_by_less_than_a_step() -> None:
    chance = random.Random(0)
    for _ in range(2_000):
        length = chance.randint(1, 2 ** chance.randint(1, 31))
        assert length <= longest_of(code_of(length)) < length * 1.045


def test_lengths_beyond_all_codes_have_the_first_and_the_last() -> None:
    assert (code_of(0), code_of(-1), code_of(2**40)) == (1, 1, CODES - 1)


def test_of_all_batches_with_the_first_in_line_the_best_is_taken(
    server: fakeredis.FakeRedis,
) -> None:
    """Against every subset: the most jobs, then the least padding, then the oldest of a length."""
    chance = random.Random(1)
    for _ in range(250):
        window = random_window(chance, chance.randint(1, 8), chance.choice((0, 0, 0.3)))
        first = certain(window)
        others = [place for place in range(len(window.lengths)) if place not in first]
        subsets = (
            [*first, *more]
            for count in range(len(others) + 1)
            for more in itertools.combinations(others, count)
        )
        best = max((len(each), -window.waste(each)) for each in subsets if window.fits(each))
        taken = chosen(server, window)
        assert set(first) <= set(taken), window
        assert window.fits(taken), window
        assert (len(taken), -window.waste(taken)) == best, window
        left = [place for place in others if place not in taken]
        for place in set(taken) - set(first):
            alike = [each for each in left if window.lengths[each] == window.lengths[place]]
            assert all(place < each for each in alike), window


def test_large_windows_keep_every_bound(server: fakeredis.FakeRedis) -> None:
    chance = random.Random(2)
    for _ in range(60):
        lengths = tuple(round(chance.lognormvariate(3, 1)) + 1 for _ in range(500))
        window = Window(lengths, 64, chance.choice((0, 500, 4_096)))
        taken = chosen(server, window)
        assert taken[0] == 0
        assert window.fits(taken)
        if not window.cost:
            assert len(taken) == 64
            assert window.waste(taken) <= window.waste(range(64))


@pytest.mark.parametrize("cost", [0, 12])
def test_equal_lengths_are_taken_as_they_come(server: fakeredis.FakeRedis, cost: int) -> None:
    window = Window((3,) * 20, cost=cost)
    assert chosen(server, window) == [0, 1, 2, 3]


def test_one_that_costs_too_much_runs_alone(server: fakeredis.FakeRedis) -> None:
    assert chosen(server, Window((50, 1, 1, 50), cost=40)) == [0]
    assert chosen(server, Window((1, 50, 1, 50), cost=40)) == [0, 2]


def test_strictly_in_order_length_decides_only_how_many(server: fakeredis.FakeRedis) -> None:
    window = Window((2, 8, 2, 2, 9, 2), most=5, strict=True)
    assert chosen(server, window) == [0, 1, 2, 3, 4]
    assert chosen(server, replace(window, cost=24)) == [0, 1, 2]
    assert chosen(server, replace(window, cost=1)) == [0]


def test_jobs_without_a_length_go_with_all(server: fakeredis.FakeRedis) -> None:
    assert chosen(server, Window((0, 8, 0, 0, 9), cost=24)) == [0, 2, 3]
    assert chosen(server, Window((0, 0, 0, 0, 0), cost=1)) == [0, 1, 2, 3]


def test_higher_classes_are_not_passed_over(server: fakeredis.FakeRedis) -> None:
    bands = (-(10**13),) * 3 + (0,) * 3
    assert chosen(server, Window((5, 20, 9, 5, 20, 5), 4, bands=bands)) == [0, 1, 2, 3]
    assert chosen(server, Window((5, 20, 9, 5, 20, 5), 2, bands=bands)) == [0, 2]
    # The long one has no room beside the first; what is left goes to the class below.
    assert chosen(server, Window((5, 20, 9, 5, 20, 5), 4, cost=30, bands=bands)) == [0, 2, 3]


def test_one_in_a_hurry_goes_before_those_that_fit_better(server: fakeredis.FakeRedis) -> None:
    window = Window((2, 2, 2, 2, 2, 30), hurry=frozenset((5,)))
    assert chosen(server, window) == [0, 1, 2, 5]
    assert chosen(server, replace(window, cost=20)) == [0, 1, 2, 3]
