"""Checks the features of this machine by using each of them, in a namespace of its own if needed.

For `vethctl doctor`, which must work without a daemon and for every user. Nothing here raises or leaves a trace.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec

from vethd.kernel import netns
from vethd.kernel.births import Nursery
from vethd.kernel.rtnl import Rtnl
from vethd.kernel.tun import Tap
from vethd.kernel.tundev import obstacle
from vethd.kernel.tunfilter import TunFilter
from vethd.kernel.uapi import DEV_NET_TUN
from vethd.kernel.watcher import Watcher
from vethd.model import needs
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec
from vethd.model.vnet import HDR_LEN_TUNNEL

_FDS_WANTED = 4096
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = {
    "CAP_NET_ADMIN": (12, "creates and changes links"),
    "CAP_SYS_ADMIN": (21, "enters namespaces"),
    "CAP_NET_BROADCAST": (11, "receives link events from all namespaces"),
}
_PRIVILEGE = "run as root or in a user namespace (`unshare -Urn`); the systemd service gets it from its unit"


class Check(msgspec.Struct, kw_only=True, frozen=True):
    """One result. required: vethd does not work without it. advice: what to do, "" if nothing."""

    name: str
    ok: bool
    required: bool
    detail: str
    advice: str = ""


def probe() -> list[Check]:
    """Run all checks, in the order in which a user should read them. Blocks for about 100 ms."""
    device = _dev_net_tun()
    checks = [device, *capabilities(), *_in_scratch(opens=device.ok)]
    return [*checks, _notification(), _fd_limit(), _run_netns(), _kernel_veth()]


def _dev_net_tun() -> Check:
    found = obstacle()
    if found:
        return Check(name=DEV_NET_TUN, ok=False, required=True, detail=found.detail, advice=found.advice)
    return Check(name=DEV_NET_TUN, ok=True, required=True, detail="can be opened")


def capabilities() -> list[Check]:
    """Check the capabilities of this process. Does not block."""
    effective = _effective()
    return [
        Check(
            name=name,
            ok=bool(effective >> bit & 1),
            required=True,
            detail=f"{purpose}{'' if effective >> bit & 1 else ': missing'}",
            advice="" if effective >> bit & 1 else _PRIVILEGE,
        )
        for name, (bit, purpose) in _CAPABILITIES.items()
    ]


def _effective() -> int:
    """Return this process's effective capabilities as bits: capget(2), which needs no /proc."""
    head = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    if ctypes.CDLL(None).capget(head, data) != 0:
        return 0
    low, _, _, high, _, _ = struct.unpack("=6I", data.raw)
    return int(low | high << 32)


def _in_scratch(*, opens: bool) -> list[Check]:
    """Make a TAP in a staging namespace, move it to a second one, and check its features; opens: the device does."""
    try:
        nursery, target = Nursery(), netns.new_anonymous()
    except VethError as error:
        return [_check("network namespaces", error, _advice(error))]
    checks = [Check(name="network namespaces", ok=True, required=True, detail="can be created")]
    try:
        if not opens:
            return [*checks, Check(name="TAP", ok=False, required=True, detail=f"not checked: see {DEV_NET_TUN}")]
        tap, _ = nursery.birth(LinkSpec(name="vethd-probe"), target)
    except VethError as error:
        checks.append(_check("TAP", error, _advice(error)))
    else:
        made = Check(name="TAP", ok=True, required=True, detail="created and moved")
        checks += [made, _noqueue(nursery, tap), *_features(tap)]
        tap.close()
    finally:
        os.close(target)
        nursery.close()
    return checks


def _advice(error: VethError) -> str:
    """Return what to do about an error that the TAP or its namespace was not made."""
    match error.errno:
        case errno.EPERM:
            return _PRIVILEGE
        case errno.EINVAL | errno.EOPNOTSUPP:
            return f"run a kernel with {needs.TUN.option} and {needs.NET_NS.option}, Linux {needs.FLOOR} or newer"
        case errno.ENOENT:
            return "`mount -t proc proc /proc`"
    return ""


