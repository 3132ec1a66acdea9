"""``umbel up`` as an operator lives with it: submit, look, interrupt, go on, lose nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from umbel import Client, Job
from umbel_batching.census import LaneStatus, lane_statuses
from umbel_config.connect import connect
from umbel_config.embedded import EmbeddedRedis, attach
from umbel_config.settings import Settings, load_settings

JOBS = 1500


@pytest.fixture
def settings(own: Any) -> Settings:
    return load_settings(state_dir=own.variables["UMBEL_STATE_DIR"])


def submit_many(settings: Settings) -> list[str]:
    with Client(settings=settings) as client:
        return [job.id for job in client.submit_many("sum", [[n, 0, 0, 0] for n in range(JOBS)])]


def lane_in(url: str) -> LaneStatus:
    with connect(url) as client:
        (lane,) = lane_statuses(client, "umbel")
    return lane


def test_jobs_survive_ctrl_c_and_a_killed_worker(
    own: Any, settings: Settings, model_folder: Path, wait_until: Any
) -> None:
    with own.running("up") as up:
        wait_until(lambda: "ready for jobs" in up.text, "stack ready", 60)
        pushed = own.json("models", "push", str(model_folder))
        assert (pushed["name"], pushed["version"]) == ("sum", "1")
        told = own.json("submit", "sum", "[1, 2, 3, 4]")
        assert told["result"] == [10.0, 10.0]
        assert own.json("job", told["id"]) == told
        assert "not cancelled: the job is succeeded already" in own.run("cancel", told["id"])[0]
        (lane,) = own.json("lanes")
        assert (lane["lane"], lane["succeeded"], lane["slots"]) == ("sum@1", 1, 1)

        os.kill(up.pid_of("worker-1"), signal.SIGSTOP)
        ids = submit_many(settings)
        up.send(signal.SIGINT)
        wait_until(lambda: "running batches may finish" in up.text, "stack stopping")
        os.kill(up.pid_of("worker-1"), signal.SIGCONT)
        assert up.wait() == 0, up.text
        assert "jobs that still wait are kept" in up.text
        assert attach(settings.state_dir) is None
    with EmbeddedRedis.start(settings.state_dir) as server:
        lane = lane_in(server.url)
        assert lane.waiting > 0, "too few jobs: all were done before the stack stopped"
        assert lane.running == 0
        assert lane.succeeded + lane.waiting == JOBS + 1

    with own.running("up") as up:
        wait_until(lambda: "ready for jobs" in up.text, "stack ready again", 60)
        os.kill(up.pid_of("worker-1"), signal.SIGKILL)
        with Client(settings=settings) as client:
            jobs: list[Job] = [client.job(each) for each in ids]
            assert [job.result(60)[0] for job in jobs] == list(range(JOBS))
        assert "was killed by SIGKILL; starting it again in 1 s" in up.text
        up.send(signal.SIGTERM)
        assert up.wait() == 0, up.text


def test_nothing_outlives_a_stack_that_is_killed(
    own: Any, push_model: Any, settings: Settings, wait_until: Any, is_alive: Any
) -> None:
    push_model(own)
    with own.running("up", "--no-flusher") as up:
        wait_until(lambda: "ready for jobs" in up.text, "stack ready", 60)
        assert own.json("submit", "sum", "--example")["state"] == "succeeded"
        pids = [up.pid_of("worker-1"), up.pid_of("flusher")]
        url = attach(settings.state_dir)
        assert url is not None
        with connect(url) as client:
            pids.append(client.info("server")["process_id"])
        assert all(is_alive(pid) for pid in pids)
        up.send(signal.SIGKILL)
        wait_until(lambda: not any(is_alive(pid) for pid in pids), f"{pids} gone")
