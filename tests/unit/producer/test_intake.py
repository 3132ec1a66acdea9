"""The jobs of a call are told in the order of its rows, however they got into their lanes."""

from __future__ import annotations

import random

import pytest

from umbel._intake import Group, Intake
from umbel._way import Target
from umbel_batching.lanes import Lane, new_uid
from umbel_batching.values import NewJob
from umbel_config.errors import LaneFull, StoreUnavailable
from umbel_registry import Signature, TensorSpec

SPEC = {"x": TensorSpec(dtype="float32")}


def group(version: str, rows: list[int]) -> Group:
    target = Target(Lane(model="digits", version=version), Signature(inputs=SPEC, outputs=SPEC))
    return Group(target, [NewJob(new_uid(), b"x") for _ in rows], rows)


def names(rows: list[int]) -> list[str]:
    return [f"job {row}" for row in rows]


@pytest.fixture
def two() -> tuple[Intake[str], Group, Group]:
    first, second = group("3", [0, 1, 4, 5]), group("4", [2, 3, 6])
    return Intake[str]([first, second]), first, second


def test_jobs_are_told_in_the_order_of_their_rows(two: tuple[Intake[str], Group, Group]) -> None:
    intake, first, second = two
    assert list(intake.open()) == [first, second]
    assert intake.left == 7
    intake.note(second, names([2, 3, 6]))
    intake.note(first, names([0, 1]))
    assert intake.left == 2
    assert intake.accepted() == names([0, 1, 2, 3, 6])
    assert intake.ready() == names([0, 1, 2, 3])
    assert intake.ready() == []
    intake.note(first, names([4, 5]))
    assert intake.ready() == names([4, 5, 6])
    assert intake.left == 0


def test_each_try_tells_only_what_it_brought_in(two: tuple[Intake[str], Group, Group]) -> None:
    intake, first, second = two
    list(intake.open())
    intake.note(first, names([0, 1, 4, 5]))
    assert list(intake.open()) == [second]
    assert intake.accepted() == []
    intake.note(second, names([2]))
    assert intake.accepted() == ["job 2"]
    assert second.waiting == second.new[1:]
    list(intake.open())
    intake.note(second, names([3, 6]))
    assert intake.accepted() == ["job 3", "job 6"]
    assert list(intake.open()) == []
    assert intake.ready() == names(list(range(7)))


@pytest.mark.parametrize("kind", [LaneFull, StoreUnavailable])
def test_error_carries_rows_and_jobs_that_belong_together(
    two: tuple[Intake[str], Group, Group], kind: type[LaneFull | StoreUnavailable]
) -> None:
    intake, first, second = two
    error = LaneFull("full", retry_after=1) if kind is LaneFull else StoreUnavailable("gone")
    list(intake.open())
    intake.note(second, names([2, 3, 6]))
    intake.note(first, names([0]))
    intake.tell(error)
    assert error.accepted == 4
    assert error.rows == (0, 2, 3, 6)
    assert error.jobs == ("job 0", "job 2", "job 3", "job 6")
    again = StoreUnavailable("gone")
    list(intake.open())
    intake.tell(again)
    assert (again.accepted, again.rows, again.jobs) == (0, (), ())


def test_nothing_to_bring_in() -> None:
    intake = Intake[str]([])
    assert (list(intake.open()), intake.left) == ([], 0)
    assert intake.accepted() == intake.ready() == []


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_bundles_tells_each_job_once_and_in_order(seed: int) -> None:
    chance, rows = random.Random(seed), list(range(60))
    owners = [chance.randrange(4) for _ in rows]
    groups = [group(str(lane), [r for r in rows if owners[r] == lane]) for lane in range(4)]
    intake, told = Intake[str]([each for each in groups if each.new]), list[str]()
    while intake.left:
        chosen = chance.choice(list(intake.open()))
        size = chance.randint(1, len(chosen.waiting))
        fresh = [*chosen.rows[chosen.place : chosen.place + size]]
        intake.note(chosen, names(fresh))
        assert intake.accepted() == names(sorted(fresh))
        told += intake.ready()
    assert told == names(rows)


def test_one_lane_takes_its_rows_as_a_range() -> None:
    only = group("3", list(range(5)))
    only.rows = range(5)
    intake = Intake[str]([only])
    list(intake.open())
    intake.note(only, names([0, 1]))
    intake.note(only, names([2, 3, 4]))
    assert intake.accepted() == names(list(range(5)))


def test_more_jobs_than_there_are_rows_are_a_mistake() -> None:
    only = group("3", [0, 1])
    with pytest.raises(ValueError, match="zip"):
        Intake[str]([only]).note(only, names([0, 1, 2]))
