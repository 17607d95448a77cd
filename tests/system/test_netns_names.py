"""Names of namespaces, as a daemon that is not root opens them."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vethd.kernel.netns import RUN_NETNS, open_ref
from vethd.model.errors import VethError

NOBODY = 65534
NAME = "vt-halfway"


@contextmanager
def eyes_of(uid: int) -> Iterator[None]:
    """Open files as that user, in this thread: setfsuid(2)."""
    libc = ctypes.CDLL(None)
    libc.setfsuid(uid)
    try:
        yield
    finally:
        libc.setfsuid(0)


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
