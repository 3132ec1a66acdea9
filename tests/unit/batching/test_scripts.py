"""Running scripts: sent by hash, and by text where the server does not know them."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import fakeredis
import pytest
from redis.exceptions import ResponseError

from umbel_batching.record import State
from umbel_batching.scripts import AsyncRunner, Call, source

if TYPE_CHECKING:
    from tests.unit.batching.conftest import Lab

NAMES = sorted(
    file.name.removesuffix(".lua")
    for file in (resources.files("umbel_batching") / "lua").iterdir()
    if file.name.endswith(".lua") and not file.name.startswith("_")
)


@pytest.mark.parametrize("name", NAMES)
def test_every_script_says_what_it_takes(name: str) -> None:
    own = (resources.files("umbel_batching") / "lua" / f"{name}.lua").read_text("utf-8")
    assert own.startswith("-- ")
    assert "\n-- KEYS: " in own
    assert "\n-- ARGV: " in own
    assert source(name).text.endswith(own)


@pytest.mark.parametrize("name", NAMES)
def test_every_script_is_known_by_its_hash(name: str) -> None:
    assert fakeredis.FakeRedis().script_load(source(name).text) == source(name).sha


def test_calls_run_together_in_order(lab: Lab) -> None:
    uids = lab.submit(3)
    lab.client.script_flush()
    calls = [lab.calls.states(lab.slot, [uid]) for uid in [*uids, "0" * 32]]
    for _ in range(2):
        assert lab.runner.run_together(calls) == [[State.QUEUED]] * 3 + [[None]]
    assert lab.runner.run_together([]) == []


def test_an_error_of_a_script_is_raised(lab: Lab) -> None:
    broken: Call[int] = Call("due", (lab.shared.wake,), ("no number",), int)
    lab.client.zadd(lab.shared.wake, {"aaaaaaaa": 1})
    for _ in range(2):
        with pytest.raises(ResponseError):
            lab.runner.run(broken)
        with pytest.raises(ResponseError):
            lab.runner.run_together([broken])


async def test_the_asynchronous_runner_runs_the_same_calls(lab: Lab) -> None:
    client = fakeredis.FakeAsyncRedis(server=lab.server)
    uids = lab.submit(2)
    await client.script_flush()
    runner = AsyncRunner(client)
    for _ in range(2):
        assert await runner.run(lab.calls.states(lab.slot, uids)) == [State.QUEUED] * 2
    await client.aclose()
