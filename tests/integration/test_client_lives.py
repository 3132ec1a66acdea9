"""The client through forks, restarts of Redis and the end of its process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from umbel import Client, StoreUnavailable
from umbel_config.settings import Settings

if TYPE_CHECKING:  # the fixtures of the tests' root
    from tests.conftest import MakeSettings, Register, WaitUntil

Rows = Callable[..., Any]
Serve = Callable[..., Any]


def in_child(act: Callable[[], object]) -> int:
    """Runs ``act`` in a forked child; returns the exit status."""
    with warnings.catch_warnings():
        # Forking with threads is what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_forked_child_reads_jobs_of_its_parent_and_submits_its_own(
    client: Client, site: Settings, rows: Rows, serve: Serve
) -> None:
    ours = client.submit("affine", rows(1)[0])
    done = client.submit("affine", rows(2)[1])

    def child() -> None:
        own = client.submit("affine", rows(3)[2])
        np.testing.assert_array_equal(own.result(timeout=20), rows(3)[2] * 2 + 1)
        np.testing.assert_array_equal(ours.result(timeout=20), rows(1)[0] * 2 + 1)
        assert done.state().terminal
        client.close()

    with ThreadPoolExecutor(1) as pool:
        forked = pool.submit(in_child, child)
        serve(site)
        assert forked.result(timeout=60) == 0
    np.testing.assert_array_equal(ours.result(timeout=20), rows(1)[0] * 2 + 1)
    np.testing.assert_array_equal(done.result(timeout=20), rows(2)[1] * 2 + 1)
    assert client.submit("affine", rows(1)[0]).wait(20)


def test_fork_while_a_thread_uses_the_connection_does_not_deadlock(
    client: Client, site: Settings, rows: Rows
) -> None:
    """The child must not wait for a lock that a thread of its parent held."""
    client.submit("affine", rows(1)[0])
    runner = client._session._connected()
    with runner.client.connection_pool._lock, ThreadPoolExecutor(1) as pool:
        # Forked from another thread, as the lock may be taken again by the thread that holds it.
        submitted = pool.submit(in_child, lambda: client.submit("affine", rows(1)[0]))
        assert submitted.result(timeout=20) == 0


def test_another_process_reads_a_job_by_its_id(
    client: Client, site: Settings, rows: Rows, serve: Serve, redis_url: str
) -> None:
    job = client.submit("affine", rows(1)[0])
    script = "import sys, umbel; print(umbel.Client().job(sys.argv[1]).result(timeout=20).tolist())"
    reader = subprocess.Popen(
        [sys.executable, "-c", script, job.id],
        env={**os.environ, "UMBEL_REDIS_URL": redis_url, "UMBEL_NAMESPACE": site.namespace},
        stdout=subprocess.PIPE,
    )
    serve(site)
    printed, _ = reader.communicate(timeout=60)
    assert json.loads(printed) == job.result(timeout=20).tolist()


@pytest.mark.parametrize("last", ["", "client.close()", "sys.exit(3)", "raise SystemExit(3)"])
def test_process_ends_quietly_and_soon_with_a_client_open(
    site: Settings, redis_url: str, last: str
) -> None:
    script = f"""
        import sys
        import numpy as np
        from umbel import Client
        client = Client()
        job = client.submit("affine", np.zeros(4, dtype=np.float32))
        {last}
    """
    own = {"UMBEL_REDIS_URL": redis_url, "UMBEL_NAMESPACE": site.namespace}
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        check=False,
        env={**os.environ, **own},
        timeout=30,
    )
    assert (ended.stdout, ended.stderr) == (b"", b"")
    assert ended.returncode == (3 if "3" in last else 0)
    assert time.monotonic() - started < 20


def test_async_process_ends_quietly(site: Settings, redis_url: str) -> None:
    script = """
        import asyncio
        import numpy as np
        from umbel import AsyncClient
        async def main():
            async with AsyncClient() as client:
                await client.submit("affine", np.zeros(4, dtype=np.float32))
        asyncio.run(main())
    """
    own = {"UMBEL_REDIS_URL": redis_url, "UMBEL_NAMESPACE": site.namespace}
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        check=False,
        env={**os.environ, **own},
        timeout=30,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_redis_restart_is_survived_by_clients_and_drains(
    settings: MakeSettings,
    register: Register,
    own_redis: Callable[..., Any],
    serve: Serve,
    rows: Rows,
    wait_until: WaitUntil,
) -> None:
    server = own_redis("--appendonly", "yes", "--appendfsync", "always")
    site = settings(redis_url=server.url, allowed_modules=("umbel_test_handlers",))
    register(site)
    with Client(settings=site) as client:
        before = client.submit_many("affine", rows(20))
        server.kill()
        with pytest.raises(StoreUnavailable):
            client.submit("affine", rows(1)[0])
        with pytest.raises(StoreUnavailable):
            before[0].state()
        server.start()
        serve(site)
        wait_until(
            lambda: all(job.outcome for job in before), "nobody polls, yet all are delivered"
        )
        outs = [job.result() for job in before]
        np.testing.assert_array_equal(np.stack(outs), rows(20) * 2 + 1)
        server.kill()
        server.start()
        after = client.submit("affine", rows(1)[0])
        np.testing.assert_array_equal(after.result(timeout=30), rows(1)[0] * 2 + 1)
