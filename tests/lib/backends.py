"""What makes pairs: the kernel's veth, which is the oracle, and vethd. Everything else is done to the devices."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

import msgspec

from tests.lib import rtnl
from tests.lib.daemon import Daemon
from tests.lib.differences import DIFFERENCES, SHOWN
from tests.lib.engines import ENGINE
from tests.lib.netns import Netns
from tests.lib.rtnl import Attrs, Rtnl, nest, text, u32
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec, PairSpec


class Backend(ABC):
    """Something that makes and deletes pairs, and knows where it is allowed to differ from the kernel."""

    name: str

    def __init__(self, home: Netns) -> None:
        """Live in the namespace home: it is what an unsaid netns means."""
        self.home = home

    @abstractmethod
    def newlink(self, spec: PairSpec) -> None:
        """Make the pair. Raises VethError with the errno of the refusal."""

    @abstractmethod
    def dellink(self, name: str, netns: str) -> None:
        """Delete the pair that has this end. Raises VethError."""

    @abstractmethod
    def differs(self, difference: str) -> bool:
        """Return whether the named difference from the kernel's veth is to be expected here."""

    @abstractmethod
    def shows(self) -> dict[str, tuple[str | None, str | None]]:
        """Return what an end of this backend's is expected to show differently, as (the kernel's veth, here)."""

    @abstractmethod
    def held(self) -> AbstractContextManager[None]:
        """Have what is sent meanwhile wait in the sending device, where there is somebody to wait for."""

    @abstractmethod
    def leftovers(self) -> list[str]:
        """Name what is left of the pairs, devices apart; [] once all is clean."""


