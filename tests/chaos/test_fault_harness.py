"""What counts the jobs of the fault table: it must be able to find a promise broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from faults import page, table
from faults.__main__ import main
from faults.catalogue import FAMILIES
from faults.load import Load
from faults.proxy import LossyProxy
from faults.result import Row
from faults.rows import answers, forwards, rows_of
from faults.runner import Runner, deadline
from faults.scenario import Family, Scenario
from faults.stage import QUICK, Stage
from faults.stages import embedded
from faults.trial import Trial
from faults.waiting import NeverHappened, until

from umbel import Client, Job, JobFailed, JobNotFound
from umbel_config.connect import connect


def row(**figures: Any) -> Row:
    return Row(name="n", title="a fault", **({"accepted": 10, "visible": 10} | figures))


@pytest.mark.parametrize(
    "figures",
    [
        {"accepted": 0},
        {"lost": 1},
        {"wrong": 1},
        {"published_twice": 1},
        {"lost": 3, "allowed_loss": 2},
        {"broken": ("it ended",)},
    ],
    ids=str,
)
def test_a_broken_promise_is_a_problem(figures: dict[str, Any]) -> None:
    assert len(row(**figures).problems()) == 1


def test_what_everysec_admits_is_no_problem() -> None:
    assert row(lost=2, allowed_loss=2, published_twice=5, computed_twice=7).problems() == []


def test_tables_show_every_row_with_its_median_and_maximum() -> None:
    rows = [row(recoveries=(3.0, 1.0, 2000.0), note="done so"), row(lost=1, allowed_loss=9)]
    assert "| a fault | 10 | 10 | 0 | 0 | 0 | 0 | 3 | 2,000 | done so |" in table.full(rows)
    assert "| a fault | 10 | 1 of the last second's 9 | 0 |" in table.short(rows)


def test_page_is_written_between_its_markers_alone(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.between(file, "new")
    assert file.read_text() == f"before\n{page.BEGIN}\nnew\n{page.END}\nafter\n"
    file.write_text("no markers")
    with pytest.raises(ValueError, match="lacks"):
        page.between(file, "new")


@pytest.mark.parametrize("file", [page.PAGE, page.README], ids=lambda file: file.name)
def test_both_files_have_their_markers(file: Path) -> None:
    before, _, rest = file.read_text(encoding="utf-8").partition(page.BEGIN)
    assert before
    assert page.END in rest


def test_proxy_runs_the_command_and_loses_the_reply(own_redis: Callable[..., Any]) -> None:
    losses: list[str] = []
    url = own_redis().url
    with (
        LossyProxy(Path(url.removeprefix("unix://"))) as proxy,
        connect(proxy.url, retries=0) as client,
        connect(url) as direct,
    ):
        assert client.incr("count") == 1
        proxy.share, proxy.on_loss = 1.0, lambda: losses.append("one")
        with pytest.raises(redis.ConnectionError):
            client.incr("count")
        assert direct.get("count") == b"2"
    assert losses == ["one"]
    assert proxy.lost == {"other": 1}


def test_a_wrong_result_a_failed_job_and_a_lost_one_are_told_apart() -> None:
    class Fake:
        """A job of a client, as ``collect`` sees it."""

        def __init__(self, outcome: Any) -> None:
            self.outcome = outcome

        def result(self, timeout: float) -> Any:
            if isinstance(self.outcome, Exception):
                raise self.outcome
            return self.outcome

    right, wrong = answers(rows_of([1, 2]))
    failed = JobFailed("it failed", job_id="x", kind="ValueError")
    load = Load(Client(), "m", iter(()))  # it submits nothing
    outcomes = [right, wrong + 1, failed, JobNotFound("gone", job_id="y")]
    load.adopt([1, 2, 3, 4], [cast("Job", Fake(outcome)) for outcome in outcomes])
    verdict = load.collect(5)
    assert (verdict.right, verdict.wrong, verdict.lost) == ([1], [2], [4])
    assert verdict.failed == {3: "ValueError"}


def test_notes_of_forwards_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from faults.model import NOTES, Kind, make

    monkeypatch.setenv(NOTES, str(tmp_path))
    model, batch = make(), rows_of([7, 8, 9])
    with torch.inference_mode():
        model(torch.from_numpy(batch[:2]))
        batch[1, 1] = Kind.SHORT
        assert len(model(torch.from_numpy(batch))) == 2
        model(torch.zeros(3, 10))
    assert forwards(tmp_path) == [[7, 8], [7, 8, 9]]


def test_one_broken_scenario_does_not_stop_the_others() -> None:
    def breaks(stage: Stage, name: str, title: str) -> Row:
        raise NeverHappened("waited in vain")

    def holds(stage: Stage, name: str, title: str) -> Row:
        return row()

    family = Family("f", embedded(), (Scenario("a", "A", breaks), Scenario("b", "B", holds)))
    ended: list[Row] = []
    rows = Runner(QUICK, lambda _: None, ended.append).run([family])
    assert [bool(one.problems()) for one in rows] == [True, False]
    assert "waited in vain" in rows[0].problems()[0]
    assert ended == rows


def test_waiting_and_deadlines_end() -> None:
    with pytest.raises(NeverHappened, match=r"0\.05 s in vain: nothing"):
        until(lambda: False, "nothing", 0.05)
    with pytest.raises(Exception, match=r"not over after 0\.05 s"), deadline(0.05):
        until(lambda: False, "nothing", 30)


def test_command_lists_scenarios_and_refuses_unknown_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert len(names) == len(set(names)) == sum(len(family.scenarios) for family in FAMILIES)
    assert main(["--only", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err


def test_a_trial_finds_a_promise_that_does_not_hold() -> None:
    with embedded()(QUICK) as stage:
        trial: Trial = stage.trial("quiet", "nothing happens")
        trial.check(holds=False, promise="something happens")
        assert "something happens" in trial.finish(drained=False).problems()[0]
