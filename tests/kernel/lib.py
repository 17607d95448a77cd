"""Raw TAPs and anonymous namespaces for probes of the kernel; nothing here knows vethd.

A namespace (Net) has no name: a thread makes it and ends, and it lives as long as somebody holds a descriptor,
a socket or a tun file of it. The Observatory is one more namespace, which gives every Net a number (nsid): the
number vanishes with the namespace, so that a probe can wait for a death, and a fixture can prove all of them.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.kernel.tap import BASE, IFF_NO_CARRIER, Tap, checked, libc
from tests.lib import rtnl
from tests.lib.netns import CLONE_NEWNET, Netns
from tests.lib.rtnl import Link, Rtnl, ifinfomsg, nest, text, u32
from tests.lib.wait import DEADLINE_S, wait_until

RTM_NEWQDISC = 36
RTM_NEWNSID, RTM_DELNSID, RTM_GETNSID = 88, 89, 90
RTNLGRP_NSID = 28
NETNSA_NSID, NETNSA_FD = 1, 3
NLM_F_REPLACE = 0x100
IFLA_NEW_NETNSID, IFLA_NEW_IFINDEX = 45, 49
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_LISTEN_ALL_NSID = 8

ETH_P_ALL = 3

_numbers = iter(range(1, 1 << 30))


def _born() -> int:
    checked(libc.unshare(CLONE_NEWNET), "unshare")
    for scope in ("all", "default"):  # no frame that no probe asked for
        Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1", encoding="ascii")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class Net(Netns):
    """An anonymous namespace, held by the descriptor fd alone."""

    def __init__(self) -> None:
        """Make the namespace."""
        super().__init__("")
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(_born()), name="unshare")
        thread.start()
        thread.join()
        self.fd = found[0]
        self.inode = os.fstat(self.fd).st_ino
        self.path = Path(f"/proc/self/fd/{self.fd}")

    @classmethod
    def adopt_own(cls) -> Net:
        """Refer to the namespace that this process runs in."""
        net = cls.__new__(cls)
        Netns.__init__(net, "")
        net.fd = -1
        net.inode = net.path.stat().st_ino
        return net

    def let_go(self) -> None:
        """Give the namespace up; it dies unless somebody else holds it. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def get(self, name: str) -> Link | None:
        """Read a link, None where there is none."""
        with Rtnl(self) as sock:
            return sock.getlink(name)

    def link(self, name: str) -> Link:
        """Read a link that must be there."""
        found = self.get(name)
        assert found is not None, f"no {name}"
        return found

    def request(self, kind: int, flags: int, body: bytes) -> bytes:
        """Send one rtnetlink request from inside. Raises OSError with the kernel's errno."""
        with Rtnl(self) as sock:
            return sock.request(kind, flags, body)

    def set(self, name: str, *attrs: tuple[int, bytes], flags: int = 0, change: int = 0) -> None:
        """Change a link. Raises OSError with the kernel's errno."""
        index = self.link(name).ifindex
        self.request(rtnl.RTM_NEWLINK, 0, ifinfomsg(index, flags, change) + nest(list(attrs)))

    def up(self, *names: str) -> None:
        """Turn links up."""
        for name in names:
            self.set(name, flags=rtnl.IFF_UP, change=rtnl.IFF_UP)

    def down(self, name: str) -> None:
        """Turn a link down."""
        self.set(name, change=rtnl.IFF_UP)

    def delete(self, name: str = "") -> None:
        """Delete a link."""
        self.request(rtnl.RTM_DELLINK, 0, ifinfomsg(self.link(name).ifindex))

    def move(self, name: str, target: Netns, *attrs: tuple[int, bytes]) -> None:
        """Move a link to another namespace, in one request with attrs."""
        with target.path.open("rb") as file:
            self.set(name, (rtnl.IFLA_NET_NS_FD, u32(file.fileno())), *attrs)

    def noqueue(self, name: str) -> None:
        """Replace a link's root qdisc by noqueue, as `tc qdisc replace dev X root noqueue`."""
        tcmsg = struct.pack("=BxxxiIII", 0, self.link(name).ifindex, 0, 0xFFFFFFFF, 0)  # parent TC_H_ROOT
        create = rtnl.NLM_F_CREATE | NLM_F_REPLACE
        self.request(RTM_NEWQDISC, create, tcmsg + nest([(1, text("noqueue"))]))  # TCA_KIND

    @contextmanager
    def packet(self, name: str) -> Iterator[socket.socket]:
        """Yield a packet socket that sends whole frames through a link and receives nothing."""
        sock = self.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            sock.bind((name, 0))
            yield sock
        finally:
            sock.close()

    @contextmanager
    def ear(self, name: str) -> Iterator[socket.socket]:
        """Yield a packet socket that receives whatever a link receives or sends, and waits DEADLINE_S for it."""
        sock = self.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            sock.bind((name, ETH_P_ALL))
            sock.settimeout(DEADLINE_S)
            yield sock
        finally:
            sock.close()


