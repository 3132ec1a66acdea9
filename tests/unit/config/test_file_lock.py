"""File locks: exclusive, released with their holder, never kept by a forked child."""

from __future__ import annotations

import os
import subprocess
import warnings
from pathlib import Path

import pytest

from umbel_config.file_lock import FileLock, is_locked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.lock"


def test_second_taker_gets_none_until_release(path: Path) -> None:
    first = FileLock.take(path)
    assert first is not None
    assert first.held
    assert FileLock.take(path, timeout_s=0.1) is None
    assert is_locked(path)
    first.release()
    first.release()
    assert first.fd < 0
    assert not is_locked(path)
    second = FileLock.take(path)
    assert second is not None
    second.release()


def test_missing_file_is_not_locked(path: Path) -> None:
    assert not is_locked(path)
    assert not path.exists()


def test_process_that_inherits_it_holds_it_until_its_end(path: Path) -> None:
    lock = FileLock.take(path)
    assert lock is not None
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock.fd]) as child:
        lock.release()
        assert is_locked(path)
        child.communicate()
    assert not is_locked(path)


def test_process_that_does_not_inherit_it_leaves_it_free(path: Path) -> None:
    lock = FileLock.take(path)
    assert lock is not None
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        lock.release()
        assert not is_locked(path)
        child.communicate()


def test_forked_child_lets_go(path: Path) -> None:
    lock = FileLock.take(path)
    assert lock is not None
    hold_r, hold_w = os.pipe()
    seen_r, seen_w = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns about forking beside threads, which other tests may have left.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(hold_w)
        os.write(seen_w, b"0" if lock.held else b"1")
        os.read(hold_r, 1)
        os._exit(0)
    try:
        assert os.read(seen_r, 1) == b"1"
        lock.release()
        assert not is_locked(path)
    finally:
        for fd in (hold_r, hold_w, seen_r, seen_w):
            os.close(fd)
        os.waitpid(child, 0)
