"""SIGHUP and POST /v1/reload: what differs is changed, and whoever did not change sees nothing of it."""

from __future__ import annotations

import errno
import os

from tests.lib.frames import ETH_P_TEST, sized
from tests.lib.lab import End, Wire
from tests.lib.site import Place, toml_pair, up
from tests.lib.sockets import ping
from tests.lib.wait import wait_until

UNDER_WAY = 500  # frames: a queue holds a thousand, however long the daemon waits for a CPU


def figures(created: int = 0, changed: int = 0, deleted: int = 0, waiting: int = 0) -> dict[str, int]:
    return {"created": created, "changed": changed, "deleted": deleted, "waiting": waiting}


def test_only_what_differs_changes(place: Place) -> None:
    """One pair stays as it is, under traffic; one changes; one goes; one comes; one is nobody's business."""
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    stays = toml_pair(("va", a.name), ("vb", b.name))
    site.configure(
        stays + toml_pair(("vc", a.name), ("vd", b.name), "mtu = 1400") + toml_pair(("ve", a.name), ("vf", b.name))
    )
    site.start()
    for name in ("va", "vc", "ve"):
        site.wait_state(name, "alive")
    site.post({"name": "vr", "netns": a.name, "mtu": 1300, "peer": {"name": "vs", "netns": b.name}})
    wire, changes, ours = lab.wire(a, b), Wire(End(a, "vc"), End(b, "vd")), End(a, "vr")
    up(wire)
    changes.wait_carrier()
    ids = {pair["spec"]["name"]: pair["id"] for pair in site.daemon.pairs()}
    before = [(end.link.ifindex, end.link.carrier_changes) for end in (wire.a, wire.b, changes.a, changes.b)]
    runtime = ours.link
    site.configure(
        stays + toml_pair(("vc", a.name), ("vd", b.name), "mtu = 1450") + toml_pair(("vg", a.name), ("vh", b.name))
    )
    seen, sent = site.reloads(), 0
    with wire.a.packet() as sender, wire.b.packet() as receiver:
        site.daemon.process.send_signal(1)

        got: list[bytes] = []

        def done() -> bool:
            nonlocal sent
            got.extend(one.frame for one in receiver.drained() if one.proto == ETH_P_TEST)
            if sent - len(got) < UNDER_WAY:
                for _ in range(20):
                    sender.send(sized(200, sent))
                    sent += 1
            return site.reloads() > seen

        wait_until(done, what="the reload's line in the log")
        got += [receiver.recv_proto().frame for _ in range(sent - len(got))]
    assert got == [sized(200, n) for n in range(sent)], "no loss, no reorder"
    after = [(end.link.ifindex, end.link.carrier_changes) for end in (wire.a, wire.b, changes.a, changes.b)]
    assert after == before
    assert (changes.a.link.mtu, changes.b.link.mtu) == (1450, 1500)
    assert a.names() == {"va", "vc", "vg", "vr"}
    assert b.names() == {"vb", "vd", "vh", "vs"}
    assert (ours.link.ifindex, ours.link.mtu, ours.link.up) == (runtime.ifindex, 1300, False)
    now = {pair["spec"]["name"]: pair["id"] for pair in site.daemon.pairs()}
    assert [now[name] for name in ("va", "vc", "vr")] == [ids[name] for name in ("va", "vc", "vr")]
    assert '"created": 1, "changed": 1, "deleted": 1, "waiting": 0' in site.daemon.log.read_text()


