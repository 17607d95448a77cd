"""What is kept over a restart is kept whole, or the caller hears that it is not."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.wait import DEADLINE_S
from vethd.daemon.notify import Notify
from vethd.memory import keeper
from vethd.memory.keeper import Memory
from vethd.memory.takeover import COPIES
from vethd.model.errors import VethError
from vethd.pairs.adoption import Parcel


class Shelf:
    """A keeper with room for a few."""

    fd_store = True

    def __init__(self, room: int) -> None:
        self.room = room
        self.kept: dict[str, int] = {}

    def keep(self, name: str, fd: int) -> None:
        if len(self.kept) == self.room:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        self.kept[name] = fd

    def forget(self, name: str) -> None:
        self.kept.pop(name, None)


def test_all_or_none() -> None:
    shelf = Shelf(room=2 + 3)
    memory = Memory(shelf, {})
    first = memory.keep((0, 1))
    with pytest.raises(VethError, match=os.strerror(errno.ENOBUFS)) as caught:
        memory.keep((0, 1))
    assert caught.value.errno == errno.ENOBUFS
    assert {name for name in shelf.kept if name.startswith("u")} == set(first)
    memory.close()


def test_no_more_than_the_store_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "KEPT_MAX", 4)
    memory = Memory(Shelf(room=100), {})
    first = memory.keep((0, 1, 2))
    with pytest.raises(VethError, match="at most 4") as caught:
        memory.keep((0, 1))
    assert caught.value.errno == errno.ENOSPC
    memory.forget(first)
    assert len(memory.keep((0, 1, 2, 0))) == 4
    memory.close()


def test_a_handover_has_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes the names in messages, not in the environment; the pairs are already halted when it begins."""
    monkeypatch.setattr(keeper, "KEPT_MAX", 1)
    parcel = Parcel()
    assert len(parcel.memory.keep((0, 1))) == 2
    parcel.close()


def test_names_are_unique() -> None:
    assert len({keeper.fd_name(number) for number in range(1, 100_000)}) == 99_999
    assert keeper.fd_name(35 * 36 + 1) == "uz1"


def test_room_is_that_of_the_unit() -> None:
    unit = (Path(__file__).parents[2] / "systemd" / "vethd.service").read_text(encoding="utf-8")
    room = re.search(r"^FileDescriptorStoreMax=(\d+)$", unit, re.MULTILINE)
    assert room is not None
    assert int(room[1]) >= keeper.KEPT_MAX + len(COPIES)
    names = ":".join(["control", "fdpass", *(keeper.fd_name(2**31 - n) for n in range(keeper.KEPT_MAX))])
    assert len(f"LISTEN_FDNAMES={names}") < 128 * 1024, "execve() takes no longer string (MAX_ARG_STRLEN)"


@pytest.fixture
def notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Notify, socket.socket]]:
    """Yield what tells the service manager, and the service manager."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(DEADLINE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield Notify(), manager


def test_what_cannot_be_stored_is_told(notify: tuple[Notify, socket.socket]) -> None:
    told, manager = notify
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
        told.keep("t1", 1 << 20)
    assert caught.value.errno == errno.EBADF
    told.keep("t2", 0)
    text, fds, _, _ = socket.recv_fds(manager, 1024, 4)
    assert text == b"FDSTORE=1\nFDNAME=t2"
    assert len(fds) == 1
    os.close(fds[0])


def test_nobody_there_is_no_error(notify: tuple[Notify, socket.socket]) -> None:
    told, manager = notify
    manager.close()
    told.keep("t1", 0)
    told.ready("well")
