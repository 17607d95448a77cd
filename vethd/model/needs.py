"""What vethd needs of a kernel: one table, from which `vethctl doctor`, errors and docs/kernels.md take their words."""

from __future__ import annotations

from typing import NamedTuple


class Need(NamedTuple):
    """One option or feature of the kernel, by either name or both.

    since is the first version that has it, "" if every kernel has it that runs vethd at all, or by its option alone.
    without says what vethd does without it, as the end of a sentence. see is the page of docs/ that says more.
    """

    option: str
    feature: str
    since: str
    without: str
    see: str = ""

    @property
    def missing(self) -> str:
        """Say that this kernel does not have it."""
        if self.option:
            return f"this kernel has no {self.option}"
        return f"this kernel is too old: vethd needs Linux {FLOOR} or newer ({self.feature})"

    @property
    def loss(self) -> str:
        """Say what vethd does without it, as a sentence."""
        return f"without it, {self.without}"


FLOOR = "5.2"

TUN = Need(
    "CONFIG_TUN", "/dev/net/tun, TAPs with vnet headers", "2.6", "the daemon does not start: `/dev/net/tun: missing`"
)
NET_NS = Need(
    "CONFIG_NET_NS",
    "also for a pair in one namespace",
    "2.6",
    "the daemon does not start: `this kernel has no CONFIG_NET_NS`",
)
CARRIER = Need("", "TUNSETCARRIER", "5.0", "no pair can be made: `this kernel is too old`")
DEVICE_NETNS = Need("", "TUNGETDEVNETNS", FLOOR, "no pair can be made: `this kernel is too old`")
PROC = Need("", "/proc, mounted", "", "the daemon does not start: `/proc is not mounted`")

NET_SCHED = Need(
    "CONFIG_NET_SCHED",
    "",
    "",
    "an end keeps the TAP's default queue, pfifo_fast, instead of noqueue",
    "differences",
)
BPF = Need(
    "CONFIG_BPF_SYSCALL",
    "",
    "",
    "the engine drops oversize frames, and the sender counts them as sent; `latency_queue` has no effect",
)
INDEX = Need(
    "",
    "an ifindex for a moved link (IFLA_NEW_IFINDEX)",
    "5.13",
    "`index` is refused (EOPNOTSUPP) for an end in another namespace",
)
NOTIFICATION = Need(
    "CONFIG_SECCOMP_FILTER",
    "descriptors added by a seccomp supervisor (SECCOMP_IOCTL_NOTIF_ADDFD)",
    "5.9",
    "`vethd-run` runs programs without vethd",
    "run",
)
USO = Need("", "UDP segmentation offload on TAPs", "6.2", "UDP datagrams are not coalesced")
TUNNEL = Need("", "UDP tunnel offload on TAPs", "6.17", "super-frames in UDP tunnels are segmented by the sender")

REQUIRED = (TUN, NET_NS, CARRIER, DEVICE_NETNS, PROC)
OPTIONAL = (
    Need("CONFIG_USER_NS", "", "", "no difference: the only user namespace maps every uid"),
    NET_SCHED,
    BPF,
    Need(
        "",
        "BPF arrays that can be mapped (BPF_F_MMAPABLE)",
        "5.5",
        "an end needs two more file descriptors, and its counters and a new MTU cost a system call",
    ),
    Need("", "`gso_size` for BPF socket filters", "5.7", "no difference: the filter reads `gso_segs`"),
    Need("", "alternative names of links", "5.5", "`altname` is refused (EOPNOTSUPP)"),
    NOTIFICATION,
    INDEX,
    Need("", "SO_NETNS_COOKIE", "5.14", "a namespace is identified by its inode alone"),
    Need("", "IFLA_GRO_MAX_SIZE", "5.19", "`gro_max_size` has no effect"),
    USO,
    TUNNEL,
    Need("CONFIG_BRIDGE", "", "", "`master` finds no bridge; the CNI plugin reports `this kernel has no bridge`"),
    Need("CONFIG_IPV6", "", "", "no IPv6; `addrgenmode` is refused (EAFNOSUPPORT)"),
    Need("CONFIG_NET_SCH_TBF", "", "", "the CNI plugin's bandwidth limits are refused"),
    Need("", "io_uring", "", "not used"),
)