def test_figures(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.start()
    assert site.reload() == figures()
    one, two = toml_pair(("va", a.name), ("vb", b.name)), toml_pair(("vc", a.name), ("vd", b.name))
    site.configure(one + two + toml_pair(("vw", "no-such-netns"), ("vx", "")))
    assert site.reload() == figures(created=3, waiting=1)
    assert site.reload() == figures(waiting=1)
    site.configure(one + toml_pair(("vc", a.name), ("vd", b.name), "alias = 'x'"))
    assert site.reload() == figures(changed=1, deleted=1)
    site.configure(one)
    assert site.reload() == figures(deleted=1)
    site.configure(toml_pair(("va", a.name), ("vb", b.name), "queues = 2"))
    assert site.reload() == figures(created=1, deleted=1), "what cannot change is made again"
    assert site.pair("va")["links"][0]["queues"] == 2
    site.configure("")
    assert site.reload() == figures(deleted=1)
    assert a.names() | b.names() == set()


BAD = ("nonsense", "[[pair]]\nname = 'va'\nmtu = 67", "[[pair]]\nname = 'va'\nmtuu = 1500", 'engine = "warp"')


def test_bad_config_changes_nothing(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.configure(toml_pair(("va", a.name), ("vb", b.name)))
    site.start()
    site.wait_state("va", "alive")
    wire = lab.wire(a, b)
    near, far = up(wire)
    wait_until(lambda: {link["operstate"] for link in site.pair("va")["links"]} == {"up"})
    before = (wire.a.link.ifindex, wire.a.link.carrier_changes, site.daemon.pairs())
    for bad in BAD:
        site.configure(bad)
        status, body = site.daemon.request("POST", "/v1/reload")
        assert (status, body["code"]) == (400, "EINVAL")
        assert body["message"].startswith(f"{site.config}: ")
        site.hang_up()
        assert (wire.a.link.ifindex, wire.a.link.carrier_changes, site.daemon.pairs()) == before
    assert site.daemon.log.read_text().count("reload refused, nothing changed") == len(BAD)
    ping(a, near, b, far)
    site.config.unlink()
    assert site.daemon.request("POST", "/v1/reload")[0] == 400
    site.configure(toml_pair(("va", a.name), ("vb", b.name), "mtu = 1400"))
    assert site.reload() == figures(changed=1)


def test_what_a_user_changed_is_put_right(place: Place) -> None:
    """As far as the config says anything about it; what it never said belongs to whoever set it."""
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.configure(toml_pair(("va", a.name), ("vb", b.name), "mtu = 1400\ngroup = 5"))
    site.start()
    site.wait_state("va", "alive")
    wire = lab.wire(a, b)
    wire.a.set("mtu 1300", "group 9", "txqueuelen 77")
    wire.b.set("down", "mtu 1250")
    wait_until(lambda: [link["mtu"] for link in site.pair("va")["links"]] == [1300, 1250])
    assert site.reload() == figures(changed=1)
    near, far = wire.a.link, wire.b.link
    assert (near.mtu, near.group) == (1400, 5)
    shown = site.pair("va")["links"][0]
    assert (shown["txqueuelen"], shown["ring"]) == (77, 1000)
    assert (far.up, far.mtu) == (True, 1250)
    wire.wait_carrier()


def test_attribute_that_is_no_longer_said_goes_back(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    words = ("mtu = 1400\npromisc = true", "txqueuelen = 5\nring = 5000")
    site.configure(toml_pair(("va", a.name), ("vb", b.name), *words))
    site.start()
    site.wait_state("va", "alive")
    wire = lab.wire(a, b)
    assert (wire.a.link.mtu, wire.a.link.promiscuity, wire.b.link.txqueuelen) == (1400, 1, 5000)
    assert site.pair("va")["links"][1]["txqueuelen"] == 5
    assert site.reload() == figures(), "what was asked and what the device has differ, and agree with the config"
    site.configure(toml_pair(("va", a.name), ("vb", b.name)))
    assert site.reload() == figures(changed=1)
    assert (wire.a.link.mtu, wire.a.link.promiscuity, wire.b.link.txqueuelen) == (1500, 0, 1000)
    assert site.pair("va")["links"][1]["txqueuelen"] == 1000


def test_end_moves_with_the_config(place: Place) -> None:
    """Moved, not made again: the other end stays the device that it was."""
    site, lab = place
    a, b, c = lab.netns("a"), lab.netns("b"), lab.netns("c")
    site.configure(toml_pair(("va", a.name), ("vb", b.name)))
    site.start()
    site.wait_state("va", "alive")
    wire = lab.wire(a, b)
    ifindex, address = wire.a.link.ifindex, wire.b.link.address
    site.configure(toml_pair(("va", a.name), ("vb", c.name)))
    assert site.reload() == figures(changed=1)
    assert (b.names(), c.names()) == (set(), {"vb"})
    wire.b.netns = c
    assert (wire.a.link.ifindex, wire.b.link.address) == (ifindex, address)
    near, far = up(wire)
    ping(a, near, c, far)
    assert site.reload() == figures()


def test_config_takes_over_a_run_time_pair_of_that_name(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.start()
    made = site.post({"name": "va", "netns": a.name, "up": True, "peer": {"name": "vb", "netns": b.name}})
    wire = lab.wire(a, b)
    ifindex = wire.a.link.ifindex
    site.configure(toml_pair(("va", a.name), ("vb", b.name), "mtu = 1400"))
    assert site.reload() == figures(changed=1)
    pair = site.pair("va")
    assert (pair["id"], pair["source"]) == (made["id"], "config")
    assert (wire.a.link.ifindex, wire.a.link.mtu) == (ifindex, 1400)
    wire.wait_carrier()
    site.configure("")
    assert site.reload() == figures(deleted=1)
    assert a.names() | b.names() == set()


def test_config_takes_over_a_saved_pair(place: Place) -> None:
    """From then on it is the config's alone: taken out of it, it does not come back at the next start."""
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.start()
    site.post({"name": "va", "netns": a.name, "peer": {"name": "vb", "netns": b.name}})
    assert site.daemon.request("POST", "/v1/save")[1]["pairs"] == 1
    site.configure(toml_pair(("va", a.name), ("vb", b.name)))
    site.reload()
    assert site.pair("va")["source"] == "config"
    site.configure("")
    assert site.reload() == figures(deleted=1)
    site.stop()
    site.start()
    assert site.reload() == figures()
    assert site.daemon.pairs() == []


def test_reload_without_a_config(place: Place) -> None:
    site, _ = place
    done = site.run("--socket", str(site.socket), "--check-config")
    assert done.returncode == 2
    site.start()
    site.config.unlink()
    status, body = site.daemon.request("POST", "/v1/reload")
    assert (status, body["code"]) == (400, "EINVAL")
    assert os.strerror(errno.ENOENT) in body["message"]


def test_many_reloads_at_once(place: Place) -> None:
    """They take their turns, and the last word holds."""
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.start()
    for n in range(20):
        site.configure(toml_pair(("va", a.name), ("vb", b.name), f"mtu = {1400 + n}"))
        site.daemon.process.send_signal(1)
    assert site.reload()["waiting"] == 0
    assert End(a, "va").link.mtu == 1419
    assert len(site.daemon.pairs()) == 1
    up(lab.wire(a, b))
