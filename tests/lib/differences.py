"""Where vethd is not veth: every case in which an expectation of the conformance suite differs.

docs/differences.md explains each by its id. A test asks `backend.differs(id)`, or `backend.shows()` for
the values that an end shows; there is no other way for it to expect something else of vethd than of the kernel.
"""

from __future__ import annotations

DIFFERENCES = {
    "mtu-above-65521": "A TAP's MTU ends at 65521, so 65522 to 65535 are EINVAL.",
    "carrier-flip-is-undone": "`ip link set X carrier off` is EOPNOTSUPP on veth; a TAP obeys, and vethd"
    " sets it right again.",
    "lowerlayerdown-is-down": "Without carrier, and with the peer in the same namespace, operstate is DOWN and not"
    " LOWERLAYERDOWN, which needs an iflink.",
    "kind-is-tun": "`ip -d link` shows the kind tun and not veth.",
    "no-ethtool-statistics": "`ethtool -S` has no peer_ifindex; the API and `vethctl stats` have.",
    "rx-checksumming-is-off": "`ethtool -k` shows rx-checksumming off, fixed: a TAP's own stack verifies"
    " what nobody vouches for.",
    "txqueuelen-is-the-ring": "`ip link` shows the length of a TAP's ring where veth shows the txqueuelen that was"
    " asked for: the kernel has one number for both. The API has what was asked for.",
    "no-iflink": "A TAP has no iflink: `ip link` shows no @peer and no link-netnsid; the API and `vethctl show` do.",
    "noqueue-from-the-start": "The qdisc is noqueue before an end is up for the first time; a veth's is noop.",
    "peer-index-alone": "The peer gets the index that was asked for it, where the kernel ignores it unless the near end"
    " asked for one too.",
    "peer-rx-dropped-on-oversize": "An oversize frame counts in the sender's tx_dropped alone: a TAP cannot count"
    " a frame that was never written to it in the receiver's rx_dropped.",
    "names-before-machine": "Whether a name has valid characters is asked of both ends before whether one is taken.",
    "mark-ends-at-the-tap": "Within one namespace a frame's mark is 0 at the other end.",
    "hash-is-computed-anew": "The hash that a sender's socket gave a frame is unknown at the other end.",
    "txtime-ends-at-the-tap": "A delivery time (SO_TXTIME, EDT) is unknown at the other end.",
    "socket-ends-at-the-tap": "At the other end a frame's socket is the TAP's: cookie, user and cgroup are vethd's.",
    "tc-fields-end-at-the-tap": "tc_index and cb[], which programs of tc write, are 0 at the other end.",
    "rx-queue-is-recorded": "A frame that comes says by which queue, also where there is one only.",
    "pages-are-copied": "A frame's bytes are copied: MSG_ZEROCOPY says so, and a file's pages are read once.",
    "fragments-have-another-queue": "With several queues a fragmented datagram and a whole one of its flow may overtake"
    " each other.",
    "gso-segs-unknown": "The number of a super-frame's segments is unknown until a device sends it on:"
    " tc counts 0 packets.",
    "xdp-drop-is-dropped": "What a program of XDP in the driver drops counts in rx_dropped, not in rx_packets.",
    "xdp-needs-nothing-of-the-peer": "XDP_TX and XDP_REDIRECT into an end work whether or not the peer has XDP or gro.",
    "xdp-sees-super-frames": "With XDP in the driver super-frames and long MTUs stay.",
    "address-counts-as-set": "addr_assign_type is 3, also where nobody asked for an address.",
    "name-assign-type-unknown": "name_assign_type cannot be read: the kernel knows of no name's origin on a TAP.",
    "one-queue-by-default": "A pair of which nobody said how many queues has one, not one per CPU.",
    "channels-are-combined": "ethtool's channels are combined ones, and their number is fixed.",
    "settings-can-be-changed": "ethtool takes speed, duplex, port, autoneg, message level, rx-frames: without effect.",
    "features-of-a-tap": "Some offloads are off and fixed: the kernel does that work before the TAP.",
    "gro-is-shown-as-on": "generic-receive-offload is on, which on a TAP has no effect.",
    "no-big-tcp": "gso_max_size ends at 65536.",
    "xdp-is-always-ready": "XDP's features do not depend on the peer; there are no metadata for its programs.",
    "gro-super-frames": "Frames that were coalesced are one to the receiver's rx_packets and rx_bytes, to captures, tc,"
    " XDP and netfilter; its sockets get them one by one.",
    "gro-udp-gro-socket": "A socket with UDP_GRO gets several datagrams a call.",
    "gro-icmp-once": "An ICMP error answers a super-frame once, and quotes its header.",
    "gro-smaller-mtu-behind": "A router or bridge with a smaller MTU behind the receiver measures a super-frame"
    " by its full segments, or not at all.",
}

