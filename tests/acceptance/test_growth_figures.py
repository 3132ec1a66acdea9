"""The growth benchmark counts rightly, refuses wrong answers, and its page tells what it found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from growth import page, plot, producer, store
from growth.crew import Crew, Task
from growth.meter import Reading, spent
from growth.producer import Work
from growth.values import Curve, Dimension, Point, Sample, percentiles, plain

from umbel_config.errors import StoreUnavailable

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
ANSWERS = ROWS.sum(axis=1, keepdims=True)


def dimension(key: str = "batch") -> Dimension:
    samples = [Sample(jobs_per_s=rate, p50_ms=4.5, redis_us=20.0) for rate in (900.0, 1000, 1200)]
    points = [Point(1, samples), Point(64, [replace(each, p50_ms=9.0) for each in samples])]
    limit = Curve("tiny, plain torch", [Point(1, [Sample(jobs_per_s=5000.0)])])
    words = {"title": "Batch size", "x": "max_batch_size", "how": "So.", "latency": "of a job"}
    curves = [Curve("tiny", points), limit]
    return Dimension(key=key, curves=curves, checked=10, others=0.25, seconds=60.0, **words)


def report() -> store.Report:
    return store.Report({"processor": "a processor", "cores": 2, "memory_gib": 8,
                         "system": "Linux"}, {"torch": "2.13"}, [dimension()])  # fmt: skip


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task.write(tmp_path, "sum", ROWS, ANSWERS)


def work(task: Task, do: str = "bulk", count: int = 10, **more: Any) -> Work:
    request = {"do": do, "model": task.model, "count": count, "lanes": 0, "per_s": 0.0}
    request |= {"rows": str(task.rows), "answers": str(task.answers), "tolerance": 1e-3}
    return Work({**request, **more})


class FakeJob:
    def __init__(self, row: Any) -> None:
        self._row = row

    def result(self, _: float) -> Any:
        return self._row.sum(keepdims=True)


class FakeClient:
    """Answers at once, and notes for which versions it was asked."""

    def __init__(self) -> None:
        self.versions: list[str | None] = []

    def submit(self, _: str, row: Any, version: str | None = None) -> FakeJob:
        self.versions.append(version)
        return FakeJob(row)

    def submit_many(self, model: str, rows: Any, version: str | None = None) -> list[FakeJob]:
        return [self.submit(model, row, version) for row in rows]

    def map(self, model: str, rows: Any) -> Iterator[Any]:
        return (job.result(0) for job in self.submit_many(model, rows))


@pytest.mark.parametrize("do", ["bulk", "single", "paced"])
@pytest.mark.parametrize("lanes", [0, 3])
def test_each_load_answers_all_its_jobs(task: Task, do: str, lanes: int) -> None:
    client: Any = FakeClient()
    load = work(task, do, per_s=1e6, lanes=lanes)
    told = producer.timed(producer._KINDS[do], client, load)
    load.check()
    assert len(told["times"]) == (0 if do == "bulk" else 10)
    assert told["end"] >= told["begin"]
    assert set(client.versions) <= ({"1", "2", "3"} if lanes else {None})


def test_jobs_of_a_bulk_are_spread_evenly_over_the_lanes(task: Task) -> None:
    client: Any = FakeClient()
    producer.bulk(client, work(task, count=9, lanes=3))
    assert client.versions == ["1"] * 3 + ["2"] * 3 + ["3"] * 3


def test_latency_of_a_paced_load_counts_from_when_a_job_was_due(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]

    class Slow(FakeClient):
        def submit_many(self, *args: Any, **options: Any) -> Any:
            now[0] += 7
            return super().submit_many(*args, **options)

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda _: None)
    monkeypatch.setattr(producer, "time", clock)
    client: Any = Slow()
    load = work(task, "paced", count=1, per_s=1.0)
    (latency,) = producer.paced(client, load)
    assert latency == pytest.approx(7, abs=0.1)


def test_an_error_of_a_paced_load_ends_it(task: Task) -> None:
    class Broken(FakeClient):
        def submit_many(self, *_: Any, **__: Any) -> Any:
            raise StoreUnavailable("away")

    client: Any = Broken()
    with pytest.raises(StoreUnavailable, match="away"):
        producer.paced(client, work(task, "paced", per_s=1e6))


def test_a_wrong_or_missing_answer_is_refused(task: Task) -> None:
    load = work(task)
    load.outputs = {number: ANSWERS[number % 4] for number in range(10)}
    load.check()
    with pytest.raises(AssertionError):
        replaced(load, {**load.outputs, 9: ANSWERS[2]}).check()
    with pytest.raises(AssertionError):
        replaced(load, {number: ANSWERS[number % 4] for number in range(9)}).check()


def replaced(load: Work, outputs: dict[int, Any]) -> Work:
    load.outputs = outputs
    return load


def test_a_crew_without_producers_has_nothing_to_end(tmp_path: Path) -> None:
    with Crew(0, {}, tmp_path):
        pass


def test_what_a_job_takes_is_the_difference_of_two_readings() -> None:
    before = Reading({"redis": 1.0, "worker": 2.0}, 100.0, 10, 5, 50)
    after = Reading({"redis": 1.5, "worker": 4.0}, 1100.0, 30, 15, 150)
    expected = {"redis_us": 5000, "worker_us": 20000, "script_us": 10, "script_calls": 0.2}
    assert spent(before, after) == pytest.approx({**expected, "batch": 10})
    assert spent(before, before) == {}


def test_percentiles_are_in_milliseconds() -> None:
    assert percentiles([n / 1000 for n in range(101)]) == pytest.approx(
        {"p50_ms": 50, "p99_ms": 99}
    )
    assert percentiles([]) == {}


def test_figures_survive_their_file(tmp_path: Path) -> None:
    file = tmp_path / "growth.json"
    store.save(report(), file)
    assert store.load(file) == report()


def test_some_dimensions_can_be_measured_anew() -> None:
    old = replace(report(), dimensions=[dimension("batch"), dimension("depth")])
    new = replace(report(), dimensions=[replace(dimension("depth"), checked=99)])
    assert [each.checked for each in store.joined(old, new).dimensions] == [10, 99]


def test_medians_stand_beside_the_samples() -> None:
    line = plain(dimension())["curves"][0]["points"][0]
    assert line["median"]["jobs_per_s"] == 1000
    assert line["median"]["p99_ms"] is None
    assert "p99_ms" not in line["samples"][0]


def test_a_table_leaves_out_what_was_not_measured() -> None:
    head, _, first, *_, last = page.table(dimension()).splitlines()
    assert head == "|  | max_batch_size | jobs/s | p50, ms | Redis, µs |"
    assert first == "| tiny | 1 | 1,000 (900 to 1,200) | 4.50 | 20.0 |"
    assert last == "| tiny, plain torch | 1 | 5,000 |  |  |"


def test_the_page_has_machine_tables_and_reasons() -> None:
    text = page.text(report(), {"batch": "It bends there."})
    assert "images/growth.png" in text
    assert "Measured on a processor with 2 cores" in text
    assert "## Batch size" in text
    assert "It bends there." in text
    assert "Other programs used 0.2 cores" in text


def test_a_dimension_without_reasons_is_noticed() -> None:
    with pytest.raises(ValueError, match="batch, depth"):
        page.text(report(), {"depth": "It bends."})


def test_each_dimension_has_its_reasons() -> None:
    reasons = page.read_reasons()
    assert reasons.keys() == {"batch", "depth", "producers", "workers", "lanes", "payload"}
    assert all(len(reason) > 50 for reason in reasons.values())


def test_the_page_is_made_from_the_figures_beside_it() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.text(store.load(), page.read_reasons())


@pytest.mark.parametrize(
    ("value", "text"), [(1, "1"), (64, "64"), (1000, "1k"), (20_000, "20k"), (5e6, "5M")]
)
def test_numbers_on_an_axis_are_short(value: float, text: str) -> None:
    assert plot.short(value) == text


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    file = tmp_path / "images" / "growth.png"
    plot.draw([dimension(str(place)) for place in range(6)], file)
    assert file.read_bytes().startswith(b"\x89PNG")