class KernelVeth(Backend):
    """drivers/net/veth.c by rtnetlink. A link message goes out in the near end's namespace, as by `ip -n`."""

    name = "kernel"

    def newlink(self, spec: PairSpec) -> None:
        """Send RTM_NEWLINK, then what it does not set (alias, altname, addrgenmode, the peer's master)."""
        near, far = spec.near_end(), spec.peer
        with ExitStack() as stack:
            near_ns, near_fd = self._resolve(near.netns, stack)
            sock = stack.enter_context(Rtnl(near_ns))
            peer: Attrs = []
            far_ns = near_ns
            if far is not None:
                far_ns, far_fd = self._resolve(far.netns, stack)
                far_attrs = [*_attributes(far), (rtnl.IFLA_NET_NS_FD, u32(far_fd))]
                peer = [(rtnl.VETH_INFO_PEER, _header(far) + nest(far_attrs))]
            attrs = [*_attributes(near), (rtnl.IFLA_NET_NS_FD, u32(near_fd))]
            attrs.append((rtnl.IFLA_LINKINFO, nest([(1, text("veth")), (rtnl.IFLA_INFO_DATA, nest(peer))])))
            masters = [_master(sock, near), _master(stack.enter_context(Rtnl(far_ns)), far)]
            flags = rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL
            with _refusal("newlink", near):
                sock.request(rtnl.RTM_NEWLINK, flags, _header(near) + nest(attrs))
            self._finish(near, near_ns, masters[0])
            if far is not None:
                self._finish(far, far_ns, masters[1])

    def dellink(self, name: str, netns: str) -> None:
        """Send RTM_DELLINK."""
        with ExitStack() as stack:
            sock = stack.enter_context(Rtnl(self._resolve(netns, stack)[0]))
            body = rtnl.ifinfomsg() + nest([(rtnl.IFLA_IFNAME, text(name))])
            with _refusal("dellink", LinkSpec(name=name)):
                sock.request(rtnl.RTM_DELLINK, 0, body)

    def differs(self, difference: str) -> bool:
        """Say no: the kernel is what others differ from."""
        assert difference in DIFFERENCES
        return False

    def shows(self) -> dict[str, tuple[str | None, str | None]]:
        """Say nothing, as differs()."""
        return {}

    def held(self) -> AbstractContextManager[None]:
        """Hold nothing: the sender delivers every frame itself."""
        return nullcontext()

    def leftovers(self) -> list[str]:
        """Say none: there is nothing beside the devices."""
        return []

    def _resolve(self, netns: str | None, stack: ExitStack) -> tuple[Netns, int]:
        """Return the namespace that a spec names and a descriptor of it, which the stack closes."""
        where = self.home
        if netns:
            where = Netns(netns)  # a name, or a path, which stays itself
            if netns.isdigit():
                where.path = Path(f"/proc/{netns}/ns/net")
        try:
            fd = os.open(where.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            # where a caller leaves a PID to the kernel, as IFLA_NET_NS_PID, it says ESRCH
            code = errno.ESRCH if netns and netns.isdigit() else error.errno or errno.EIO
            raise VethError(code, "newlink", "", f"netns {netns}") from error
        stack.callback(os.close, fd)
        return where, fd

    @staticmethod
    def _finish(link: LinkSpec, netns: Netns, master: int) -> None:
        late = _late(link)
        if master:
            late.append((rtnl.IFLA_MASTER, u32(master)))
        if not late and link.altname is None:
            return
        assert link.name, "who wants an alias or a master here gives a name"
        attrs: Attrs = [(rtnl.IFLA_IFNAME, text(link.name))]
        with Rtnl(netns) as sock, _refusal("newlink", link):
            sock.request(rtnl.RTM_NEWLINK, 0, rtnl.ifinfomsg() + nest(attrs + late))
            if link.altname is not None:
                props = (rtnl.IFLA_PROP_LIST | rtnl.NLA_F_NESTED, nest([(rtnl.IFLA_ALT_IFNAME, text(link.altname))]))
                flags = rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL | rtnl.NLM_F_APPEND
                body = rtnl.ifinfomsg() + nest([*attrs, props])
                sock.request(rtnl.RTM_NEWLINKPROP, flags, body)


class Vethd(Backend):
    """A daemon, over its HTTP API."""

    gro = True

    def __init__(self, home: Netns, directory: Path, engine: str = ENGINE, *args: str, gro: bool = True) -> None:
        """Start the daemon, with args on its command line; close() ends it."""
        super().__init__(home)
        self.name = f"vethd-{engine}"
        self.gro = gro
        if not gro:
            self.name += "-nogro"
            config = directory / "nogro.toml"
            config.write_text("gro = false\n")
            args = ("--config", str(config), *args)
        self.daemon = Daemon(directory, home, engine, *args)
        self.idle_fds = self.daemon.fd_count()

    def close(self) -> None:
        """Stop the daemon. Raises AssertionError where it did not end well."""
        self.daemon.stop()

    def newlink(self, spec: PairSpec) -> None:
        """POST /v1/pairs."""
        status, body = self.daemon.request("POST", "/v1/pairs", msgspec.json.encode(spec))
        self._check("newlink", status, body, 201)

    def dellink(self, name: str, netns: str) -> None:
        """DELETE /v1/links/NAME."""
        status, body = self.daemon.request("DELETE", self.daemon.link_path(name, netns))
        self._check("dellink", status, body, 204)

    def differs(self, difference: str) -> bool:
        """Say yes, to what the table has; to what begins with "gro-" only where frames are coalesced."""
        assert difference in DIFFERENCES
        return self.gro or not difference.startswith("gro-")

    def shows(self) -> dict[str, tuple[str | None, str | None]]:
        """Return the whole table."""
        return {name: values for shown in SHOWN.values() for name, values in shown.items()}

    def held(self) -> AbstractContextManager[None]:
        """Stop the daemon meanwhile."""
        return self.daemon.stopped()

    def leftovers(self) -> list[str]:
        """Name the pairs that the daemon still has, and descriptors beyond those of its idle state."""
        assert self.daemon.process.poll() is None, f"vethd died\n{self.daemon.log_tail()}"
        found = [f"pair {pair['id']}" for pair in self.daemon.pairs()]
        extra = self.daemon.fd_count() - self.idle_fds
        return found + ([f"{extra} descriptors"] if extra > 0 else [])

    @staticmethod
    def _check(op: str, status: int, body: object, wanted: int) -> None:
        if status >= 400:
            assert isinstance(body, dict), body
            raise VethError(body["errno"], op, "", body["message"])
        assert status == wanted, (status, body)


def _attributes(link: LinkSpec) -> Attrs:
    """Return what RTM_NEWLINK takes for an end."""
    attrs: Attrs = []
    if link.name is not None:
        attrs.append((rtnl.IFLA_IFNAME, text(link.name)))
    if link.address is not None:
        attrs.append((rtnl.IFLA_ADDRESS, bytes.fromhex(link.address.replace(":", ""))))
    numbers = (
        (rtnl.IFLA_MTU, link.mtu),
        (rtnl.IFLA_TXQLEN, link.txqueuelen),
        (rtnl.IFLA_GROUP, link.group),
        (rtnl.IFLA_NUM_TX_QUEUES, link.queues),
        (rtnl.IFLA_NUM_RX_QUEUES, link.queues),
        (rtnl.IFLA_GSO_MAX_SIZE, link.gso_max_size),
        (rtnl.IFLA_GSO_MAX_SEGS, link.gso_max_segs),
        (rtnl.IFLA_GRO_MAX_SIZE, link.gro_max_size),
    )
    return attrs + [(kind, u32(value)) for kind, value in numbers if value is not None]


def _header(link: LinkSpec) -> bytes:
    """Return the link message's header: index and flags."""
    wanted = (
        (rtnl.IFF_UP, link.up),
        (rtnl.IFF_NOARP, None if link.arp is None else not link.arp),
        (rtnl.IFF_MULTICAST, link.multicast),
        (rtnl.IFF_ALLMULTI, link.allmulticast),
        (rtnl.IFF_PROMISC, link.promisc),
    )
    flags = sum(flag for flag, on in wanted if on)
    return rtnl.ifinfomsg(link.index or 0, flags, sum(flag for flag, on in wanted if on is not None))


def _late(link: LinkSpec) -> Attrs:
    """Return what the kernel sets on a living link only."""
    attrs: Attrs = []
    if link.alias is not None:
        attrs.append((rtnl.IFLA_IFALIAS, text(link.alias)))
    if link.addrgenmode is not None:
        mode = bytes([rtnl.ADDR_GEN_MODES.index(link.addrgenmode)])
        inet6 = nest([(10, nest([(rtnl.IFLA_INET6_ADDR_GEN_MODE, mode)]))])
        attrs.append((rtnl.IFLA_AF_SPEC, inet6))
    return attrs


def _master(sock: Rtnl, link: LinkSpec | None) -> int:
    if link is None or not link.master:
        return 0
    master = sock.getlink(link.master)
    if master is None:
        raise VethError(errno.ENODEV, "newlink", link.name or "", f"master {link.master}")
    return master.ifindex


@contextmanager
def _refusal(op: str, link: LinkSpec) -> Iterator[None]:
    """Turn the kernel's refusal, an OSError, into a VethError."""
    try:
        yield
    except OSError as error:
        raise VethError(error.errno or errno.EIO, op, link.name or "") from error
