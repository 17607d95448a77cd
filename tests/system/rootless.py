"""What an unprivileged user does: a pair between two namespaces held by fd, inside `unshare -Urn`. Prints JSON."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys

from tests.kernel.lib import Net
from tests.lib.frames import ETH_P_TEST, sized
from tests.lib.lab import End, Wire
from tests.lib.sockets import ping
from tests.lib.wait import DEADLINE_S
from vethd.model.spec import LinkSpec, PairSpec
from vethd.pairs import open_pair

OVERSIZE = 5


async def main() -> None:
    """Make the pair with a smaller MTU at the far end, ping across, and send what is too long for it."""
    a, b = Net(), Net()
    near = f"fd:{a.fd}"
    peer = LinkSpec(name="vb", netns=f"fd:{b.fd}", up=True)
    async with open_pair(PairSpec(name="va", netns=near, mtu=9000, up=True, peer=peer), engine="asyncio") as pair:
        wire = Wire(End(a, "va"), End(b, "vb"))

        def traffic() -> None:
            wire.wait_carrier()
            addresses = wire.addresses()
            ping(a, addresses[0], b, addresses[1])
            with a.packet("va") as sender, b.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0) as receiver:
                receiver.bind(("vb", ETH_P_TEST))
                receiver.settimeout(DEADLINE_S)
                for n in range(OVERSIZE):
                    sender.send(sized(2000, n))
                sender.send(sized(1514, 99))
                assert receiver.recv(1 << 16) == sized(1514, 99)

        await asyncio.to_thread(traffic)
        stats, _ = await pair.stats()
        filtered = any(link.filter is not None for link in pair._entry.live.links) if pair._entry.live else None
        report = {
            "filtered": filtered,
            "drops": {reason: count for reason, count in stats.drops.items() if count},
            "tx_packets": stats.tx_packets,
            "read": stats.read,
            "tx_dropped": stats.tx_dropped,
        }
    left = a.names() | b.names()
    json.dump(report | {"left": sorted(left), "uid": os.getuid()}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
