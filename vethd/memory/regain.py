"""Begin where a predecessor ended whose devices nobody held: attach to them again, by what it wrote down.

What comes of it looks like what a keeper of fds would have passed: fds by name, and the record. So all the rest is
adoption.py's, half a pair included: what is left of it is deleted.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

import structlog

from vethd.kernel.attach import attach
from vethd.memory.takeover import COPIES
from vethd.model.errors import VethError
from vethd.model.persisted import Spot, read_back

log = structlog.get_logger()

FILE = "devices"
BUSY_S = 1.0  # in all, for devices that a killed predecessor's io_uring has not let go of yet
_PAUSE_S = 0.02


def boot_id() -> str:
    """Return the kernel's name for this run of it: no device outlives that."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def regain(file: Path) -> dict[str, int]:
    """Return the fds, the caller's, of the devices that file tells of, as a keeper would; for a worker thread.

    Nothing where there is no file, or one of before a reboot. One that cannot be read is told, and kept as FILE.bad:
    its devices are nobody's. What is not what was written down is not touched, and told.
    """
    try:
        data = file.read_bytes()
        written, record, places = read_back(data)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        aside = file.with_name(f"{file.name}.bad")
        with suppress(OSError):
            file.replace(aside)
        log.warning("what was written of persistent devices cannot be read", reason=str(error), kept_as=str(aside))
        return {}
    if places.boot != boot_id():
        return {}
    passed: dict[str, int] = {}
    until = time.monotonic() + BUSY_S
    for pair in record.pairs:
        for end in pair.ends:
            spot = places.spots.get(end.fds[0])
            if spot is None or passed.keys() & set(end.fds):
                continue  # it was not made persistent; or two ends claim one name, and nobody knows which is right
            try:
                passed |= zip(end.fds, _attach(spot, len(end.fds), until), strict=True)
            except VethError as error:
                where = {"name": spot.name, "netns": spot.netns, "ifindex": spot.ifindex}
                log.warning("device not attached again", pair=pair.id, **where, reason=str(error))
    passed[COPIES[0]] = fd = os.memfd_create("vethd-regained", os.MFD_CLOEXEC)
    os.pwrite(fd, written, 0)
    return passed


def _attach(spot: Spot, queues: int, until: float) -> tuple[int, ...]:
    """Attach, until that time even where somebody is attached still. Raises VethError."""
    while True:
        try:
            return attach(spot, queues)
        except VethError as error:
            if error.errno != errno.EBUSY or time.monotonic() > until:
                raise
        time.sleep(_PAUSE_S)
