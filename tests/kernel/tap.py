"""TAPs by raw ioctl and pytun, and the errnos that the kernel answers; nothing here knows vethd."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytun

from tests.lib.netns import Netns

IFF_NO_CARRIER = 0x40
IFF_TUN_EXCL = 0x8000
BASE = pytun.IFF_TAP | pytun.IFF_NO_PI | pytun.IFF_VNET_HDR | IFF_TUN_EXCL

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
TUNSETIFINDEX = 0x400454DA
TUNSETSNDBUF = 0x400454D4
TUNSETCARRIER = 0x400454E2
TUNSETFILTEREBPF = 0x800454E1
TUNGETDEVNETNS = 0x54E3

VNET_HDR = bytes(10)  # no checksum to complete, no GSO
FRAME_MAX = 65535 + 14 + 4 + 24

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    """Return result of a C function, or raise OSError with its errno where it is negative."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


@contextmanager
def refusal(code: int) -> Iterator[None]:
    """Expect an OSError with this errno."""
    try:
        yield
    except OSError as error:
        found = error.errno
    else:
        found = None
    assert found == code, f"errno {found}, not {errno.errorcode[code]}"


class Tap:
    """A TAP by its descriptor, nonblocking; born in the namespace in which /dev/net/tun was opened."""

    def __init__(self, net: Netns, name: str = "", flags: int = BASE | IFF_NO_CARRIER) -> None:
        """Open the device. Raises pytun.Error with the kernel's errno."""
        self.device = net.run(pytun.TunTapDevice, name=name, flags=flags)
        self.fd: int = self.device.fileno()
        self.name: str = self.device.name
        os.set_blocking(self.fd, False)

    @staticmethod
    def attach(fd: int, name: str, flags: int = BASE | IFF_NO_CARRIER) -> None:
        """Make a device for a tun file that has none, without pytun."""
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("=16sH22x", name.encode(), flags))

    @staticmethod
    def int_ioctl(fd: int, request: int, value: int) -> None:
        """Call an ioctl that takes a pointer to an int."""
        fcntl.ioctl(fd, request, struct.pack("=i", value))

    def close(self) -> None:
        """Close the descriptor, and with it the device. Idempotent."""
        if self.fd >= 0:
            self.fd = -1
            self.device.close()

    def ioctl(self, request: int, value: int) -> None:
        """Call an ioctl that takes the value itself."""
        fcntl.ioctl(self.fd, request, value)

    def ioctl_int(self, request: int, value: int) -> None:
        """Call an ioctl that takes a pointer to an int."""
        self.int_ioctl(self.fd, request, value)

    def carrier(self, on: bool) -> None:
        """Set the carrier."""
        self.ioctl_int(TUNSETCARRIER, int(on))

    def write(self, frame: bytes, header: bytes = VNET_HDR) -> None:
        """Write a frame behind a header: the device's receive direction."""
        assert os.writev(self.fd, [header, frame]) == len(header) + len(frame)

    def read(self) -> bytes:
        """Read a frame with its header. Raises OSError; BlockingIOError where none waits."""
        return os.read(self.fd, FRAME_MAX)

    def drain(self, header: int = len(VNET_HDR)) -> list[bytes]:
        """Read all frames that wait, without headers."""
        frames = []
        while True:
            try:
                frames.append(self.read()[header:])
            except BlockingIOError:
                return frames

    def poll(self, events: int = select.POLLIN, timeout_s: float = 0) -> int:
        """Return what poll() says of the descriptor."""
        poller = select.poll()
        poller.register(self.fd, events)
        return next((revents for _, revents in poller.poll(timeout_s * 1000)), 0)
