"""plan(): what must be done, no more, and nothing the second time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lib.fake_daemon import HOME, link_info, pair_info
from vethd.model.api import LinkInfo, PairChange, PairInfo
from vethd.model.plan import DEFAULTS, Plan, canonical_netns, plan
from vethd.model.spec import LinkSpec, PairSpec, RxChecksum

MAC = "02:00:00:00:00:0a"


class World:
    """Does what the daemon does with a plan, as far as specs and LinkInfo show it; names never collide in it."""

    def __init__(self) -> None:
        self.pairs: dict[str, PairInfo] = {}
        self.made = 0

    def carry_out(self, todo: Plan) -> None:
        for id_ in todo.deletes:
            del self.pairs[id_]
        for id_, change in todo.changes:
            self.change(id_, change)
        for spec in todo.creates:
            self.create(spec)

    def create(self, spec: PairSpec) -> None:
        self.made += 1
        links = [self._born(spec.near_end(), "near"), self._born(spec.far_end(), "far")]
        id_ = f"p{self.made}"
        self.pairs[id_] = pair_info(
            spec, links, id=id_, rx_checksum=spec.rx_checksum or "verify", gro=spec.gro is not False
        )

    def change(self, id_: str, change: PairChange) -> None:
        info = self.pairs[id_]
        near = LinkSpec(**{name: getattr(change, name) for name in LinkSpec.__struct_fields__})
        far = change.peer or LinkSpec()
        assert near.queues is near.index is far.queues is far.index is None
        assert "%" not in f"{near.name}{far.name}"
        links = [_live(info.links[0], near), _live(info.links[1], far)]
        peer = info.spec.peer if change.peer is None else _over(info.spec.far_end(), far)
        rx_checksum = change.rx_checksum or info.spec.rx_checksum
        gro = None if change.gro == "default" else info.spec.gro if change.gro is None else change.gro
        own: dict[str, Any] = {"rx_checksum": rx_checksum, "gro": gro}
        spec = PairSpec(**_fields(_over(info.spec.near_end(), near)), **own, peer=peer)
        self.pairs[id_] = msgspec.structs.replace(
            info, spec=spec, links=links, rx_checksum=rx_checksum or "verify", gro=gro is not False
        )

    def _born(self, link: LinkSpec, end: str) -> LinkInfo:
        name = link.name if link.name and "%" not in link.name else f"veth-{end}{self.made}"
        said = msgspec.structs.replace(link, name=name, netns=link.netns or "")
        return _live(link_info("", ifindex=100 + self.made, mtu=1500), said)


def _live(info: LinkInfo, change: LinkSpec) -> LinkInfo:
    said = {name: value for name, value in _fields(change).items() if name in LinkInfo.__struct_fields__}
    if change.netns is not None:
        said["netns"] = canonical_netns(change.netns)
        if said["netns"] != info.netns:
            said.setdefault("up", False)
    return msgspec.structs.replace(info, **said)


def _fields(link: LinkSpec) -> dict[str, Any]:
    return {name: value for name in LinkSpec.__struct_fields__ if (value := getattr(link, name)) is not None}


def _over(old: LinkSpec, new: LinkSpec) -> LinkSpec:
    return LinkSpec(**(_fields(old) | _fields(new)))


def attributes() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "netns": st.sampled_from(["", "red", "/run/netns/red", "/proc/7/ns/net"]),
            "address": st.sampled_from([MAC, "02:0:0:0:0:A", "02:00:00:00:00:0b"]),
            "mtu": st.sampled_from([68, 1500, 9000]),
            "txqueuelen": st.sampled_from([0, 1000]),
            "ring": st.sampled_from([0, 64, 1000]),
            "queues": st.sampled_from([1, 4]),
            "index": st.sampled_from([70, 71]),
            "group": st.sampled_from([0, 7]),
            "alias": st.sampled_from(["", "x"]),
            "altname": st.sampled_from(["long-a", "long-b"]),
            "master": st.sampled_from(["", "br0"]),
            "up": st.booleans(),
            "arp": st.booleans(),
            "promisc": st.booleans(),
            "addrgenmode": st.sampled_from(["none", "eui64"]),
            "gso_max_size": st.sampled_from([65536, 1500]),
        },
    )


@st.composite
def pair_lists(draw: st.DrawFn) -> list[PairSpec]:
    pairs = []
    for number, far_number in enumerate(draw(st.permutations(range(3)))):
        near_name = draw(st.sampled_from([f"n{number}", f"n{number}", "veth%d", None]))
        peer = None
        if draw(st.booleans()):
            peer = LinkSpec(**draw(attributes()), name=draw(st.sampled_from([f"f{far_number}", "far%d", None])))
        rx_checksum: RxChecksum | None = draw(st.sampled_from(["verify", "trust", None]))
        gro: bool | None = draw(st.sampled_from([True, False, None]))
        pairs.append(PairSpec(**draw(attributes()), name=near_name, peer=peer, rx_checksum=rx_checksum, gro=gro))
    return pairs[: draw(st.integers(0, 3))]


@given(pair_lists(), pair_lists(), st.booleans())
def test_second_plan_is_empty(first: list[PairSpec], second: list[PairSpec], prune: bool) -> None:
    world = World()
    for wanted in (first, second):
        world.carry_out(plan(list(world.pairs.values()), wanted, prune=prune))
        assert plan(list(world.pairs.values()), wanted, prune=prune).empty
    if prune:
        assert len(world.pairs) == len(second)


@given(pair_lists(), attributes())
def test_drift_is_put_right(wanted: list[PairSpec], drift: dict[str, Any]) -> None:
    world = World()
    world.carry_out(plan([], wanted, prune=True))
    drift = {name: value for name, value in drift.items() if name not in ("queues", "index", "netns")}
    for id_, info in world.pairs.items():
        links = [_live(link, LinkSpec(**drift)) for link in info.links]
        world.pairs[id_] = msgspec.structs.replace(info, links=links)
    todo = plan(list(world.pairs.values()), wanted, prune=True)
    assert not todo.creates
    assert not todo.deletes
    world.carry_out(todo)
    for info, spec in zip(world.pairs.values(), wanted, strict=True):
        for link, end in zip(info.links, (spec.near_end(), spec.far_end()), strict=True):
            for name, value in _fields(end).items():
                if name in ("mtu", "group", "up", "promisc") or (name == "alias" and value):
                    assert getattr(link, name) == value


def test_nothing_to_do() -> None:
    assert plan([], [], prune=True).empty
    assert plan([pair_info()], [PairSpec(name="va", peer=LinkSpec(name="vb"))], prune=True).empty


def test_only_what_differs_changes() -> None:
    own: dict[str, Any] = {"rx_checksum": "trust", "gro": False}
    wanted = PairSpec(name="va", mtu=9000, alias="", peer=LinkSpec(name="vb", up=True), **own)
    todo = plan([pair_info()], [wanted], prune=False)
    assert todo == Plan(changes=[("p1", PairChange(mtu=9000, peer=LinkSpec(up=True), **own))])


def test_gro_that_is_said_is_written_down_though_it_is_so_already() -> None:
    """What the daemon has for all pairs may change; what the pair says of itself holds."""
    todo = plan([pair_info()], [PairSpec(name="va", gro=True, peer=LinkSpec(name="vb"))], prune=False)
    assert todo == Plan(changes=[("p1", PairChange(gro=True))])


def test_dropped_attributes_go_back() -> None:
    said = dict(DEFAULTS, mtu=9000, group=7, alias="x", master="br0", up=True, arp=False)
    own: dict[str, Any] = {"rx_checksum": "trust", "gro": True}
    spec = PairSpec(**said, name="va", address=MAC, peer=LinkSpec(name="vb"), **own)
    live = link_info("va", mtu=9000, group=7, alias="x", master="br0", up=True, arp=False, address=MAC)
    info = pair_info(spec, [live, link_info("vb")], rx_checksum="trust")
    (change,) = plan([info], [PairSpec(name="va", peer=LinkSpec(name="vb"))], prune=False).changes
    own = {"rx_checksum": "verify", "gro": "default"}
    assert change[1] == PairChange(mtu=1500, group=0, alias="", master="", up=False, arp=True, **own)


def test_what_was_never_said_is_left_alone() -> None:
    info = pair_info(links=[link_info("va", mtu=9000, up=True, netns="ctr"), link_info("vb")])
    assert plan([info], [PairSpec(name="va", peer=LinkSpec(name="vb"))], prune=False).empty


def test_alias_that_somebody_set_goes_where_none_is_asked_for() -> None:
    spec = PairSpec(name="va", alias="", peer=LinkSpec(name="vb"))
    info = pair_info(spec, [link_info("va", alias="somebody's"), link_info("vb")])
    changes = plan([info], [spec, PairSpec(name="vo")], prune=False).changes
    assert changes == [(info.id, PairChange(alias=""))]


def test_rename_is_undone() -> None:
    info = pair_info(links=[link_info("eth0"), link_info("vb")])
    todo = plan([info], [PairSpec(name="va", peer=LinkSpec(name="vb"))], prune=False)
    assert todo.changes == [("p1", PairChange(name="va"))]


def test_present_name_comes_before_the_one_asked_for() -> None:
    renamed = pair_info(PairSpec(name="va"), [link_info("old"), link_info("veth0")], id="renamed")
    new = pair_info(PairSpec(name="va"), [link_info("va"), link_info("veth1")], id="new")
    assert plan([renamed, new], [PairSpec(name="va")], prune=True) == Plan(deletes=["renamed"])


def test_pair_is_known_by_its_peer() -> None:
    todo = plan([pair_info()], [PairSpec(name="vx", peer=LinkSpec(name="vb"))], prune=True)
    assert todo == Plan(changes=[("p1", PairChange(name="vx"))])


def test_move_brings_the_link_up_again() -> None:
    spec = PairSpec(name="va", up=True, peer=LinkSpec(name="vb"))
    info = pair_info(spec, [link_info("va", up=True), link_info("vb")])
    wanted = PairSpec(name="va", netns="red", up=True, peer=LinkSpec(name="vb"))
    assert plan([info], [wanted], prune=False).changes == [("p1", PairChange(netns="red", up=True))]


@pytest.mark.parametrize("attribute", [{"queues": 4}, {"index": 77}])
def test_create_only_attributes_recreate(attribute: dict[str, int]) -> None:
    for wanted in (
        PairSpec(name="va", **attribute, peer=LinkSpec(name="vb")),  # type: ignore[arg-type]
        PairSpec(name="va", peer=LinkSpec(name="vb", **attribute)),  # type: ignore[arg-type]
    ):
        assert plan([pair_info()], [wanted], prune=False) == Plan(deletes=["p1"], creates=[wanted])


@pytest.mark.parametrize("was", [True, False, None])
@pytest.mark.parametrize("wanted", [True, False, None])
def test_a_latency_queue_is_made_anew_or_left_alone(was: bool | None, wanted: bool | None) -> None:
    """Whatever the number of queues: without BPF the pair has one, and would be made again for ever."""
    spec = PairSpec(name="va", latency_queue=wanted, peer=LinkSpec(name="vb"))
    info = pair_info(PairSpec(name="va", latency_queue=was, peer=LinkSpec(name="vb")))
    same = Plan() if bool(was) == bool(wanted) else Plan(deletes=["p1"], creates=[spec])
    assert plan([info], [spec], prune=False) == same


def test_waiting_pair_is_made_anew() -> None:
    spec = PairSpec(name="va", netns="red")
    waiting = pair_info(spec, [], state="waiting", reason="no netns red")
    assert plan([waiting], [spec], prune=True).empty
    wanted = PairSpec(name="va", netns="red", mtu=9000)
    assert plan([waiting], [wanted], prune=True) == Plan(deletes=["p1"], creates=[wanted])


def test_unnamed_pairs_are_not_mixed_up() -> None:
    plain = pair_info(PairSpec(), [link_info("veth0"), link_info("veth1")], id="plain")
    special = pair_info(PairSpec(index=70), [link_info("veth2", ifindex=70), link_info("veth3")], id="special")
    assert plan([plain, special], [PairSpec(index=70)], prune=False).empty
    assert plan([plain, special], [PairSpec(index=70), PairSpec()], prune=True).empty


def test_prune_keeps_what_is_declared_elsewhere() -> None:
    mine, declared = pair_info(id="mine"), pair_info(id="declared", source="config")
    assert plan([mine, declared], [], prune=False).empty
    assert plan([mine, declared], [], prune=True).deletes == ["mine", "declared"]
    assert plan([mine, declared], [], prune=True, keep=("config",)).deletes == ["mine"]


def test_inherited_values_are_pinned() -> None:
    # PATCH mtu on a never-named pair changes the near end alone; the peer's inherited 9000 is said from then on.
    spec = PairSpec(name="va", mtu=9000)
    info = pair_info(spec, [link_info("va", mtu=9000), link_info("veth0", mtu=9000)])
    wanted = PairSpec(name="va", mtu=1500, peer=LinkSpec(mtu=9000))
    assert plan([info], [wanted], prune=False).changes == [("p1", PairChange(mtu=1500, peer=LinkSpec(mtu=9000)))]


@pytest.mark.parametrize(
    ("netns", "canonical"),
    [(None, ""), ("", ""), ("red", "red"), ("/run/netns/red", "red"), ("/var/run/netns/red", "red"), ("/x/y", "/x/y")],
)
def test_canonical_netns(netns: str | None, canonical: str) -> None:
    assert canonical_netns(netns) == canonical


def test_a_better_canonical_may_be_passed() -> None:
    info = pair_info(PairSpec(name="va", netns="fd:0"), [link_info("va", netns="red"), link_info("v0", netns="red")])
    wanted = PairSpec(name="va", netns="4711")
    todo = plan([info], [wanted], prune=True, canonical=lambda netns: "red" if netns == "4711" else netns or "")
    assert todo.empty
    assert info.links[0].netns_inode == HOME
