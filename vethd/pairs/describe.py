"""Build the API's descriptions and counters of pairs and links."""

from __future__ import annotations

from collections.abc import Mapping

from vethd.kernel.linkstate import LinkState
from vethd.kernel.watcher import LinkKey
from vethd.model.api import LinkInfo, LinkStats, PairInfo
from vethd.model.drops import Drop
from vethd.model.errors import symbol
from vethd.model.kernel_drops import DropSample
from vethd.model.spec import TXQUEUELEN
from vethd.model.state import Side
from vethd.pairs.entry import Entry
from vethd.pairs.pair import LivePair
from vethd.pairs.tuning import Tuning


def pair_info(entry: Entry, tuning: Tuning) -> PairInfo:
    """Describe a pair, alive or waiting."""
    return PairInfo(
        id=entry.id,
        state="alive" if entry.live else "waiting",
        reason="" if entry.live else entry.reason,
        source=entry.source,
        engine=tuning.engine.name,
        rx_checksum=tuning.rx_checksum(entry.spec),
        gro=tuning.gro(entry.spec),
        spec=entry.spec,
        links=[link_info(entry.live, side) for side in Side] if entry.live else [],
        owner=entry.owner,
        attachment=entry.attachment,
    )


def link_info(pair: LivePair, side: Side) -> LinkInfo:
    """Describe the end at side from its last rtnetlink message."""
    link, peer = pair.links[side], pair.links[side.other]
    state = link.state
    return LinkInfo(
        name=state.name,
        pair=pair.id,
        netns=link.label,
        netns_inode=link.place.netns_inode,
        ifindex=link.place.key[1],
        address=state.address,
        mtu=state.mtu,
        txqueuelen=TXQUEUELEN if link.txqueuelen is None else link.txqueuelen,
        ring=state.txqueuelen,
        queues=len(link.tap.fds),
        group=state.group,
        alias=state.alias,
        altname=next(iter(state.altnames), ""),
        master=link.master,
        up=state.up,
        carrier=pair.carrier,
        operstate=state.operstate.lower(),
        promisc=state.promisc,
        allmulticast=state.allmulticast,
        arp=state.arp,
        multicast=state.multicast,
        peer_name=peer.state.name,
        peer_ifindex=peer.place.key[1],
        peer_netns=peer.label,
    )


def link_stats(pair: LivePair, side: Side, survey: Mapping[LinkKey, LinkState]) -> LinkStats:
    """Return the counters of the end at side; survey is a fresh result of Nursery.survey()."""
    link, peer = pair.links[side], pair.links[side.other]
    # the survey lacks a link that moves or dies just now, and its last message is older than the last figures returned
    kernel = survey.get(link.place.key) or link.surveyed or link.state
    link.surveyed = kernel
    account_drops(pair, side, kernel)
    counters = pair.counters(side)
    drops = {drop.label: counters.drops[drop] for drop in Drop} | link.drops.by_reason()
    return LinkStats(
        name=link.state.name,
        pair=pair.id,
        netns=link.label,
        ifindex=link.place.key[1],
        peer_name=peer.state.name,
        peer_ifindex=peer.place.key[1],
        peer_netns=peer.label,
        rx_packets=kernel.counters.rx_packets,
        rx_bytes=kernel.counters.rx_bytes,
        tx_packets=kernel.counters.tx_packets,
        tx_bytes=kernel.counters.tx_bytes,
        rx_dropped=kernel.counters.rx_dropped,
        tx_dropped=kernel.counters.tx_dropped,
        carrier_changes=kernel.carrier_changes,
        read=counters.read,
        read_bytes=counters.read_bytes,
        forwarded=counters.forwarded,
        forwarded_bytes=counters.forwarded_bytes,
        in_flight=counters.in_flight,
        drops=drops,
        write_errors={symbol(code): count for code, count in counters.write_errors.items()},
    )


def account_drops(pair: LivePair, side: Side, kernel: LinkState) -> None:
    """Assign the kernel's drops at the end at side to their reasons, up to its counters in kernel."""
    link = pair.links[side]
    dry = pair.dry(side)
    counts = link.filter_counts()
    link.drops.account(
        DropSample(
            tx_dropped=kernel.counters.tx_dropped,
            oversize=counts.oversize if counts else None,
            passed=counts.passed if counts else None,
            read=pair.counters(side).read,
            dry=dry,
            carrier=pair.carrier,
            epoch=link.epoch,
        )
    )
