"""/sys/class/net of a namespace, which a sysfs shows that was mounted in it: by a thread with mounts of its own."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.lib.netns import Netns

CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 0x4000, 0x40000

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def in_sysfs(netns: Netns, look: Callable[[Path], T]) -> T:
    """Call look with the path of the directory of netns's devices. Raises what look raises, and OSError."""

    def body() -> T:
        _checked(_libc.unshare(CLONE_NEWNS), "unshare")
        _checked(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "make / private")
        _checked(_libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None), "mount sysfs")
        return look(Path("/sys/class/net"))

    return netns.run(body)


def _checked(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
