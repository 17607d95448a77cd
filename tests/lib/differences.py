"""Where vethd is not veth: every case in which an expectation of the conformance suite differs.

docs/differences.md explains each by its id. A test asks `backend.differs(id)`; there is no other way for it to
expect something else of vethd than of the kernel.
"""

from __future__ import annotations

DIFFERENCES = {
    "mtu-above-65521": "A TAP's MTU ends at 65521, so 65522 to 65535 are EINVAL.",
    "alias-names-the-peer": "Where no alias was asked for, an end's alias names its peer, which `ip link` cannot show.",
    "carrier-flip-is-undone": "`ip link set X carrier off` is EOPNOTSUPP on veth; a TAP obeys, and vethd"
    " sets it right again.",
    "lowerlayerdown-is-down": "Without carrier, and with the peer in the same namespace, operstate is DOWN and not"
    " LOWERLAYERDOWN, which needs an iflink.",
    "kind-is-tun": "`ip -d link` shows the kind tun and not veth.",
    "no-ethtool-statistics": "`ethtool -S` has no peer_ifindex; the API and `vethctl stats` have.",
    "rx-checksumming-is-off": "`ethtool -k` shows rx-checksumming off, fixed: a TAP's own stack verifies"
    " what nobody vouches for.",
    "no-iflink": "A TAP has no iflink: `ip link` shows no @peer and no link-netnsid; the API and the alias do.",
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
    "gro-super-frames": "Frames that were coalesced are one to the receiver's rx_packets and rx_bytes, to captures, tc,"
    " XDP and netfilter; its sockets get them one by one.",
    "gro-udp-gro-socket": "A socket with UDP_GRO gets several datagrams a call.",
    "gro-icmp-once": "An ICMP error answers a super-frame once, and quotes its header.",
    "gro-smaller-mtu-behind": "A router or bridge with a smaller MTU behind the receiver measures a super-frame"
    " by its full segments, or not at all.",
}
