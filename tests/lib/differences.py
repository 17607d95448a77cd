"""The differences of vethd from veth: every case in which the conformance suite expects another result from vethd.

docs/differences.md explains each by its id. A test asks `backend.differs(id)`, or `backend.shows()` for the values that
an end shows. There is no other way for a test to expect different results from vethd and from the kernel.
"""

from __future__ import annotations

DIFFERENCES = {
    "mtu-above-65521": "The largest MTU of a TAP is 65521; 65522 to 65535 are EINVAL.",
    "carrier-flip-is-undone": "`ip link set X carrier off` is EOPNOTSUPP on veth. On a TAP it works, and vethd then"
    " sets the carrier right again.",
    "lowerlayerdown-is-down": "Without carrier, and with the peer in the same namespace, operstate is DOWN."
    " LOWERLAYERDOWN requires an iflink.",
    "kind-is-tun": "`ip -d link` shows the kind tun instead of veth.",
    "no-ethtool-statistics": "`ethtool -S` has no peer_ifindex; the API and `vethctl stats` have it.",
    "rx-checksumming-is-off": "`ethtool -k` shows rx-checksumming off, fixed: the stack behind a TAP verifies every"
    " checksum that is not marked as valid or incomplete.",
    "txqueuelen-is-the-ring": "`ip link` shows the length of a TAP's ring; on veth it shows the requested txqueuelen."
    " The kernel has one number for both; the API shows the requested one.",
    "no-iflink": "A TAP has no iflink: `ip link` shows no @peer and no link-netnsid. The API and `vethctl show` name"
    " the peer.",
    "noqueue-from-the-start": "The qdisc is noqueue before an end is up for the first time; a veth's is noop.",
    "peer-index-alone": "The peer gets the index that is requested for it. The kernel ignores this index unless the"
    " near end has one, too.",
    "peer-rx-dropped-on-oversize": "An oversize frame counts in the sender's tx_dropped alone: the receiver's"
    " rx_dropped cannot count a frame that was never written to its TAP.",
    "names-before-machine": "vethd checks the characters of both names before it checks whether a name is taken.",
    "mark-ends-at-the-tap": "Within one namespace, a frame's mark is 0 at the other end.",
    "hash-is-computed-anew": "The hash that a sender's socket gave a frame does not reach the other end.",
    "txtime-ends-at-the-tap": "A delivery time (SO_TXTIME, EDT) does not reach the other end.",
    "socket-ends-at-the-tap": "At the other end, a frame's socket is that of the TAP: its cookie, user and cgroup are"
    " vethd's.",
    "tc-fields-end-at-the-tap": "tc_index and cb[], which tc programs write, are 0 at the other end.",
    "rx-queue-is-recorded": "A received frame records its receive queue, even if there is only one.",
    "pages-are-copied": "A frame's bytes are copied: MSG_ZEROCOPY reports it, and a file's pages are read once.",
    "fragments-have-another-queue": "With several queues, fragments and whole datagrams of one flow may overtake each"
    " other.",
    "gso-segs-unknown": "The number of a super-frame's segments is unknown until a device sends it on: tc counts 0"
    " packets.",
    "xdp-drop-is-dropped": "A frame that a native XDP program drops counts in rx_dropped, not in rx_packets.",
    "xdp-needs-nothing-of-the-peer": "XDP_TX and XDP_REDIRECT into an end work whether or not the peer has an XDP"
    " program or gro.",
    "xdp-sees-super-frames": "With a native XDP program, super-frames and large MTUs stay.",
    "address-counts-as-set": "addr_assign_type is 3, even if no address was requested.",
    "name-assign-type-unknown": "name_assign_type cannot be read, because the tun driver does not set it.",
    "one-queue-by-default": "A pair has one queue by default, not one per CPU.",
    "channels-are-combined": "ethtool shows combined channels, and their number is fixed.",
    "settings-can-be-changed": "ethtool accepts speed, duplex, port, autoneg, message level and rx-frames, and changes"
    " only the displayed values.",
    "features-of-a-tap": "Some offloads are off and fixed: the kernel does that work before a frame enters the TAP.",
    "gro-is-shown-as-on": "generic-receive-offload is on, and has no effect on a TAP.",
    "no-big-tcp": "The largest gso_max_size is 65536.",
    "xdp-is-always-ready": "The XDP features do not depend on the peer, and programs get no metadata.",
    "gro-super-frames": "Coalesced frames are one frame to the receiver's rx_packets and rx_bytes, to captures, tc, XDP"
    " and netfilter. Sockets get the packets one by one.",
    "gro-udp-gro-socket": "A socket with UDP_GRO gets several datagrams per call.",
    "gro-icmp-once": "A super-frame is answered by one ICMP error, which quotes its header.",
    "gro-smaller-mtu-behind": "A router behind the receiver with a smaller MTU checks the full segments of a"
    " super-frame; a bridge checks nothing.",
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
        # mangleid, which is on for veth, goes off with the feature that it requires
        "switch tx-tcp-segmentation": ("tx-tcp-mangleid-segmentation", None),
        "switch tx-checksum-ip-generic": (f"{_ECN} {_MANGLEID} {_TSO} {_USO}", f"{_ECN} {_TSO} {_USO}"),
        "switch tx-scatter-gather": (f"{_GSO} {_ECN} {_MANGLEID} {_TSO}", f"{_GSO} {_ECN} {_TSO}"),
    },
    "channels-are-combined": {  # attributes 2, 3, 5: largest number of rx, tx, combined; 6, 7, 9: present one
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
        "netdev 3": ("35", "7"),  # both: basic, redirect; veth: frames in several buffers; vethd: ndo-xmit
        "netdev 5": ("7", "0"),  # metadata: timestamp, hash, VLAN tag
    },
}
"""Values of an end, or results of setting them, by names of tests/lib/shown.py: (veth, vethd); None: absent."""
