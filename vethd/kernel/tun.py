"""One TAP device: made by python-pytun, configured by the ioctls that pytun lacks, kept by the fds of its queues.

Theory of operation. The fds are the device: the last close deletes it. python-pytun makes it (TUNSETIFF), and its
object is closed at once; where it is not installed, one ioctl(2) does the same. vethd keeps duplicates of its fds,
non-blocking and close-on-exec, so a device can also come from fds that another process passed. The device is made in
the namespace in which /dev/net/tun was *opened*, and pins that namespace: see births.py.

A frame on an fd is a virtio_net_hdr of vnet_hdr_len bytes, then the frame from its Ethernet header on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from contextlib import ExitStack, closing, suppress

from vethd.kernel.uapi import (
    DEV_NET_TUN,
    IFF_MULTI_QUEUE,
    IFF_NO_CARRIER,
    IFF_NO_PI,
    IFF_TAP,
    IFF_TUN_EXCL,
    IFF_VNET_HDR,
    IFNAMSIZ,
    SIOCGSKNS,
    TUN_F_CSUM,
    TUN_F_TSO4,
    TUN_F_TSO6,
    TUN_F_TSO_ECN,
    TUN_F_UDP_TUNNEL_GSO,
    TUN_F_UDP_TUNNEL_GSO_CSUM,
    TUN_F_UFO,
    TUN_F_USO4,
    TUN_F_USO6,
    TUNGETDEVNETNS,
    TUNGETIFF,
    TUNGETVNETHDRSZ,
    TUNSETCARRIER,
    TUNSETIFF,
    TUNSETOFFLOAD,
    TUNSETPERSIST,
    TUNSETVNETHDRSZ,
)
from vethd.model.errors import VethError
from vethd.model.needs import CARRIER, DEVICE_NETNS
from vethd.model.vnet import HDR_LEN, HDR_LEN_TUNNEL

try:
    import pytun
except ImportError:  # there is no wheel, and no compiler
    pytun = None

IFREQ = struct.Struct("=16sH22x")  # ifr_name, ifr_flags

_TSO = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
_USO = _TSO | TUN_F_UFO | TUN_F_USO4 | TUN_F_USO6
_TUNNEL = _USO | TUN_F_UDP_TUNNEL_GSO | TUN_F_UDP_TUNNEL_GSO_CSUM
# Best first, each with its header length: the kernel accepts tunnel offload with a short header, and then every frame
# is lost (EFAULT on read).
OFFLOADS = ((HDR_LEN_TUNNEL, _TUNNEL), (HDR_LEN, _USO), (HDR_LEN, _TSO), (HDR_LEN, TUN_F_CSUM), (HDR_LEN, 0))

_NO_DEVICE = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.EPERM, errno.EACCES)
"""The errnos with which /dev/net/tun cannot be opened, if TUNSETIFF did not return them."""

GONE = (errno.EBADFD, errno.EBADF)
"""The errnos of every operation on an fd whose device is deleted."""


class Tap:
    """A TAP device with one fd per queue. Methods do not block unless stated.

    uso is whether the kernel accepts a super-frame of UDP (gso_type UDP_L4) on it. The offload and the write both came
    with Linux 6.2; an older kernel refuses the write with EINVAL.

    lock keeps the fds open while a worker thread uses them, because fd numbers are reused. The loop's thread need not
    take it, because that thread decides when to close.
    """

    def __init__(self, fds: tuple[int, ...], vnet_hdr_len: int, *, uso: bool) -> None:
        """Take over the fds of one attached device; they are already non-blocking."""
        self.fds = fds
        self.vnet_hdr_len = vnet_hdr_len
        self.uso = uso
        self.lock = threading.RLock()

    @classmethod
    def birth(cls, name: str, queues: int = 1) -> Tap:
        """Make a device, carrier off, with every offload that the kernel supports. Blocks (RTNL).

        name may be a pattern with one %d. The device is made in the calling thread's namespace and pins it.
        Raises VethError EEXIST, EINVAL (name), EPERM (no CAP_NET_ADMIN), those of tundev.obstacle(), and
        EOPNOTSUPP (a kernel before 5.2).
        """
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_NO_CARRIER | (IFF_MULTI_QUEUE if queues > 1 else 0)
        fds: list[int] = []
        try:
            fds.append(_attach(name, flags | IFF_TUN_EXCL))
            real_name = _ifname(fds[0])
            fds += [_attach(real_name, flags) for _ in range(queues - 1)]
            _check_age(fds[0], real_name)
            vnet_hdr_len, word = set_offload(fds[0], real_name)
            return cls(tuple(fds), vnet_hdr_len, uso=word & _USO == _USO)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise

    @classmethod
    def adopt(cls, fds: tuple[int, ...], *, uso: bool = False) -> Tap:
        """Take over fds of a device that another process made with birth(); on failure they stay the caller's.

        uso is the value that birth() found: to find it again would set the offloads again. A header with room for
        tunnels implies it. Raises VethError ENODEV if the device is gone.
        """
        try:
            length = struct.unpack("i", fcntl.ioctl(fds[0], TUNGETVNETHDRSZ, bytes(4)))[0]
        except OSError as error:
            raise VethError(errno.ENODEV, "adopt") from error
        for fd in fds:
            os.set_blocking(fd, False)
        return cls(fds, length, uso=uso or length == HDR_LEN_TUNNEL)

    @property
    def ifname(self) -> str:
        """The device's present name. Raises VethError ENODEV if it is gone."""
        try:
            return _ifname(self.fds[0])
        except IndexError as error:
            raise VethError(errno.ENODEV, "TUNGETIFF") from error

    @property
    def alive(self) -> bool:
        """Whether the device still exists."""
        try:
            return bool(self.ifname)
        except VethError:
            return False

    def netns_fd(self) -> int:
        """Return an fd on the namespace where the device is now; the caller closes it.

        Raises VethError ENODEV if the device is gone.
        """
        try:
            return fcntl.ioctl(self.fds[0], TUNGETDEVNETNS)
        except IndexError as error:
            raise VethError(errno.ENODEV, "TUNGETDEVNETNS") from error
        except OSError as error:
            # EINVAL: the namespace is being deleted with its devices
            code = errno.ENODEV if error.errno in (*GONE, errno.EINVAL) else error.errno or errno.EIO
            raise VethError(code, "TUNGETDEVNETNS") from error

    def netns_inode(self) -> int:
        """Return the inode of the namespace where the device is now. Raises VethError ENODEV."""
        with self.lock:
            fd = self.netns_fd()
        try:
            return os.fstat(fd).st_ino
        except OSError as error:
            raise VethError(error.errno or errno.EIO, "TUNGETDEVNETNS") from error
        finally:
            os.close(fd)

    def set_carrier(self, *, on: bool) -> None:
        """Turn the carrier on or off, if it is not already so. A deleted device is no error. Blocks (RTNL)."""
        with self.lock, suppress(IndexError):
            try:
                fcntl.ioctl(self.fds[0], TUNSETCARRIER, struct.pack("i", on))
            except OSError as error:
                if error.errno not in GONE:
                    raise VethError(error.errno or errno.EIO, "TUNSETCARRIER") from error

    def set_persist(self, *, on: bool) -> None:
        """Set whether the device outlives its fds. A deleted device is no error. Blocks (RTNL)."""
        with self.lock, suppress(IndexError):
            try:
                fcntl.ioctl(self.fds[0], TUNSETPERSIST, int(on))
            except OSError as error:
                if error.errno not in GONE:
                    raise VethError(error.errno or errno.EIO, "TUNSETPERSIST") from error

    def pinned_inode(self) -> int:
        """Return the inode of the namespace where /dev/net/tun was opened, which the fd keeps alive. Blocks (RTNL).

        Raises VethError ENODEV if the device is gone.
        """
        try:
            with self.lock:
                fd = fcntl.ioctl(self.fds[0], SIOCGSKNS)
        except IndexError as error:
            raise VethError(errno.ENODEV, "SIOCGSKNS") from error
        except OSError as error:
            code = errno.ENODEV if error.errno in GONE else error.errno or errno.EIO
            raise VethError(code, "SIOCGSKNS") from error
        try:
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the fds, which deletes the device if no other process holds it. Idempotent. Blocks (RTNL, RCU)."""
        with self.lock:
            fds, self.fds = self.fds, ()
            for fd in fds:
                os.close(fd)


def _attach(name: str, flags: int) -> int:
    try:
        return _open(name, flags)
    except OSError as error:
        code = error.errno or errno.EINVAL
        if code in _NO_DEVICE:
            from vethd.kernel.tundev import obstacle  # noqa: PLC0415  a start that adopts pairs does not need it

            if found := obstacle():
                raise found.error("newlink", name) from error
        # EBUSY: a TAP of that name is attached, or with EXCL exists; EINVAL: a netdev of another kind has the name
        taken = code == errno.EBUSY or (code == errno.EINVAL and os.path.exists(f"/sys/class/net/{name}"))  # noqa: PTH110 - no object needed
        raise VethError(errno.EEXIST if taken else code, "newlink", name) from error


def _open(name: str, flags: int) -> int:
    """Return a new fd, non-blocking: of a new device, or of one more queue. Raises OSError.

    By python-pytun, or by ioctl(2) where that is not installed.
    """
    with ExitStack() as undo:
        if pytun is not None:
            device = undo.enter_context(closing(pytun.TunTapDevice(name=name, flags=flags)))
            fd = os.dup(device.fileno())
            try:
                os.set_blocking(fd, False)
            except OSError:
                os.close(fd)
                raise
            return fd
        fd = os.open(DEV_NET_TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        undo.callback(os.close, fd)
        fcntl.ioctl(fd, TUNSETIFF, IFREQ.pack(name.encode(), flags))
        undo.pop_all()
        return fd


def _check_age(fd: int, name: str) -> None:
    """Turn the carrier off, and ask for the namespace; raise VethError EOPNOTSUPP if the kernel has not both ioctls.

    In the namespace of a device that was just made, EINVAL has no other cause.
    """
    need = CARRIER
    try:
        fcntl.ioctl(fd, TUNSETCARRIER, struct.pack("i", 0))
        need = DEVICE_NETNS
        os.close(fcntl.ioctl(fd, TUNGETDEVNETNS))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTTY):
            raise VethError(errno.EOPNOTSUPP, "newlink", name, need.missing) from error
        raise VethError(error.errno or errno.EIO, "newlink", name) from error


def set_offload(fd: int, name: str) -> tuple[int, int]:
    """Set the best offload word that the kernel accepts; return the header length that belongs to it, and the word.

    Call it only once: a second TUNSETOFFLOAD would override a user's `ethtool -K`.
    """
    for vnet_hdr_len, word in OFFLOADS:
        try:
            fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", vnet_hdr_len))
            fcntl.ioctl(fd, TUNSETOFFLOAD, word)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise VethError(error.errno or errno.EIO, "TUNSETOFFLOAD", name) from error
        else:
            return vnet_hdr_len, word
    raise VethError(errno.EOPNOTSUPP, "newlink", name, "TAPs of this kernel have no vnet header")


def _ifname(fd: int) -> str:
    """Return the device's name. Raises VethError ENODEV if it is gone: the kernel has no other reason to fail."""
    try:
        request = fcntl.ioctl(fd, TUNGETIFF, bytes(40))
    except OSError as error:
        raise VethError(errno.ENODEV, "TUNGETIFF") from error
    return os.fsdecode(request[:IFNAMSIZ].split(b"\0", 1)[0])  # a name need not be UTF-8