_GSO, _ECN, _MANGLEID = "tx-generic-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp-mangleid-segmentation"
_TSO, _USO = "tx-tcp-segmentation tx-tcp6-segmentation", "tx-udp-segmentation"
SHOWN: dict[str, dict[str, tuple[str | None, str | None]]] = {
    "kind-is-tun": {
        "ioctl driver": ("veth", "tun"),
        "ioctl version": ("1.0", "1.6"),
        "ioctl bus": ("", "tap"),
        "link linkinfo kind": ("veth", "tun"),
        "link linkinfo data": ("none", "there"),
        "sysfs owner": (None, "-1"),
        "sysfs group": (None, "-1"),
        "sysfs tun_flags": (None, "0x5002"),
    },
    "no-iflink": {
        "link link": ("there", None),
        "link link_netnsid": ("0", None),
    },
    "no-ethtool-statistics": {
        "ioctl statistics": ("10", "0"),
        "ethtool strset 2.1.1": ("1", None),
        "ethtool strset 2.1.2": ("10", None),
        "ethtool strset 2.1.3.1.1": ("9", None),
        "ethtool strset 2.1.3.1.2": ("tx_queue_0_xdp_xmit_errors", None),
    },
    "mtu-above-65521": {"link max_mtu": ("65535", "65521")},
    "no-big-tcp": {"link tso_max_size": ("524280", "65536")},
    "address-counts-as-set": {"sysfs addr_assign_type": ("1", "3")},
    "name-assign-type-unknown": {"sysfs name_assign_type": ("3", "EINVAL")},
    "rx-checksumming-is-off": {
        "feature rx-checksum": ("on", "off, fixed"),
        "ioctl rx checksums": ("1", "0"),
        "ioctl set rx checksums off": ("taken", "ENOTSUP"),
        "ioctl set rx checksums on": ("taken", "ENOTSUP"),
    },
    "gro-is-shown-as-on": {
        "feature rx-gro": ("off", "on"),
        "ioctl gro": ("0", "1"),
    },
    "features-of-a-tap": {
        "feature highdma": ("on", "off, fixed"),
        "feature rx-vlan-hw-parse": ("on", "off, fixed"),
        "feature rx-vlan-stag-hw-parse": ("on", "off, fixed"),
        "feature tx-checksum-sctp": ("on", "off, fixed"),
        "feature tx-gre-segmentation": ("on", "off, fixed"),
        "feature tx-gre-csum-segmentation": ("on", "off, fixed"),
        "feature tx-gso-list": ("on", "off, fixed"),
        "feature tx-ipxip4-segmentation": ("on", "off, fixed"),
        "feature tx-ipxip6-segmentation": ("on", "off, fixed"),
        "feature tx-sctp-segmentation": ("on", "off, fixed"),
        "feature tx-tcp-accecn-segmentation": ("on", "off, fixed"),
        "feature tx-tcp-mangleid-segmentation": ("on", "off"),
        "ioctl flags": ("384", "128"),  # rxvlan
        # mangleid, which veth has on, goes off with what it needs
        "switch tx-tcp-segmentation": ("tx-tcp-mangleid-segmentation", None),
        "switch tx-checksum-ip-generic": (f"{_ECN} {_MANGLEID} {_TSO} {_USO}", f"{_ECN} {_TSO} {_USO}"),
        "switch tx-scatter-gather": (f"{_GSO} {_ECN} {_MANGLEID} {_TSO}", f"{_GSO} {_ECN} {_TSO}"),
    },
    "channels-are-combined": {  # attributes: 2, 3, 5 at most rx, tx, combined; 6, 7, 9 now
        "ethtool channels 2": ("1", None),
        "ethtool channels 3": ("1", None),
        "ethtool channels 5": (None, "1"),
        "ethtool channels 6": ("1", None),
        "ethtool channels 7": ("1", None),
        "ethtool channels 9": (None, "1"),
        "ioctl set channels rx 1 tx 1": ("taken", "ENOTSUP"),
        "ioctl set channels rx 2 tx 2": ("EINVAL", "ENOTSUP"),
        "ioctl set channels combined 1": ("EINVAL", "ENOTSUP"),
    },
    "settings-can-be-changed": {
        "ioctl set speed 1000": ("ENOTSUP", "taken"),
        "ioctl set speed 10000": ("ENOTSUP", "taken"),
        "ioctl set half duplex": ("ENOTSUP", "taken"),
        "ioctl set port fibre": ("ENOTSUP", "taken"),
        "ioctl set autoneg on": ("ENOTSUP", "taken"),
        "ethtool debug": ("ENOTSUP", None),
        "ethtool debug 2.1": (None, ""),
        "ethtool debug 2.2": (None, "15"),
        "ioctl set message level 1": ("ENOTSUP", "taken"),
        "ioctl set message level 0": ("ENOTSUP", "taken"),
        "ethtool coalesce": ("ENOTSUP", None),
        "ethtool coalesce 3": (None, "0"),
        "ioctl set rx frames to coalesce 1": ("ENOTSUP", "taken"),
        "ioctl set rx frames to coalesce 0": ("ENOTSUP", "taken"),
    },
    "xdp-is-always-ready": {
        "netdev 3": ("35", "7"),  # basic, redirect, and here: frames in pieces; there: takes redirected frames
        "netdev 5": ("7", "0"),  # metadata: timestamp, hash, VLAN tag
    },
}
"""What an end shows, or answers who sets it, as tests/lib/shown.py names it: on veth and on vethd, None for nothing."""