def _noqueue(nursery: Nursery, tap: Tap) -> Check:
    def set_it() -> None:
        if not nursery.noqueue(tap):
            raise VethError(errno.EOPNOTSUPP, "noqueue", reason=needs.NET_SCHED.missing)

    return _try("qdisc noqueue", set_it, "set on every TAP, as on a veth", needs.NET_SCHED.loss, required=False)


def _features(tap: Tap) -> list[Check]:
    tunnel = tap.vnet_hdr_len == HDR_LEN_TUNNEL
    udp = "and UDP, not UDP tunnels" if tap.uso else f"but not UDP (Linux {needs.USO.since}): {needs.USO.without}"
    detail = "TCP, UDP and UDP tunnels" if tunnel else f"TCP {udp}"
    found = [Check(name="segmentation offload", ok=True, required=False, detail=detail)]

    def listen() -> None:
        Watcher(lambda _: False, lambda _key, _state: None, lambda: None).close()

    def refuse() -> None:
        TunFilter(tap.fds[0], 1514)

    good, loss = "the kernel drops oversize frames", needs.BPF.loss
    found.append(_try("oversize filter (BPF)", refuse, good, loss, required=False))
    advice = "rtnetlink must be allowed"
    found.append(_try("link events", listen, "received from all namespaces by one socket", advice, required=True))
    return found


def _notification() -> Check:
    """Check for what vethd-run needs: the line is there since the same release, if there are filters."""

    def find() -> None:
        if "\nSeccomp_filters:" not in Path("/proc/self/status").read_text():
            raise VethError(errno.ENOSYS, "seccomp", reason=f"needs Linux {need.since} and {need.option}")

    need = needs.NOTIFICATION
    good = "this kernel lets it stand between a program and rtnetlink"
    return _try("vethd-run", find, good, need.loss, required=False)


def _fd_limit() -> Check:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ok = hard >= _FDS_WANTED or hard == resource.RLIM_INFINITY
    detail = f"limit {hard}, so at most {(hard - 64) // 2} pairs"
    return Check(
        name="open files",
        ok=ok,
        required=False,
        detail=detail,
        advice="" if ok else "raise the limit: LimitNOFILE= in the unit, or `ulimit -n`",
    )


def _run_netns() -> Check:
    ok = Path(netns.RUN_NETNS).is_dir()
    detail = f"{netns.RUN_NETNS} {'exists' if ok else 'does not exist yet: the first `ip netns add` creates it'}"
    return Check(name="named namespaces", ok=True, required=False, detail=detail)


def _kernel_veth() -> Check:
    """Have the kernel make a veth pair. vethd is for kernels that cannot."""
    name = "kernel veth"
    try:
        scratch = netns.new_anonymous()
    except VethError:
        return Check(name=name, ok=False, required=False, detail="not checked: no namespace can be created")
    try:
        with netns.inside(scratch), Rtnl() as rtnl:
            rtnl.newlink("veth", "probe")
    except VethError as error:
        if error.errno == errno.EOPNOTSUPP:
            return Check(name=name, ok=False, required=False, detail="this kernel has no veth: use vethd instead")
        return Check(name=name, ok=False, required=False, detail=str(error))
    finally:
        os.close(scratch)
    return Check(name=name, ok=True, required=False, detail="available: `ip link add type veth` works without vethd")


def _try(name: str, act: Callable[[], None], good: str, advice: str, *, required: bool) -> Check:
    try:
        act()
    except (VethError, OSError) as error:
        return Check(name=name, ok=False, required=required, detail=str(error), advice=advice)
    return Check(name=name, ok=True, required=required, detail=good)


def _check(name: str, error: VethError, advice: str) -> Check:
    return Check(name=name, ok=False, required=True, detail=str(error), advice=advice)
