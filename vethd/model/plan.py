"""Computes the changes that turn the current pairs into the wanted pairs, and no other changes.

Pure: pairs in, a Plan out. A config reload and `vethctl apply` both execute such plans.

Two pairs are the same if their near ends have the same namespace and name or, failing that, if their peers do. An
attribute that the wanted spec sets must have this value in the pair's spec and, if LinkInfo shows the attribute, on the
living link. An attribute that was set and no longer is returns to its value in DEFAULTS. An attribute that was never
set is left alone: another program may have set it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vethd.model.api import LinkInfo, PairChange, PairInfo
from vethd.model.spec import CREATE_ONLY, MTU, TXQUEUELEN, LinkSpec, PairSpec, RxChecksum

DEFAULTS: dict[str, Any] = {
    "mtu": MTU,
    "txqueuelen": TXQUEUELEN,
    "ring": 0,  # the daemon's setting for all pairs
    "group": 0,
    "alias": "",
    "altname": "",
    "master": "",
    "up": False,
    "arp": True,
    "multicast": True,
    "allmulticast": False,
    "promisc": False,
    "addrgenmode": "eui64",
    "gso_max_size": 65536,  # GSO_LEGACY_MAX_SIZE
    "gso_max_segs": 65535,  # GSO_MAX_SEGS
    "gro_max_size": 65536,  # GRO_LEGACY_MAX_SIZE
}
"""The value that an attribute returns to when it is no longer set.

A name and a MAC address have no default: the link keeps its last one.
"""

RX_CHECKSUM: RxChecksum = "verify"
QUEUES = 1

_NETNS_DIRS = ("/run/netns/", "/var/run/netns/")

Canonical = Callable[[str | None], str]
Key = tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The steps to execute: deletes first, so that names become free, then changes, then creates."""

    deletes: list[str] = field(default_factory=list)
    changes: list[tuple[str, PairChange]] = field(default_factory=list)
    creates: list[PairSpec] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.deletes or self.changes or self.creates)


def canonical_netns(netns: str | None) -> str:
    """Return a namespace's canonical spelling, as in LinkInfo.netns, as far as the text alone determines it.

    None becomes "", the daemon's own; /run/netns/NAME becomes NAME. Other paths, PIDs and fds stay as they are.
    """
    text = netns or ""
    for prefix in _NETNS_DIRS:
        name = text.removeprefix(prefix)
        if name != text and name and "/" not in name:
            return name
    return text


def plan(
    current: Sequence[PairInfo],
    wanted: Sequence[PairSpec],
    *,
    prune: bool,
    keep: Collection[str] = (),
    canonical: Canonical = canonical_netns,
) -> Plan:
    """Compare the current pairs with the wanted pairs and return the plan.

    prune deletes the current pairs that are not wanted, except those whose source is in keep. canonical returns a
    namespace's spelling as in LinkInfo.netns; a caller that can look up namespaces passes a better function. A pair
    whose queues, latency_queue or index change is deleted and created again, because they are set at creation only. So
    is a waiting pair, because it has no links to change.
    """
    pairs = match(current, wanted, canonical)
    deletes: list[str] = []
    changes: list[tuple[str, PairChange]] = []
    creates: list[PairSpec] = []
    for spec, info in zip(wanted, pairs, strict=True):
        if info is None:
            creates.append(spec)
            continue
        change = diff(info, spec, canonical)
        if _must_recreate(info, spec) or (change != PairChange() and not info.links):
            deletes.append(info.id)
            creates.append(spec)
        elif change != PairChange():
            changes.append((info.id, change))
    if prune:
        matched = {info.id for info in pairs if info is not None}
        deletes += [info.id for info in current if info.id not in matched and info.source not in keep]
    return Plan(deletes, changes, creates)


def diff(info: PairInfo, spec: PairSpec, canonical: Canonical = canonical_netns) -> PairChange:
    """Return the changes that make the pair agree with spec; PairChange() if there are none."""
    near_live, far_live = info.links or (None, None)
    near = _diff_link(info.spec.near_end(), near_live, spec.near_end(), canonical)
    far = _diff_link(info.spec.far_end(), far_live, spec.far_end(), canonical)
    if info.spec.peer is None:  # it inherited at creation; set the values now, or its spec follows the near end's
        heir, peer = PairSpec(**near).far_end(), spec.far_end()
        far = {name: _wanted(name, peer) for name in near if getattr(heir, name) is not None} | far
    rx_checksum = spec.rx_checksum or (RX_CHECKSUM if info.spec.rx_checksum is not None else None)
    return PairChange(
        **near,
        peer=LinkSpec(**far) if far else None,
        rx_checksum=rx_checksum if rx_checksum != info.rx_checksum else None,
        gro=None if spec.gro == info.spec.gro else "default" if spec.gro is None else spec.gro,
    )


