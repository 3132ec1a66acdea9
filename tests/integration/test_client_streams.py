"""Many jobs at once: map and as_completed, in order and in time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from umbel import Client, InvalidInput, JobFailed, JobNotFound, ResultTimeout
from umbel_config.settings import Settings

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import WaitUntil

Rows = Callable[..., Any]
Serve = Callable[..., Any]


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000])
def test_map_keeps_the_order(
    client: Client, site: Settings, serve: Serve, rows: Rows, count: int
) -> None:
    serve(site, threads=2)
    outs = list(client.map("affine", rows(count)))
    assert len(outs) == count
    for out, row in zip(outs, rows(count), strict=True):
        np.testing.assert_array_equal(out, row * 2 + 1)


def test_map_takes_a_generator_and_dicts(
    client: Client, site: Settings, serve: Serve, rows: Rows
) -> None:
    serve(site)
    outs = client.map("affine", ({"x": row.tolist()} for row in rows(300)))
    np.testing.assert_array_equal(np.stack(list(outs)), rows(300) * 2 + 1)


def test_map_is_lazy_and_bounded(
    client: Client, site: Settings, serve: Serve, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("umbel._stream.MAP_WINDOW", 512)
    serve(site)
    taken = 0

    def endless() -> Iterator[Any]:
        nonlocal taken
        while True:
            taken += 1
            yield rows(1)[0]

    outs = client.map("affine", endless())
    assert taken == 0
    next(outs)
    assert taken <= 512 + 256
    outs.close()  # type: ignore[attr-defined]


def test_map_closed_early_leaves_nothing_waiting(
    client: Client, site: Settings, serve: Serve, rows: Rows, wait_until: WaitUntil
) -> None:
    outs = client.map("affine", rows(600), progress=True)
    serve(site)
    next(outs)
    outs.close()  # type: ignore[attr-defined]
    del outs
    gc.collect()
    assert len(client._session.inbox()._jobs) == 0


def test_map_raises_the_first_failure_or_yields_it(
    client: Client, site: Settings, serve: Serve, rows: Rows
) -> None:
    inputs = rows(50)
    inputs[7, 0] = 13
    serve(site)
    got: list[Any] = []
    with pytest.raises(JobFailed, match="unlucky"):
        got.extend(client.map("affine", inputs))
    outs = list(client.map("affine", inputs, return_errors=True))
    assert [isinstance(out, JobFailed) for out in outs] == [place == 7 for place in range(50)]


def test_map_refuses_a_bad_row(client: Client, rows: Rows, queued: Callable[[], int]) -> None:
    with pytest.raises(InvalidInput, match="Row 3"):
        list(client.map("affine", [*rows(3), rows(1)[0][:2], *rows(3)]))
    assert queued() == 0


def test_map_draws_its_progress_on_standard_error(
    client: Client, site: Settings, serve: Serve, rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(site)
    assert len(list(client.map("affine", rows(20), progress=True))) == 20
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "affine" in printed.err
    assert "20/20" in printed.err


def test_as_completed_yields_each_job_once(
    client: Client, site: Settings, serve: Serve, rows: Rows
) -> None:
    jobs = client.submit_many("affine", rows(500))
    serve(site, threads=2)
    done = list(client.as_completed([*jobs, *jobs[:10]], timeout=30))
    assert sorted(job.id for job in done) == sorted(job.id for job in jobs)
    assert all(job.outcome is not None for job in done)
    assert {job.id for job in client.as_completed(jobs, timeout=0)} == {job.id for job in jobs}
    assert list(client.as_completed([])) == []


def test_as_completed_takes_jobs_of_other_clients(
    client: Client, site: Settings, serve: Serve, rows: Rows
) -> None:
    ids = [job.id for job in client.submit_many("affine", rows(100))]
    with Client(settings=site) as other:
        jobs = [other.job(job_id) for job_id in ids]
        serve(site)
        assert {job.id for job in other.as_completed(jobs, timeout=30)} == set(ids)
    mixed = [*client.submit_many("affine", rows(5)), client.job(ids[0])]
    assert len(list(client.as_completed(mixed, timeout=30))) == 6


@pytest.mark.parametrize("timeout", [0, -1, 0.1])
def test_as_completed_ends_with_its_timeout(client: Client, rows: Rows, timeout: float) -> None:
    jobs = client.submit_many("affine", rows(3))
    with pytest.raises(ResultTimeout, match="3 jobs"):
        list(client.as_completed(jobs, timeout=timeout))
    assert all(job.on_done in (None, []) for job in jobs)


def test_as_completed_tells_of_an_unknown_job(client: Client) -> None:
    with pytest.raises(JobNotFound):
        list(client.as_completed([client.job("aaaaaaaa-" + "0" * 32)], timeout=5))


def test_as_completed_gives_every_job_its_turn(
    client: Client, site: Settings, serve: Serve, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that nobody runs must not hide those behind them that are done."""
    monkeypatch.setattr("umbel._stream.LOOKED_AT", 3)
    serving = serve(site)
    done = client.submit("affine", rows(1)[0])
    assert done.wait(20)
    serving.close()
    stuck = client.submit_many("affine", rows(8))
    with Client(settings=site) as other:
        jobs = [other.job(job.id) for job in [*stuck, done]]
        assert next(iter(other.as_completed(jobs, timeout=20))).id == done.id
