"""Withdrawn versions: what waits for them finishes, goes to another version, or fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis

from umbel import Client, JobFailed, VersionRetired
from umbel_config.settings import Settings
from umbel_registry import TrafficControl

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register

ROW = np.full(4, 200.0, np.float32)


@pytest.fixture
def site(settings: MakeSettings, register: Register) -> Settings:
    """Version 1 doubles and version 2 triples; version 2 is the route."""
    made = settings(allowed_modules=("umbel_test_handlers",), device="cpu")
    register(made)
    register(made, handler="Steep")
    return made


@pytest.fixture
def control(site: Settings, store_redis: redis.Redis) -> TrafficControl:
    return TrafficControl(store_redis, site.namespace)


def test_what_waits_finishes_on_the_retired_version(
    client: Client, control: TrafficControl, site: Settings, serve: Any
) -> None:
    job = client.submit("affine", ROW, version="1")
    control.retire("affine", "1", queued="finish")
    serve(site)
    assert job.result(timeout=20)[0] == 401
    assert job.info().version == "1"


def test_what_waits_is_run_by_another_version_and_says_so(
    client: Client, control: TrafficControl, site: Settings, serve: Any
) -> None:
    job = client.submit("affine", ROW, version="1")
    control.retire("affine", "1", queued="reroute")
    serve(site)
    assert job.result(timeout=20)[0] == 601
    assert job.info().version == "2"


def test_what_waits_fails_with_the_reason(
    client: Client, control: TrafficControl, site: Settings, serve: Any
) -> None:
    job = client.submit("affine", ROW, version="1")
    control.retire("affine", "1", queued="fail")
    serve(site)
    with pytest.raises(JobFailed, match="affine 1 is retired") as caught:
        job.result(timeout=20)
    assert caught.value.kind == "VersionRetired"


def test_jobs_follow_a_chain_of_versions_that_were_retired_one_after_the_other(
    client: Client, control: TrafficControl, site: Settings, serve: Any, register: Register
) -> None:
    job = client.submit("affine", ROW, version="1")
    register(site, handler="Steep", max_wait_ms=3)
    control.retire("affine", "1", queued="reroute", to="2")
    control.retire("affine", "2", queued="reroute", to="3")
    serve(site)
    assert job.result(timeout=20)[0] == 601
    assert job.info().version == "3"


def test_a_retired_version_takes_no_jobs_until_it_is_brought_back(
    site: Settings, control: TrafficControl
) -> None:
    control.retire("affine", "1")
    with Client(settings=site) as client:
        with pytest.raises(VersionRetired, match="--undo"):
            client.submit("affine", ROW, version="1")
        assert client.submit("affine", ROW).info().version == "2"
    control.bring_back("affine", "1")
    with Client(settings=site) as client:
        assert client.submit("affine", ROW, version="1").state() == "queued"