def _diff_link(old: LinkSpec, live: LinkInfo | None, new: LinkSpec, canonical: Canonical) -> dict[str, Any]:
    """Return the attributes that must change. The only default of netns is the daemon's own, "" in a change."""
    changed: dict[str, Any] = {}
    for name in LinkSpec.__struct_fields__:
        was = getattr(old, name)
        want = getattr(new, name) if was is None else _wanted(name, new)
        if want is None or name in CREATE_ONLY or (name == "name" and "%" in want):
            continue
        had = DEFAULTS.get(name) if was is None else was
        if name == "netns":
            differs = canonical(want) != (canonical(was) if live is None else live.netns)
        else:
            differs = _unlike(name, want, had) or (live is not None and _unlike_live(name, want, live))
        if differs:
            changed[name] = want
    if "netns" in changed and new.up:  # the kernel brings a device down when it moves
        changed["up"] = True
    return changed


def _wanted(name: str, link: LinkSpec) -> Any:
    """Return the value that link sets for an attribute, or the attribute's default."""
    value = getattr(link, name)
    if value is None:
        return "" if name == "netns" else DEFAULTS.get(name)
    return value


def _unlike_live(name: str, want: Any, live: LinkInfo) -> bool:
    """Return whether the living link shows another value. An attribute that it does not show agrees with any value.

    ring is not compared: a link's ring results from several settings, and only vethd changes it.
    """
    return name != "ring" and hasattr(live, name) and _unlike(name, want, getattr(live, name))


def _unlike(name: str, want: Any, have: Any) -> bool:
    if name == "address" and have is not None:
        return _mac(want) != _mac(have)
    return bool(want != have)


def _mac(text: str) -> str:
    return ":".join(part.zfill(2) for part in text.lower().split(":"))


def _must_recreate(info: PairInfo, spec: PairSpec) -> bool:
    """Return whether queues, latency_queue or index differ.

    The old spec's index also agrees: a move may change the ifindex.
    """
    if bool(info.spec.latency_queue) != bool(spec.latency_queue):
        return True
    near_live, far_live = info.links or (None, None)
    near = (info.spec.near_end(), near_live, spec.near_end())
    far = (info.spec.far_end(), far_live, spec.far_end())
    for old, live, new in (near, far):
        if (old.queues or QUEUES) != (new.queues or QUEUES):
            return True
        ifindex = live.ifindex if live is not None else None
        if new.index is not None and new.index not in (old.index, ifindex):
            return True
    return False


def match(
    current: Sequence[PairInfo], wanted: Sequence[PairSpec], canonical: Canonical = canonical_netns
) -> list[PairInfo | None]:
    """Find the current pair for each wanted pair. Each current pair is used at most once.

    Near ends are compared before peers, and a link's present name before the name that it was made with.
    """
    found: list[PairInfo | None] = [None] * len(wanted)
    free = {info.id: info for info in current}
    for side in (0, 1):
        keys = [_spec_key(spec, side, canonical) for spec in wanted]
        for live in (True, False):
            by_key: dict[Key, list[str]] = {}
            for info in free.values():
                for key in _current_keys(info, side, canonical, live=live):
                    by_key.setdefault(key, []).append(info.id)
            for likeness in _LIKENESSES:
                for number, wanted_key in enumerate(keys):
                    if wanted_key is None or found[number] is not None:
                        continue
                    for id_ in by_key.get(wanted_key, ()):
                        if id_ in free and (_is_name(wanted_key) or likeness(free[id_], wanted[number], canonical)):
                            found[number] = free.pop(id_)
                            break
    return found


def _agrees(info: PairInfo, spec: PairSpec, canonical: Canonical) -> bool:
    return not _must_recreate(info, spec) and diff(info, spec, canonical) == PairChange()


# Pairs whose names the kernel chose may share a key. Of those, a pair with the same spec is taken first, then a pair
# that needs no change, then any pair.
_LIKENESSES: tuple[Callable[[PairInfo, PairSpec, Canonical], bool], ...] = (
    lambda info, spec, _canonical: info.spec == spec,
    _agrees,
    lambda _info, _spec, _canonical: True,
)


def _current_keys(info: PairInfo, side: int, canonical: Canonical, *, live: bool) -> Iterator[Key]:
    link = info.links[side] if info.links else None
    if live:
        if link is not None:
            yield (link.netns, link.name)
        return
    key = _spec_key(info.spec, side, canonical)
    if key is not None:
        yield key
        if link is not None and _is_name(key):
            yield (link.netns, key[1])


def _spec_key(spec: PairSpec, side: int, canonical: Canonical) -> Key | None:
    """Return the key of one end: (netns, name), or, if the kernel chooses its name, one made of both ends' specs."""
    far: LinkSpec = spec if spec.peer is None else spec.peer  # a peer without a spec is in the near end's namespace
    far_name = None if spec.peer is None else far.name
    name, netns = (far_name, far.netns) if side else (spec.name, spec.netns)
    if name is not None and "%" not in name:
        return (canonical(netns), name)
    if side:
        return None
    return (canonical(netns), name or "", "peer", canonical(far.netns), far_name or "")


def _is_name(key: Key) -> bool:
    """Return whether a key is (netns, name), and not one that several pairs may share."""
    return len(key) == 2
