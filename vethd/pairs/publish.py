"""Write the peer's name where `ip link` shows it: a TAP has no @peer.

The alias says who the peer is, unless the user has an alias of his own there; the altname NAME@PEER makes what is
copied from veth's output work (`ip link show va@vb`).
"""

from __future__ import annotations

from vethd.kernel.births import Nursery
from vethd.pairs.link import Link


def publish(nursery: Nursery, link: Link, peer: Link) -> None:
    """Write alias and altname of link where they are not so already; for a worker thread.

    A name that is somebody's is no error: the API still tells. Raises VethError, and then it may be called again.
    """
    altname = f"{link.state.name}@{peer.state.name}"
    alias = f"peer {peer.state.name} ifindex {peer.place.key[1]} netns {peer.label or '-'}"
    nursery.publish(link.tap, None if link.own_alias else (alias, link.alias), (altname, link.altname))
    link.alias, link.altname = alias, altname
