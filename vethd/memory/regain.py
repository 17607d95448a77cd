"""Attach again to the persistent devices of a predecessor whose fds no process held, from the file that it wrote.

The result has the form of an inheritance from an fd store: fds by name, and the record. So adoption.py does the rest,
also for half a pair: it deletes the remaining device.
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
BUSY_S = 1.0  # for all devices together: a killed predecessor may not have closed all of its fds yet
_PAUSE_S = 0.02


def boot_id() -> str:
    """Return the kernel's boot id. No device outlives a boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def regain(file: Path) -> dict[str, int]:
    """Return the fds of the devices that file lists, as a keeper would; the caller owns them. For a worker thread.

    Returns nothing if the file does not exist or was written before the last reboot. An unreadable file is logged and
    renamed to FILE.bad; its devices stay without an owner. A device that does not match its entry is logged and left
    alone.
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
        log.warning("persistent device file unreadable", reason=str(error), kept_as=str(aside))
        return {}
    if places.boot != boot_id():
        return {}
    passed: dict[str, int] = {}
    until = time.monotonic() + BUSY_S
    for pair in record.pairs:
        for end in pair.ends:
            spot = places.spots.get(end.fds[0])
            if spot is None or passed.keys() & set(end.fds):
                continue  # the device was not made persistent, or two ends claim one fd name and either may be wrong
            try:
                passed |= zip(end.fds, _attach(spot, len(end.fds), until), strict=True)
            except VethError as error:
                where = {"name": spot.name, "netns": spot.netns, "ifindex": spot.ifindex}
                log.warning("device not reattached", pair=pair.id, **where, reason=str(error))
    passed[COPIES[0]] = fd = os.memfd_create("vethd-regained", os.MFD_CLOEXEC)
    os.pwrite(fd, written, 0)
    return passed


def _attach(spot: Spot, queues: int, until: float) -> tuple[int, ...]:
    """Attach to the device at spot; retry until that time while it is busy. Raises VethError."""
    while True:
        try:
            return attach(spot, queues)
        except VethError as error:
            if error.errno != errno.EBUSY or time.monotonic() > until:
                raise
        time.sleep(_PAUSE_S)
