"""Names of namespaces: what they lead to, and whether it is still the same."""

from __future__ import annotations

import ctypes
import errno
import os
import posix
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.lib.leaks import PREFIX
from tests.lib.netns import Netns
from tests.lib.wait import wait_until
from vethd.kernel import netns
from vethd.kernel.births import Place
from vethd.kernel.linkstate import LinkState
from vethd.kernel.netns import RUN_NETNS, open_ref
from vethd.kernel.rtnl import Rtnl
from vethd.kernel.tun import Tap
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec, PairSpec
from vethd.pairs.entry import Entry, still_there
from vethd.pairs.link import Link
from vethd.pairs.pair import LivePair

NOBODY = 65534
NAME = f"{PREFIX}halfway"
AGAIN = f"{PREFIX}again"


@contextmanager
def eyes_of(uid: int) -> Iterator[None]:
    """Open files as that user, in this thread: setfsuid(2)."""
    libc = ctypes.CDLL(None)
    before = libc.setfsuid(uid)
    try:
        yield
    finally:
        libc.setfsuid(before)


@pytest.mark.usefixtures("root")
def test_a_name_without_its_namespace_is_no_namespace() -> None:
    """`ip netns add` makes a file of mode 000, then mounts; `ip netns del` unmounts, then unlinks."""
    path = Path(RUN_NETNS, NAME)
    path.parent.mkdir(exist_ok=True)
    path.touch(0)
    try:
        with eyes_of(NOBODY), pytest.raises(PermissionError):
            path.open().close()
        with eyes_of(NOBODY), pytest.raises(VethError) as refusal:
            open_ref(NAME)
        assert (refusal.value.errno, refusal.value.reason) == (errno.ENOENT, f"no network namespace '{NAME}'")
        with eyes_of(NOBODY), pytest.raises(VethError) as refusal:
            open_ref(str(path))
        assert refusal.value.errno == errno.EACCES
    finally:
        path.unlink()


@pytest.mark.usefixtures("root")
def test_so_it_is_if_ip_unlinks_it_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(RUN_NETNS, NAME)
    path.parent.mkdir(exist_ok=True)
    path.touch(0)

    def opened(name: str, flags: int) -> int:
        try:
            return posix.open(name, flags)
        finally:
            with eyes_of(0):
                path.unlink()

    monkeypatch.setattr(os, "open", opened)
    with eyes_of(NOBODY), pytest.raises(VethError) as refusal:
        open_ref(NAME)
    assert refusal.value.errno == errno.ENOENT
    assert not path.exists()


def identity(name: str) -> tuple[int, int]:
    """Return inode and cookie of a namespace."""
    fd = open_ref(name)
    try:
        with netns.inside(fd), Rtnl() as there:
            return netns.inode(fd), netns.cookie(there.sock)
    finally:
        os.close(fd)


@pytest.mark.usefixtures("root")
def test_a_namespace_made_again_is_another() -> None:
    """The kernel gives the lowest inode that is free, often the one of the namespace that has just died."""
    place = Netns.create(AGAIN)
    try:
        cookies: dict[int, int] = {}

        def again() -> list[tuple[int, int]]:
            inode, cookie = identity(AGAIN)
            if inode in cookies:
                return [(inode, cookies[inode]), (inode, cookie)]
            cookies[inode] = cookie
            place.delete()
            Netns.create(AGAIN)
            return []

        first, now = wait_until(again, what="an inode again")
        assert now != first
        spec = PairSpec(name="va", netns=AGAIN, peer=LinkSpec(name="vb", netns=AGAIN))
        for (inode, cookie), same in ((first, False), (now, True)):
            where = Place((1, 2), inode, cast("LinkState", None), cookie)
            link = Link(cast("Tap", None), where, AGAIN)
            pair = cast("LivePair", SimpleNamespace(links=(link, link)))
            assert still_there(Entry("p1", spec, "config"), pair) is same
    finally:
        place.delete()
