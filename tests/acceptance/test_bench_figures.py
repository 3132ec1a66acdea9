"""The benchmark suite: when its loads are due, how it counts tails, and how it judges."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from faults.page import README
from suite import arrivals, environments, page, plot, tables, targets
from suite.contestant import Contestant
from suite.contestants.http_driver import packed, unpacked
from suite.loads import judge
from suite.names import ASYNC, BATCHES, BULK, CELERY, EVERYBODY, MODELS, MOSEC, RAW
from suite.open_loop import Generator, Seen
from suite.pace import QUICK
from suite.processes import paths
from suite.quantiles import Spread, Tail
from suite.remote import DriverFailed, Remote
from suite.results import Closed, Depth, Open, Rate, Results
from suite.rounds import Rounds
from suite.truth import Truth, WrongAnswer, compare

SPEEDS = {RAW: 1000.0, CELERY: 10.0, BATCHES: 20.0, MOSEC: 900.0, BULK: 900.0}


def results() -> Results:
    """A run in which every target is just met."""
    tail = Tail(100, 3.0, 4.0, 5.0, 6.0, 7.0)
    return Results(
        machine={"cores": "2"},
        versions={"torch": "2"},
        rounds=3,
        minutes=9.5,
        others_cores=0.25,
        missing={},
        rates=[
            Rate(name, model, 100, [speed - 1, speed, speed + 1])
            for name, speed in (dict.fromkeys(EVERYBODY, 500.0) | SPEEDS).items()
            for model in MODELS
        ]
        + [Rate(name, "minilm", 100, [SPEEDS[name]]) for name in (RAW, BULK)],
        closed=[Closed(BULK, tail, [2.5, 3.5]), Closed(MOSEC, tail, [7.0])],
        first_job=replace(tail, p50=10.0),
        idle_cores=0.0099,
        idle_s=20.0,
        capacity=400.0,
        open=[Open("Poisson", 0.6, 240.0, 10.0, 239.0, 0, tail, tail)],
        depth=Depth(10_000, 10**6, 660.0, 60, [(100.0, 80.0)], [(50.0, 45.0), (50.0, 40.0)]),
    )


@pytest.mark.parametrize("kind", sorted(arrivals.KINDS))
def test_arrivals_are_in_order_and_as_many_as_asked_for(kind: str) -> None:
    times = arrivals.KINDS[kind](500.0, 20.0)
    assert len(times) == pytest.approx(500 * 20, rel=0.05)
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert times[-1] < 20.0
    np.testing.assert_array_equal(times, arrivals.KINDS[kind](500.0, 20.0))


def test_constant_arrivals_are_even_and_poisson_ones_are_not() -> None:
    np.testing.assert_allclose(np.diff(arrivals.constant(100.0, 2.0)), 0.01)
    gaps = np.diff(arrivals.poisson(1000.0, 50.0))
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as of an exponential distribution
    assert (arrivals.poisson(1000.0, 1.0, 1)[:5] != arrivals.poisson(1000.0, 1.0, 2)[:5]).all()


def test_bursts_are_followed_by_silence() -> None:
    times = arrivals.bursty(1000.0, 10.0)
    within = times % (arrivals.ON_S + arrivals.OFF_S)
    assert within.max() < arrivals.ON_S
    first = (times < arrivals.ON_S).sum()
    assert first == pytest.approx(2 * 1000 * arrivals.ON_S, rel=0.2)


@pytest.mark.parametrize("load", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (float("nan"), 1.0)])
def test_a_load_of_nothing_is_refused(load: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="no load"):
        arrivals.poisson(*load)


def test_quantiles_are_values_that_were_seen() -> None:
    tail = Tail.of(np.arange(1, 1001)[::-1])
    assert (tail.count, tail.p50, tail.p90, tail.p99) == (1000, 500, 900, 990)
    assert (tail.p99_9, tail.max) == (999, 1000)
    assert Tail.of([7.0]) == Tail(1, *[7.0] * 5)


def test_what_never_ended_is_the_worst() -> None:
    assert Tail.of([1.0, np.nan, 2.0, 3.0]).max == np.inf
    assert Tail.of([1.0, np.nan, 2.0, 3.0]).p50 == 2.0
    with pytest.raises(ValueError, match="no values"):
        Tail.of([])


def test_rounds_have_a_median_and_a_range() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


async def test_latency_counts_from_when_a_request_was_due_not_from_when_it_was_sent() -> None:
    released = asyncio.Event()

    async def ask(place: int) -> Any:
        if place == 0:  # blocks the loop itself: no other request can be sent meanwhile
            _busy(0.2)
        if place == 9:
            released.set()
        await released.wait()
        return np.full(1, place, np.float32)

    seen = await Generator(ask).run(np.arange(10) / 1000)
    assert (seen.late_ms[1:] > 150).all()
    assert (seen.latency_ms >= seen.late_ms).all()
    assert seen.answers[:, 0].tolist() == list(range(10))


def _busy(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def test_a_request_without_an_answer_is_counted_and_the_others_go_on(tmp_path: Path) -> None:
    async def ask(place: int) -> Any:
        if place % 3 == 1:
            raise LookupError(place)
        return np.zeros(2, np.float32)

    generator = Generator(ask)
    seen = await generator.run(np.arange(9) / 1000)
    assert generator.errors == {"LookupError": 3}
    assert np.isnan(seen.latency_ms).sum() == 3
    seen.save(tmp_path / "seen.npz")
    np.testing.assert_array_equal(Seen.load(tmp_path / "seen.npz").done, seen.done)


def seen_of(latency_s: float) -> Seen:
    due = np.arange(200) / 100
    truth = Truth().of("tiny", 200)
    return Seen(due, due.copy(), due + latency_s, truth.copy())


def test_an_open_loop_is_judged_without_its_first_second() -> None:
    seen = seen_of(0.01)
    seen.done[:100] += 5.0
    seen.done[150] = np.nan
    row = judge(seen, "constant", 0.5, 100.0, Truth())
    assert (row.tail.count, row.unanswered) == (100, 1)
    assert row.tail.p50 == pytest.approx(10)
    assert row.tail.max == np.inf
    assert not tables.is_late(row)
    assert tables.is_late(replace(row, late=replace(row.tail, p99=tables.LATE_MS + 1)))


def test_a_wrong_answer_is_no_figure() -> None:
    seen = seen_of(0.01)
    seen.answers[120] += 1
    with pytest.raises(WrongAnswer, match="1 of 200"):
        judge(seen, "constant", 0.5, 100.0, Truth())
    with pytest.raises(WrongAnswer, match="shape"):
        compare(np.zeros((2, 1)), np.zeros((3, 1)))


def test_targets_that_are_just_met_pass() -> None:
    found = targets.verdicts(results())
    words = {each.what: each.word for each in found}
    assert len(found) == 10
    assert [each.word for each in found if "Celery" in each.what] == ["pass"]
    assert sorted(set(words.values())) == ["pass"]


def test_targets_that_are_missed_fall_short() -> None:
    run = results()
    run.rates = [each for each in run.rates if each.contestant != MOSEC]
    run.idle_cores, run.first_job = 0.011, None
    run.closed = [replace(run.closed[0], tail=replace(run.closed[0].tail, p50=3.01))]
    run.depth = replace(run.depth, bytes_each=661.0, claim=[(50.0, 39.0)]) if run.depth else None
    words = [each.word for each in targets.verdicts(run)]
    short, none = "falls short", "not measured"
    assert words == [
        *("pass", "pass", none, "pass"),
        *(short, none),
        *(short, "pass", short),
        short,
    ]


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(None, "-"), (38_900.0, "38,900"), (40.04, "40.0"), (0.8123, "0.81"), (2.5e-5, "< 0.01")],
)
def test_ratios_are_told_in_few_digits(ratio: float | None, words: str) -> None:
    assert tables.times(ratio) == words


def test_ratios_are_of_medians() -> None:
    assert targets.ratio(results(), BULK, CELERY, "tiny") == pytest.approx(90.0)
    assert targets.ratio(results(), BULK, "nobody", "tiny") is None


def test_figures_are_the_same_after_they_were_on_disk(tmp_path: Path) -> None:
    run = results()
    run.write(tmp_path / "figures.json")
    again = Results.read(tmp_path / "figures.json")
    assert again.rates == run.rates
    assert again.open == run.open
    assert targets.verdicts(again) == targets.verdicts(run)


def test_the_page_shows_the_run(tmp_path: Path) -> None:
    names = list(page.write(results(), tmp_path))
    assert names == [page.FIGURES, page.PICTURE, page.PAGE]
    text = (tmp_path / page.PAGE).read_text(encoding="utf-8")
    assert (
        "| `tiny`, end to end, umbel, bulk: against plain Celery | ≥ 40 x | 90.00 x | pass |"
        in text
    )
    assert "| `tiny` | mosec | 900 | 899 to 901 | 90.0 | 0.90 |" in text
    assert "| mosec | 3.0 | 4.0 | 5.0 | 7.0 | 7.0 to 7.0 |" in text
    assert f"a share of 400 rows per second ({ASYNC})" in text
    assert page.NOTES.read_text(encoding="utf-8").strip() in text
    assert "$" not in text
    assert (tmp_path / page.PICTURE).read_bytes().startswith(b"\x89PNG")
    assert "90 x" in page.short(results())


def test_a_page_of_a_run_in_which_little_was_measured_can_be_drawn(tmp_path: Path) -> None:
    run = Results(missing={MOSEC: "no such package"})
    list(page.write(run, tmp_path))
    text = (tmp_path / page.PAGE).read_text(encoding="utf-8")
    assert "mosec was not measured: no such package" in text
    assert "| not measured |" in text
    assert page.terminal(run)
    assert plot.colour(BULK) != plot.colour(MOSEC)


def test_pages_are_those_of_their_figures() -> None:
    committed = Results.read(page.DOCS / page.FIGURES)
    text = page.text(committed, page.NOTES.read_text(encoding="utf-8"))
    again = "write it again: PYTHONPATH=benchmarks python -m suite --render"
    assert (page.DOCS / page.PAGE).read_text(encoding="utf-8") == text, again
    short = f"{page.BEGIN}\n{page.short(committed)}\n{page.END}"
    assert short in README.read_text(encoding="utf-8"), again


@pytest.mark.parametrize("width", [1, 63, 64, 20_000])
def test_rows_are_message_pack(width: int) -> None:
    row = np.arange(width, dtype=np.float32)
    np.testing.assert_array_equal(unpacked(packed(row)), row)


@pytest.fixture
def raw(tmp_path: Path) -> Any:
    words = [sys.executable, "-m", "suite.contestants.raw", "1"]
    with Remote(words, paths(umbel=True), tmp_path / "raw.log") as remote:
        yield Contestant(RAW, [remote], [remote])


def test_a_contestant_is_frozen_woken_measured_and_its_failure_told(raw: Contestant) -> None:
    truth = Truth()
    raw.servers[0].freeze()
    with raw.awake():
        raw.fit("tiny", 0.01, 4096, truth)
        assert 16 <= raw.counts["tiny"] <= 4096
        assert raw.per_s("tiny", 256, truth) > 0
        assert len(raw.times_ms("tiny", 5, truth)) == 5
        with pytest.raises(DriverFailed, match="KeyError"):
            raw.per_s("nothing", 16, truth)
        raw.drivers[0].popen.kill()
        raw.drivers[0].popen.wait()
        with pytest.raises(DriverFailed, match="it ended"):
            raw.per_s("tiny", 16, truth)


def test_an_environment_is_made_once_and_anew_when_its_pins_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str]) -> str:
        ran.append(command)
        (tmp_path / "made" / "peer").mkdir(parents=True, exist_ok=True)
        return ""

    monkeypatch.setattr(environments, "FOLDER", tmp_path / "made")
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    monkeypatch.setattr(environments, "_run", run)
    pins = tmp_path / "peer.txt"
    pins.write_text("peer==1\n", encoding="utf-8")
    for _ in range(2):
        environments.python_of("peer")
    assert [command[2] for command in ran] == ["venv", "pip"]
    pins.write_text("peer==2\n", encoding="utf-8")
    assert not environments.is_made("peer")
    environments.python_of("peer")
    assert len(ran) == 4


def test_what_cannot_be_installed_says_so() -> None:
    with pytest.raises(environments.NotInstalled, match="No module named"):
        environments._run([sys.executable, "-m", "no_such_module"])


class Fake(Contestant):
    """Answers at once, or not."""

    def wake(self, model: str, truth: Truth) -> None:
        """Needs none."""

    def fit(self, model: str, aim_s: float, most: int, truth: Truth) -> None:
        """Has a fixed size."""
        self.counts[model] = 64

    def per_s(self, model: str, count: int, truth: Truth) -> float:
        """Fails with `mid` if it is mosec."""
        if self.name == MOSEC and model == "mid":
            raise DriverFailed("it hung up")
        return float(count)


def test_one_that_fails_is_named_and_the_others_go_on() -> None:
    everybody = [Fake(RAW, []), Fake(CELERY, [], problem="not installed"), Fake(MOSEC, [])]
    field: Any = SimpleNamespace(contestants=everybody)
    run, told = Results(), list[str]()
    Rounds(field, Truth(), QUICK, run, told.append).throughput()
    measured = [(rate.contestant, rate.model, len(rate.rounds)) for rate in run.rates]
    assert measured == [(RAW, "tiny", 3), (MOSEC, "tiny", 3), (RAW, "mid", 3)]
    assert everybody[2].problem == "it hung up"
    assert "mosec is not measured any more: it hung up" in told
