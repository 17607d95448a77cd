"""The lock that allows one daemon for each path."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from vethd.daemon.sockets import listen
from vethd.model.errors import VethError


def test_a_deleted_lock_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that ends deletes the file between another's open() and flock()."""
    path = tmp_path / "sock"
    flock = fcntl.flock

    def late(fd: int, how: int) -> None:
        path.with_name("sock.lock").unlink()
        flock(fd, how)

    before = list(Path("/proc/self/fd").iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", late)
        with pytest.raises(VethError) as caught:
            listen(str(path), 0o600, None, {})
    assert caught.value.errno == errno.EADDRINUSE
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)
    listen(str(path), 0o600, None, {}).close()
    assert not list(tmp_path.iterdir())


def test_one_daemon_for_each_path(tmp_path: Path) -> None:
    first = listen(str(tmp_path / "sock"), 0o600, None, {})
    with pytest.raises(VethError) as caught:
        listen(str(tmp_path / "sock"), 0o600, None, {})
    assert caught.value.errno == errno.EADDRINUSE
    first.close()