class Observatory(Net):
    """The namespace that numbers the others."""

    def __init__(self) -> None:
        """Build it; no probe touches it."""
        super().__init__()
        self._sock = Rtnl(self)
        self._watched: dict[int, Net] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._sock.sock.close()
        self.let_go()

    def watch(self, net: Net) -> None:
        """Number a namespace."""
        number = next(_numbers)
        assign_nsid(self._sock, net.fd, number)
        self._watched[number] = net

    def dead(self, net: Net) -> bool:
        """Return whether the namespace is dying or dead: its number goes first, its devices some milliseconds later."""
        return not any(self._known(number) for number, it in self._watched.items() if it is net)

    def assert_all_dead(self) -> None:
        """Wait until every namespace that was watched is gone."""
        wait_until(lambda: not any(map(self._known, self._watched)), what="death of all namespaces")
        self._watched.clear()

    def _known(self, number: int) -> bool:
        try:
            self._sock.request(RTM_GETNSID, 0, bytes(4) + nest([(NETNSA_NSID, u32(number))]))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True


def assign_nsid(sock: Rtnl, netns_fd: int, number: int) -> None:
    """Give a namespace the number by which the socket's namespace knows it."""
    sock.request(RTM_NEWNSID, 0, bytes(4) + nest([(NETNSA_NSID, u32(number)), (NETNSA_FD, u32(netns_fd))]))


class House:
    """Namespaces and TAPs, closed newest first."""

    def __init__(self, observatory: Observatory) -> None:
        """Begin empty; the observatory watches every namespace made here."""
        self.observatory = observatory
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def net(self) -> Net:
        """Make a namespace."""
        net = Net()
        self._stack.callback(net.let_go)
        self.observatory.watch(net)
        return net

    def tap(self, net: Netns, name: str = "", flags: int = BASE | IFF_NO_CARRIER) -> Tap:
        """Make a TAP, carrier off unless flags say otherwise."""
        tap = Tap(net, name, flags)
        self._stack.callback(tap.close)
        return tap

    def live_tap(self, net: Net, name: str = "") -> Tap:
        """Make a TAP that is up and has its carrier, and wait until it sends."""
        tap = self.tap(net, name)
        net.up(tap.name)
        tap.carrier(True)
        self.wait_sending(net, tap.name)
        return tap

    @staticmethod
    def wait_sending(net: Net, name: str) -> None:
        """Wait until frames pass: the carrier changes at once, the queues open with operstate UP."""
        wait_until(lambda: net.link(name).operstate == "UP", what=f"{name} to be UP")

    def listen(self, net: Net, groups: int = rtnl.RTMGRP_LINK) -> Rtnl:
        """Open a socket that hears a namespace's link events."""
        sock = Rtnl(net, groups)
        self._stack.callback(sock.sock.close)
        return sock

    @staticmethod
    def wait_silent(net: Net, name: str) -> None:
        """Wait until frames are dropped for want of a carrier."""
        wait_until(lambda: net.link(name).operstate == "DOWN", what=f"{name} to be DOWN")
