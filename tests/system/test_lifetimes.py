"""Who made a pair decides how long it lives: the config, somebody at run time, or whoever saved it."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from tests.kernel.lib import Net
from tests.lib.lab import End
from tests.lib.netns import Netns
from tests.lib.site import Place, alive, fd_call, toml_pair
from tests.lib.wait import wait_until
from vethd.datapath.engines import Asked, pick_engine
from vethd.memory.store import Store
from vethd.model.spec import LinkSpec, PairSpec
from vethd.pairs.declared import Declared
from vethd.pairs.manager import Manager


def spec(a: str, b: str) -> dict[str, object]:
    return {"name": "va", "netns": a, "up": True, "peer": {"name": "vb", "netns": b}}


# --- declared


def test_declared_pair_waits_for_its_netns(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    b.delete()
    site.configure(toml_pair(("va", a.name), ("vb", b.name)))
    site.start()
    pair = site.wait_state("va", "waiting")
    assert b.name in pair["reason"]
    assert (pair["source"], pair["links"]) == ("config", [])
    health = site.daemon.request("GET", "/v1/health")[1]
    assert (health["pairs"], health["waiting"]) == (0, 1)
    status, body = site.daemon.request("PATCH", f"/v1/pairs/{pair['id']}", b'{"mtu": 1400}')
    assert (status, body["code"]) == (404, "ENODEV")
    assert b.name in body["message"]
    assert a.names() == set()
    Netns.create(b.name)
    pair = site.wait_state("va", "alive")
    assert pair["reason"] == ""
    alive(lab.wire(a, b))


def test_declared_pair_follows_its_netns(place: Place) -> None:
    """The netns dies, and both ends; it returns, and so do they: near or far, again and again."""
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.configure(toml_pair(("va", a.name), ("vb", b.name)))
    site.start()
    for doomed, other in ((b, a), (a, b), (b, a)):
        site.wait_state("va", "alive")
        alive(lab.wire(a, b))
        doomed.delete()
        wait_until(lambda other=other: other.names() == set(), what="the other end's end")  # type: ignore[misc]
        site.wait_state("va", "waiting")
        Netns.create(doomed.name)
    site.wait_state("va", "alive")
    alive(lab.wire(a, b))


def test_netns_replaced_at_once(place: Place) -> None:
    """A namespace of the same name, made before anybody has noticed that the old one is gone, is another one."""
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.configure(toml_pair(("va", a.name), ("vb", b.name)))
    site.start()
    for _ in range(5):
        site.wait_state("va", "alive")
        before = lab.wire(a, b).a.link.ifindex
        b.delete()
        Netns.create(b.name)
        wait_until(lambda: b.names() == {"vb"}, what="vb in the new namespace")
        lab.wire(a, b).a.wait(lambda link, before=before: link.ifindex != before)  # type: ignore[misc]
    site.wait_state("va", "alive")
    alive(lab.wire(a, b))


def test_declared_pair_deleted_by_hand_stays_away_until_a_reload(place: Place) -> None:
    site, lab = place
    a, b, late = lab.netns("a"), lab.netns("b"), lab.netns("late")
    late.delete()
    declared = toml_pair(("va", a.name), ("vb", b.name)) + toml_pair(("vc", late.name), ("vd", late.name))
    site.configure(declared)
    site.start()
    site.wait_state("va", "alive")
    a.ip("link del va")
    wait_until(lambda: "reload" in site.pair("va")["reason"])
    assert site.pair("va")["state"] == "waiting"
    assert b.names() == set()
    # whatever wakes the daemon to try again makes the other one, and not this
    Netns.create(late.name)
    site.wait_state("vc", "alive")
    assert site.pair("va")["state"] == "waiting"
    assert a.names() == set()
    site.hang_up()
    site.wait_state("va", "alive")
    alive(lab.wire(a, b))


def test_deletion_by_hand_holds_whatever_wakes_the_daemon(place: Place) -> None:
    """Also while namespaces come and go, each a reason to try again, in the very moment of the deletion."""
    site, lab = place
    a, b, storm = lab.netns("a"), lab.netns("b"), Netns(f"{lab.netns('x').name}y")
    site.configure(toml_pair(("va", a.name), ("vb", b.name)))
    site.start()
    for _ in range(5):
        site.wait_state("va", "alive")
        stop = threading.Event()

        def blow(stop: threading.Event = stop) -> None:
            while not stop.is_set():
                Netns.create(storm.name)
                storm.delete()

        thread = threading.Thread(target=blow)
        thread.start()
        try:
            a.ip("link del va")
            reason = "a reload makes it again"
            wait_until(lambda: reason in site.pair("va")["reason"], what="held")  # noqa: B023 - not kept
        finally:
            stop.set()
            thread.join()
        assert site.pair("va")["state"] == "waiting"
        assert a.names() | b.names() == set()
        assert site.reload()["created"] == 0


def test_declared_pair_waits_while_its_name_is_taken(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    a.ip("link add va type bridge")
    site.configure(toml_pair(("va", a.name), ("vb", b.name)))
    site.start()
    assert os.strerror(errno.EEXIST) in site.wait_state("va", "waiting")["reason"]
    assert (a.names(), b.names()) == ({"va"}, set())
    a.ip("link del va")
    site.wait_state("va", "alive")
    alive(lab.wire(a, b))


# --- run time


def test_run_time_pair_dies_for_good(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.start()
    site.post(spec(a.name, b.name))
    b.delete()
    wait_until(lambda: not site.daemon.pairs(), what="the pair's end")
    assert a.names() == set()
    Netns.create(b.name)
    site.post({"name": "vc", "netns": b.name, "peer": {"name": "vd", "netns": b.name}})
    assert b.names() == {"vc", "vd"}
    assert len(site.daemon.pairs()) == 1


def test_run_time_pair_goes_with_the_daemon(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.start()
    site.post(spec(a.name, b.name))
    site.stop()
    assert (a.names(), b.names()) == (set(), set())
    site.start()
    assert site.daemon.pairs() == []


# --- saved


def test_saved_pair_comes_back(place: Place) -> None:
    """As it was when it was saved, whoever had changed it."""
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.start()
    site.post({**spec(a.name, b.name), "rx_checksum": "trust", "gro": False, "group": 7})
    wire = lab.wire(a, b)
    wire.b.up()
    wire.a.set("mtu 1400", "txqueuelen 77")
    wire.b.set("address 02:00:00:00:00:99", "name vz")
    wire.b.name = "vz"
    wait_until(lambda: site.pair("va")["links"][1]["name"] == "vz")
    wire.a.wait(lambda link: link.txqueuelen == 1000)
    status, saved = site.daemon.request("POST", "/v1/save")
    assert (status, saved["pairs"]) == (200, 1)
    assert site.pair("va")["source"] == "saved"
    before = [wire.a.link, wire.b.link]
    site.stop()
    assert (a.names(), b.names()) == (set(), set())
    site.start()
    pair = site.wait_state("va", "alive")
    assert (pair["source"], pair["rx_checksum"], pair["gro"]) == ("saved", "trust", False)
    for was, now in zip(before, (wire.a.link, wire.b.link), strict=True):
        for key in ("name", "address", "mtu", "txqueuelen", "group", "up"):
            assert getattr(now, key) == getattr(was, key), key
    assert [link["txqueuelen"] for link in pair["links"]] == [77, 1000]
    alive(wire)


def test_what_was_done_before_is_known(place: Place, tmp_path: Path) -> None:
    """A save writes, and a reload puts right, what somebody has just done; the loop need not have heard of it yet."""
    _, lab = place
    a, b, c = lab.netns("a"), lab.netns("b"), lab.netns("c")
    declared_spec = PairSpec(name="vc", netns=a.name, mtu=1400, peer=LinkSpec(name="vd", netns=b.name))

    async def body() -> None:
        manager = Manager(pick_engine(Asked("asyncio"), asyncio.get_running_loop()))
        store = Store(str(tmp_path))
        declared = Declared(manager, store)
        try:
            await manager.newlink(PairSpec(name="va", netns=a.name, peer=LinkSpec(name="vb", netns=b.name)))
            await declared.reconcile([declared_spec])
            a.ip("link set va mtu 1300", "link set va name vx", "link set vc mtu 1350")  # here, where the loop runs
            b.ip(f"link set vb netns {c.name}")
            assert (await declared.save()).pairs == 1
            (saved,) = store.load()
            assert saved.peer is not None
            assert (saved.name, saved.mtu, saved.peer.netns) == ("vx", 1300, c.name)
            a.ip("link set vc mtu 1350")
            assert (await declared.reconcile([declared_spec]))["changed"] == 1
            assert End(a, "vc").link.mtu == 1400
        finally:
            declared.close()
            await manager.close()

    asyncio.run(body())


def test_saved_pair_that_changed_is_saved_again(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.start()
    site.post(spec(a.name, b.name))
    wire = lab.wire(a, b)
    site.daemon.request("POST", "/v1/save")
    assert (
        site.daemon.request("PATCH", site.daemon.link_path("vb", b.name), b'{"txqueuelen": 55, "ring": 70}')[0] == 200
    )
    wire.a.set("mtu 1400")
    wait_until(lambda: site.pair("va")["links"][0]["mtu"] == 1400)
    assert site.daemon.request("POST", "/v1/save")[1]["pairs"] == 1
    site.stop()
    site.start()
    site.wait_state("va", "alive")
    assert (wire.a.link.mtu, wire.b.link.txqueuelen) == (1400, 70)
    assert site.pair("va")["links"][1]["txqueuelen"] == 55


def test_saved_pair_that_was_deleted_stays_away(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.start()
    site.post(spec(a.name, b.name))
    site.post({"name": "vc", "netns": a.name, "peer": {"name": "vd", "netns": b.name}})
    assert site.daemon.request("POST", "/v1/save")[1]["pairs"] == 2
    assert site.daemon.request("DELETE", site.daemon.link_path("vb", b.name))[0] == 204
    site.stop()
    site.start()
    site.wait_state("vc", "alive")
    assert [pair["spec"]["name"] for pair in site.daemon.pairs()] == ["vc"]
    assert a.names() == {"vc"}


def test_saved_pair_waits_as_a_declared_one(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.start()
    site.post(spec(a.name, b.name))
    site.daemon.request("POST", "/v1/save")
    b.delete()
    site.wait_state("va", "waiting")
    site.stop()
    site.start()
    assert b.name in site.wait_state("va", "waiting")["reason"]
    Netns.create(b.name)
    site.wait_state("va", "alive")
    lab.wire(a, b).b.up()
    alive(lab.wire(a, b))


def test_save_in_a_netns_without_a_name_saves_nothing(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.start()
    site.post({"name": "vc", "netns": a.name, "peer": {"name": "vd", "netns": b.name}})
    net = Net()
    status, _ = fd_call(site.socket, "POST", "/v1/pairs", spec(a.name, "fd:0"), [net.fd])
    assert status == 201
    status, body = site.daemon.request("POST", "/v1/save")
    assert (status, body["code"]) == (400, "EOPNOTSUPP")
    assert "vb" in body["message"]
    assert {pair["source"] for pair in site.daemon.pairs()} == {"runtime"}
    assert not (site.state / "pairs.json").exists()
    net.let_go()
    wait_until(lambda: a.names() == {"vc"})
    assert site.daemon.request("POST", "/v1/save")[1]["pairs"] == 1


def test_save_that_cannot_write_saves_nothing(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.state.write_text("a file where the directory should be")
    site.start()
    site.post(spec(a.name, b.name))
    status, body = site.daemon.request("POST", "/v1/save")
    assert status >= 400
    assert str(site.state) in body["message"]
    assert site.pair("va")["source"] == "runtime"


@pytest.mark.parametrize("text", ["{", '{"pair": [{"name": "va"}, {"name": "vc", "address": "nonsense"}]}'])
def test_bad_state_file_is_told_and_keeps_nobody_down(place: Place, text: str) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.state.mkdir()
    (site.state / "pairs.json").write_text(text)
    site.configure(toml_pair(("va", a.name), ("vb", b.name)))
    site.start()
    site.wait_state("va", "alive")
    alive(lab.wire(a, b))
    assert str(site.state / "pairs.json.bad") in site.daemon.log.read_text()
    assert (site.state / "pairs.json.bad").read_text() == text, "kept from being written over"
