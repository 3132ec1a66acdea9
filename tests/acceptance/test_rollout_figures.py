"""The rollout benchmark counts rightly, judges as promised, and leaves no job out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rollout import company, figures, page, plot
from rollout.company import Reading, Span
from rollout.jobs import OUTPUTS, Fate, Jobs
from rollout.run import Run
from rollout.story import Event
from rollout.submitter import Submitter
from rollout.verdict import Verdict
from rollout.versions import MODEL, ROWS, TOLERANCE, answers

from umbel_batching.lanes import slot_of
from umbel_config.errors import JobFailed, LaneFull, ResultTimeout
from umbel_registry.fleet import Held

PER_S, BEGIN, FLIP, END = 100, 1000.0, 1005.0, 1010.0
#: What versions make of the rows, one number a version.
ANSWERS = {each: np.full((ROWS, OUTPUTS), each, np.float32) for each in (1, 2)}


def story(latency_ms: float = 10.0) -> Jobs:
    """Ten seconds of jobs: version 1, and from ``FLIP`` on version 2."""
    jobs = Jobs.empty(round((END - BEGIN) * PER_S))
    jobs.due[:] = BEGIN + np.arange(len(jobs)) / PER_S
    jobs.done[:] = jobs.due + latency_ms / 1000
    jobs.fates[:] = Fate.ANSWERED
    jobs.versions[:] = np.where(jobs.due < FLIP, 1, 2)
    for place, version in enumerate(jobs.versions.tolist()):
        jobs.ids[place] = f"{slot_of(f'{MODEL}@{version}')}-{place:032x}".encode()
        jobs.outputs[place] = version
    return jobs


def promoted() -> Event:
    return Event("promote", 2, FLIP, FLIP)


def test_a_run_in_order_has_no_bad_job() -> None:
    count = figures.count(story(), ANSWERS)
    assert (count.jobs, count.answered, count.bad) == (1000, 1000, 0)


def mixed(jobs: Jobs) -> None:
    jobs.outputs[7, : OUTPUTS // 2] = 2


def elsewhere(jobs: Jobs) -> None:
    jobs.versions[7] = 2


def ended(fate: Fate) -> Callable[[Jobs], None]:
    def end(jobs: Jobs) -> None:
        jobs.fates[7], jobs.done[7] = fate, np.nan

    return end


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (mixed, "wrong"),
        (elsewhere, "misplaced"),
        (ended(Fate.FAILED), "failed"),
        (ended(Fate.REFUSED), "refused"),
        (ended(Fate.LOST), "lost"),
    ],
)
def test_each_way_to_go_wrong_is_counted(spoil: Callable[[Jobs], None], name: str) -> None:
    jobs = story()
    spoil(jobs)
    count = figures.count(jobs, ANSWERS)
    assert (getattr(count, name), count.bad) == (1, 1)


def test_answers_of_versions_cannot_be_taken_for_each_other() -> None:
    first, second = answers(1), answers(2)
    assert np.abs(first - second).max(axis=1).min() > 50 * TOLERANCE
    np.testing.assert_array_equal(first, answers(1))


def test_latency_is_of_the_jobs_due_then_and_one_without_a_result_takes_forever() -> None:
    jobs = story()
    jobs.done[:100] += 0.5
    slow, usual = (figures.between(jobs, at, at + 1) for at in (BEGIN, BEGIN + 1))
    assert (slow.jobs, usual.jobs) == (100, 100)
    assert slow.p50 == pytest.approx(510)
    assert usual.worst == pytest.approx(10)
    jobs.done[150] = np.nan
    assert figures.between(jobs, BEGIN + 1, BEGIN + 2).worst == np.inf


def test_a_long_event_is_judged_by_its_worst_slice() -> None:
    jobs = story()
    jobs.done[350:400] += 0.2
    long = Event("push", 2, BEGIN + 1, BEGIN + 7)
    assert figures.around(jobs, long).p99 == pytest.approx(210)
    assert figures.around(jobs, replace(long, end=BEGIN + 1)).p99 == pytest.approx(10)


def test_flips_tell_the_first_of_the_new_and_the_last_of_the_old() -> None:
    jobs = story()
    jobs.done[499] += 0.3
    (flip,) = figures.flips(jobs, [promoted()], [1, 2])
    assert flip.first_new == pytest.approx(0.01)
    assert flip.last_old == pytest.approx(0.3)


def test_silence_is_the_longest_time_without_a_result() -> None:
    jobs = story()
    jobs.done[300:320] = jobs.due[320]
    length, ended_at = figures.silence(jobs, BEGIN, END)
    assert length == pytest.approx(200)
    assert ended_at == pytest.approx(BEGIN + 3.2)


@pytest.fixture
def verdict(monkeypatch: pytest.MonkeyPatch) -> Callable[[Jobs], Verdict]:
    def give(jobs: Jobs) -> Verdict:
        monkeypatch.setattr("rollout.verdict.answers", ANSWERS.__getitem__)
        whats = ("push", "warm", "promote", "roll back", "promote again", "retire", "unload")
        events = [Event(what, 2, FLIP, FLIP) for what in whats]
        held = Held(MODEL, "2", "", "ready", 0, load_s=0.1, warm_s=0.02)
        return Verdict.of(
            Run(jobs, BEGIN, END, events, {2: [held]}, PER_S, [Span(BEGIN, END, 0.5)])
        )

    return give


def test_a_promise_kept_is_no_problem(verdict: Callable[[Jobs], Verdict]) -> None:
    assert list(verdict(story()).problems()) == []


def test_a_failed_job_and_a_felt_event_are_problems(verdict: Callable[[Jobs], Verdict]) -> None:
    jobs = story()
    jobs.fates[3] = Fate.FAILED
    jobs.done[550:560] += 0.011
    first, *felt = verdict(jobs).problems()
    assert "failed=1" in first
    assert len(felt) == 7
    assert "p99 21 ms is 2.1 x the steady 10 ms" in felt[0]


def test_a_hiccup_before_allows_nothing_to_events() -> None:
    jobs = story()
    jobs.done[100:110] += 0.5
    found = figures.steady(jobs, BEGIN, END)
    assert found.p99 == pytest.approx(10)
    assert found.worst == pytest.approx(510)


def test_too_few_jobs_are_no_proof(verdict: Callable[[Jobs], Verdict]) -> None:
    problems = list(verdict(story().first(650)).problems())
    assert len(problems) == 7
    assert "150 jobs are too few" in problems[0]


def test_page_and_picture_show_the_run(verdict: Callable[[Jobs], Verdict], tmp_path: Path) -> None:
    found = verdict(story())
    text = page.text(found)
    words = " ".join(text.split())
    assert "1,000 answered, 0 wrong" in words
    assert "| promote: all jobs go to it | 10 | 1.00 | 10 |" in text
    assert "Other programs used 0.5 of the cores meanwhile" in words
    plot.draw(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_has_its_markers() -> None:
    text = (plot.PICTURE.parents[1] / "rollouts.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(page.BEGIN)
    assert before
    assert page.END in rest


def test_jobs_are_the_same_after_they_were_on_disk(tmp_path: Path) -> None:
    jobs = story().first(20)
    jobs.save(tmp_path / "jobs.npz")
    again = Jobs.load(tmp_path / "jobs.npz")
    np.testing.assert_array_equal(again.ids, jobs.ids)
    np.testing.assert_array_equal(again.outputs, jobs.outputs)
    assert len(again) == 20


class FakeClient:
    """Answers, refuses, fails and loses jobs in turn."""

    def __init__(self) -> None:
        self.outcomes: Iterator[int] = iter(range(10**6))
        self.ids: list[str] = []

    async def submit(self, model: str, row: Any) -> Any:
        number = next(self.outcomes)
        if number % 4 == 1:
            raise LaneFull("full", retry_after=1.0)

        async def result(timeout: float) -> Any:  # noqa: ASYNC109  (as the job has it)
            if number % 4 == 2:
                raise JobFailed("failed", job_id="x", kind="Boom")
            if number % 4 == 3:
                raise ResultTimeout("late", job_id="x")
            return np.full(OUTPUTS, row[0], np.float32)

        self.ids.append(f"{slot_of(f'{MODEL}@3')}-{number:032x}")
        return SimpleNamespace(id=self.ids[-1], result=result)

    def job(self, job_id: str) -> Any:
        async def info() -> Any:
            raise LookupError(job_id)

        return SimpleNamespace(info=info)


async def test_every_job_has_a_fate_and_is_due_at_its_fixed_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    client: Any = FakeClient()
    jobs = await Submitter(client, per_s=400, most_s=0.1).run()
    assert jobs.fates.tolist() == [Fate.ANSWERED, Fate.REFUSED, Fate.FAILED, Fate.LOST] * 10
    np.testing.assert_allclose(np.diff(jobs.due), 1 / 400, rtol=1e-6)
    assert (jobs.latency_ms[::4] >= 0).all()
    assert np.isnan(jobs.latency_ms[1::4]).all()
    assert "LaneFull" in capsys.readouterr().err


async def test_no_job_is_due_after_the_end() -> None:
    client: Any = FakeClient()
    submitter = Submitter(client, per_s=400, most_s=0.1)
    submitter.end()
    assert len(await submitter.run()) == 0


def test_company_is_what_neither_we_nor_our_children_used() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    before = Reading(10.0, 1000, {1: 300, 2: 50})
    after = Reading(20.0, 1000 + 15 * ticks, {1: 300 + 4 * ticks, 3: ticks})
    span = company.between(before, after)
    assert (span.begin, span.end) == (10.0, 20.0)
    assert span.cores == pytest.approx(1.0)


def test_company_is_weighed_by_time() -> None:
    spans = [Span(0, 1, 2.0), Span(1, 4, 0.0)]
    assert company.mean(spans, 0, 4) == pytest.approx(0.5)
    assert company.mean(spans, 0.5, 1) == pytest.approx(2.0)
    assert company.mean(spans, 8, 9) is None


def test_company_is_not_known_where_nothing_tells_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(company, "_PROC", tmp_path)
    with company.Company() as watched:
        pass
    assert watched.spans() == []
