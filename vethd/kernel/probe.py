"""What this machine can do: every feature tried for real, in a namespace of its own where that is needed.

For `vethctl doctor`, which must work with the daemon down and as anybody. Nothing here raises or leaves a trace.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path

import msgspec

from vethd.kernel import netns
from vethd.kernel.births import Nursery
from vethd.kernel.rtnl import Rtnl
from vethd.kernel.tun import DEV_NET_TUN, Tap
from vethd.kernel.tunfilter import TunFilter
from vethd.kernel.watcher import Watcher
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec
from vethd.model.vnet import HDR_LEN_TUNNEL

_FDS_WANTED = 4096
_IO_URING_DISABLED = Path("/proc/sys/kernel/io_uring_disabled")
_CAPABILITIES = {
    "CAP_NET_ADMIN": (12, "makes and changes links"),
    "CAP_SYS_ADMIN": (21, "enters namespaces"),
    "CAP_NET_BROADCAST": (11, "hears of links in all namespaces"),
}


class Check(msgspec.Struct, kw_only=True, frozen=True):
    """One finding. required: vethd does not work without it; advice: what to do, "" where all is well."""

    name: str
    ok: bool
    required: bool
    detail: str
    advice: str = ""


def probe() -> list[Check]:
    """Try everything, in the order in which a user should read it. Blocks for about 100 ms."""
    checks = [_dev_net_tun(), *capabilities(), *_in_scratch()]
    return [*checks, _fd_limit(), _run_netns(), _io_uring(), _kernel_veth()]


def _dev_net_tun() -> Check:
    name, path = DEV_NET_TUN, Path(DEV_NET_TUN)
    if not path.is_char_device():
        advice = "load it with `modprobe tun`; in a container, pass the device (--device /dev/net/tun)"
        return Check(name=name, ok=False, required=True, detail="missing", advice=advice)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        gone = error.errno in (errno.ENODEV, errno.ENXIO)
        advice = "the kernel has no tun: `modprobe tun`" if gone else f"its mode should be 0666: `chmod 666 {path}`"
        return Check(name=name, ok=False, required=True, detail=error.strerror or str(error), advice=advice)
    return Check(name=name, ok=True, required=True, detail="opens")


def capabilities() -> list[Check]:
    """Look at what this process may do. Does not block."""
    effective = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    advice = "for this user: run as root or in a user namespace (`unshare -Urn`); the service has it from its unit"
    return [
        Check(
            name=name,
            ok=bool(effective >> bit & 1),
            required=True,
            detail=f"{purpose}{'' if effective >> bit & 1 else ': missing'}",
            advice="" if effective >> bit & 1 else advice,
        )
        for name, (bit, purpose) in _CAPABILITIES.items()
    ]


def _in_scratch() -> list[Check]:
    """Make a TAP in a staging namespace, move it to a second one, and try its features."""
    try:
        nursery, target = Nursery(), netns.new_anonymous()
    except VethError as error:
        return [_check("network namespaces", error, "the kernel needs CONFIG_NET_NS, the user CAP_SYS_ADMIN")]
    checks = [Check(name="network namespaces", ok=True, required=True, detail="one can be made")]
    try:
        tap, _ = nursery.birth(LinkSpec(name="vethd-probe"), target)
    except VethError as error:
        checks.append(_check("TAP", error, "CONFIG_TUN=y or m, and Linux 5.2 or newer"))
    else:
        checks += [Check(name="TAP", ok=True, required=True, detail="made, moved, noqueue"), *_features(tap)]
        tap.close()
    finally:
        os.close(target)
        nursery.close()
    return checks


def _features(tap: Tap) -> list[Check]:
    tunnel = tap.vnet_hdr_len == HDR_LEN_TUNNEL
    udp = "and UDP; not UDP tunnels" if tap.uso else "but not UDP (Linux 6.2 or newer): its datagrams are not coalesced"
    detail = "TCP, UDP, and UDP tunnels" if tunnel else f"TCP {udp}"
    found = [Check(name="segmentation offload", ok=True, required=False, detail=detail)]

    def listen() -> None:
        Watcher(lambda _: False, lambda _key, _state: None, lambda: None).close()

    def refuse() -> None:
        TunFilter(tap.fds[0], 1514)

    advice = "without it oversize frames are dropped by the engine, and the sender counts them as sent"
    found.append(_try("oversize filter (BPF)", refuse, "frames are refused in the kernel", advice, required=False))
    advice = "rtnetlink must be allowed"
    found.append(_try("news of links", listen, "one socket for all namespaces", advice, required=True))
    return found


def _fd_limit() -> Check:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ok = hard >= _FDS_WANTED or hard == resource.RLIM_INFINITY
    detail = f"{hard}: at most {(hard - 64) // 2} pairs"
    return Check(
        name="open files",
        ok=ok,
        required=False,
        detail=detail,
        advice="" if ok else "raise it: LimitNOFILE=, ulimit -n",
    )


def _run_netns() -> Check:
    ok = Path(netns.RUN_NETNS).is_dir()
    detail = f"{netns.RUN_NETNS} {'is there' if ok else 'is not there yet: the first `ip netns add` makes it'}"
    return Check(name="named namespaces", ok=True, required=False, detail=detail)


def _io_uring() -> Check:
    """Ask for a ring at no address, which is EFAULT where there are any."""
    code = _io_uring_setup()
    if code in (0, errno.EFAULT, errno.EINVAL):
        return Check(name="io_uring", ok=True, required=False, detail="allowed")
    if code == errno.ENOSYS:
        return Check(name="io_uring", ok=False, required=False, detail="this kernel has none: vethd does without")
    try:
        disabled = int(_IO_URING_DISABLED.read_text())
    except OSError:  # older than 6.6
        disabled = 0
    advice = "sysctl kernel.io_uring_disabled=0" if disabled else "a seccomp filter does it: a container's, or a unit's"
    detail = f"forbidden ({os.strerror(code)}): vethd does without"
    return Check(name="io_uring", ok=False, required=False, detail=detail, advice=advice)


def _io_uring_setup() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return 0 if libc.syscall(425, 1, None) >= 0 else ctypes.get_errno()


def _kernel_veth() -> Check:
    """Ask the kernel for a veth of its own; vethd is for those who are refused."""
    name = "kernel veth"
    try:
        scratch = netns.new_anonymous()
    except VethError:
        return Check(name=name, ok=False, required=False, detail="not tried: no namespace could be made")
    try:
        with netns.inside(scratch), Rtnl() as rtnl:
            rtnl.newlink("veth", "probe")
    except VethError as error:
        if error.errno == errno.EOPNOTSUPP:
            return Check(name=name, ok=False, required=False, detail="this kernel has none: vethd stands in")
        return Check(name=name, ok=False, required=False, detail=str(error))
    finally:
        os.close(scratch)
    return Check(name=name, ok=True, required=False, detail="there: `ip link add type veth` works without vethd, too")


def _try(name: str, act: Callable[[], None], good: str, advice: str, *, required: bool) -> Check:
    try:
        act()
    except (VethError, OSError) as error:
        return Check(name=name, ok=False, required=required, detail=str(error), advice=advice)
    return Check(name=name, ok=True, required=required, detail=good)


def _check(name: str, error: VethError, advice: str) -> Check:
    return Check(name=name, ok=False, required=True, detail=str(error), advice=advice)
