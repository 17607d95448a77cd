"""What a start finds: a predecessor that was killed at any step, and devices that look like ours and are not.

    home [va] ===== [vb] b      declared, or made at run time
    a [...]                     what is not ours

The store of descriptors is the tests' own, which outlives the daemon as systemd's does (tests/lib/fd_store.py); the
real one has its tests in test_restart.py.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.kernel.tap import Tap
from tests.lib.fd_store import FdStore
from tests.lib.killer import RECORD, Killer
from tests.lib.lab import Lab
from tests.lib.netns import Netns
from tests.lib.service import CONTROL, VETHD, Service
from tests.lib.site import Site, toml_pair
from tests.lib.site import site as make_site
from tests.lib.systemd_box import SystemdBox, systemd_box_fixture
from tests.lib.wait import wait_until

__all__ = ["systemd_box_fixture"]

THIN = 4  # of a birth's requests of the kernel every fourth: until something is stored all dies with the daemon


@pytest.fixture
def grounds(root: None, tmp_path: Path) -> Iterator[tuple[Killer, Lab]]:  # noqa: ARG001 - the check that we may
    with make_site(tmp_path) as (site, lab), FdStore(tmp_path / "notify") as store:
        yield Killer(site, store, tmp_path), lab


def reconciled(site: Site) -> dict[str, int]:
    """Wait until the start is over, and return what it came to; the log must say the same."""
    found = site.reconciled()
    lines = [msgspec.json.decode(line) for line in site.daemon.log.read_text().splitlines() if line.startswith("{")]
    (said,) = [line for line in lines if line["event"] == "reconciled"]
    assert {key: said[key] for key in found} == found
    return found


def ask(site: Site, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    return site.daemon.request(method, path, msgspec.json.encode(body) if body is not None else None)


def whole_or_nothing(killer: Killer, places: tuple[Netns, Netns], what: str) -> bool:
    """See that a new daemon has the pair, or that nobody has anything of it; tell which."""
    home, b = places
    site = killer.site
    with killer.life():
        did = reconciled(site)
        pairs = site.daemon.pairs()
        links = (home.names(), b.names())
        assert links == (({"va"}, {"vb"}) if pairs else (set(), set())), (what, links, pairs)
        assert [pair["state"] for pair in pairs] == ["alive"] * did["adopted"], (what, did)
        assert len(killer.store.names() - RECORD) == 2 * len(pairs), (what, killer.store.names())
        if pairs:
            assert ask(site, "PATCH", f"/v1/pairs/{pairs[0]['id']}", {"up": True, "peer": {"up": True}})[0] == 200
            assert ask(site, "DELETE", f"/v1/pairs/{pairs[0]['id']}")[0] == 204
        # and what was asked for can be had
        pair = site.post({"name": "va", "peer": {"name": "vb", "netns": b.name}})
        assert ask(site, "DELETE", f"/v1/pairs/{pair['id']}")[0] == 204
        wait_until(lambda: killer.store.names() == RECORD, what=f"an empty store after {what}")
        assert home.names() | b.names() == set(), what
    killer.store.clear()
    return bool(pairs)


@pytest.mark.heavy
@pytest.mark.parametrize("what", ["birth", "deletion"])
def test_killed_at_every_step(grounds: tuple[Killer, Lab], what: str) -> None:
    """Afterwards the pair is there, whole, or nothing of it is: neither devices nor descriptors that are kept."""
    killer, lab = grounds
    site, b = killer.site, lab.netns("b")
    body = {"name": "va", "peer": {"name": "vb", "netns": b.name}}
    made: list[str] = []

    def make() -> None:
        made.append(site.post(body)["id"])

    def birth() -> None:
        ask(site, "POST", "/v1/pairs", body)

    def deletion() -> None:
        ask(site, "DELETE", f"/v1/pairs/{made[-1]}")

    before, work, thin = (lambda: None, birth, THIN) if what == "birth" else (make, deletion, 1)
    steps: list[str] = []
    kept = 0
    while call := killer.killed_at(len(steps), before, work, thin=thin):
        steps.append(call)
        kept += whole_or_nothing(killer, (site.home, b), f"{what}, killed before {len(steps)}. {call}")
    kept += whole_or_nothing(killer, (site.home, b), f"{what}, killed afterwards")
    print(f"\n{what}: killed before each of {len(steps)} steps {steps}; {kept} times the pair was there afterwards")
    assert {"sendto", "pwrite64"} <= set(steps)
    assert kept > 0, "the last step of a birth, the first of a deletion"


def test_dead_ends_and_what_no_record_explains(grounds: tuple[Killer, Lab]) -> None:
    """Of three pairs one is whole, one lacks an end's descriptor, and a device is kept that nobody wrote down."""
    killer, lab = grounds
    site, b = killer.site, lab.netns("b")
    with killer.life():
        for n in range(2):
            site.post({"name": f"va{n}", "peer": {"name": f"vb{n}", "netns": b.name}})
        site.kill()
    killer.store.forget(max(killer.store.names() - RECORD))
    with closing(Tap(b, "stray")) as stray:
        killer.store.keep("t99", stray.fd)
    assert "stray" in b.names()
    with killer.life():
        assert reconciled(site) == {"adopted": 1, "lost": 1, "created": 0, "changed": 0, "deleted": 0, "orphans": 1}
        assert "1 adopted, 1 lost, 1 orphans" in killer.store.status
        assert (site.home.names(), b.names()) == ({"va0"}, {"vb0"})
        assert len(killer.store.names() - RECORD) == 2


def test_a_config_that_changed_while_nobody_was_there(grounds: tuple[Killer, Lab]) -> None:
    """What it says no more is deleted, what differs is changed, what is new is made, what is so is adopted."""
    killer, lab = grounds
    site, b = killer.site, lab.netns("b")

    def pair(n: int, own: str = "") -> str:
        return toml_pair((f"va{n}", ""), (f"vb{n}", b.name), own)

    site.configure(pair(0) + pair(1) + pair(2))
    with killer.life():
        assert reconciled(site)["created"] == 3
        before = {pair["spec"]["name"]: pair["links"][0]["ifindex"] for pair in site.daemon.pairs()}
        site.kill()
    site.configure(pair(0) + pair(1, "mtu = 1300") + pair(3))
    with killer.life():
        assert reconciled(site) == {"adopted": 3, "lost": 0, "created": 1, "changed": 1, "deleted": 1, "orphans": 0}
        now = {pair["spec"]["name"]: pair["links"][0] for pair in site.daemon.pairs()}
        assert {name: now[name]["ifindex"] for name in ("va0", "va1")} == {
            name: before[name] for name in ("va0", "va1")
        }
        assert set(now) == {"va0", "va1", "va3"}
        assert now["va1"]["mtu"] == 1300
    site.configure("")


@pytest.mark.heavy
def test_a_save_whose_record_was_not_written(grounds: tuple[Killer, Lab]) -> None:
    """Killed between the two: what is in the file stays in it."""
    killer, lab = grounds
    site, b = killer.site, lab.netns("b")

    def prepare() -> None:
        site.post({"name": "va", "peer": {"name": "vb", "netns": b.name}})

    def save() -> None:
        assert ask(site, "POST", "/v1/save")[0] == 200

    steps: list[str] = []
    calls = ("fsync", "rename", "pwrite64", "ftruncate")
    while call := killer.killed_at(len(steps), prepare, save, calls):
        steps.append(call)
        in_file = (site.state / "pairs.json").exists()
        assert in_file == (calls.index(call) > calls.index("rename"))
        with killer.life():
            assert reconciled(site)["adopted"] == 1
            (pair,) = site.daemon.pairs()
            assert pair["source"] == ("saved" if in_file else "runtime")
            if in_file:
                assert msgspec.json.decode((site.state / "pairs.json").read_bytes())["pair"]
            assert ask(site, "DELETE", f"/v1/pairs/{pair['id']}")[0] == 204
            (site.state / "pairs.json").unlink(missing_ok=True)
        killer.store.clear()
    assert steps == list(calls)


def test_what_is_not_ours_is_never_touched(grounds: tuple[Killer, Lab]) -> None:
    """Look-alikes, by name, alias and altname; one has a declared pair's name: that pair waits, with its reason."""
    killer, lab = grounds
    site, a, b = killer.site, lab.netns("a"), lab.netns("b")
    with ExitStack() as stack:
        for name in ("vethd0", "vb", "va@vb"):
            stack.callback(Tap(a, name).close)
        a.ip(
            "link add veth0 type veth peer name veth1",
            "link set veth0 alias 'peer vb ifindex 5 netns -'",
            "link property add dev veth0 altname vx@vb",
            "tuntap add va mode tap",
            "link set va alias 'peer vb ifindex 2 netns -'",
        )

        def look() -> list[tuple[Any, ...]]:
            shown = msgspec.json.decode(a.command("ip", "-json", "-details", "link", "show"))
            keys = ("ifindex", "ifname", "ifalias", "altnames", "address", "flags", "mtu", "qdisc", "operstate")
            return [tuple(str(link.get(key)) for key in keys) for link in shown]

        before = look()
        site.configure(toml_pair(("va", a.name), ("vb", b.name)) + toml_pair(("vc", a.name), ("vd", b.name)))
        for how in ("stop", "kill", "stop"):
            with killer.life():
                reconciled(site)
                assert os.strerror(errno.EEXIST) in site.wait_state("va", "waiting")["reason"]
                site.wait_state("vc", "alive")
                assert [link for link in look() if link[1] != "vc"] == before
                getattr(site, how)()
            if how == "stop":
                killer.store.clear()
                wait_until(lambda: look() == before, what="our own end gone, and nothing else")
        a.ip("link del va")
        with killer.life():
            site.wait_state("va", "alive")
        killer.store.clear()
        a.ip("link del veth0")
    site.configure("")


def test_under_systemd_an_operator_is_told(systemd_box: SystemdBox) -> None:
    """One pair is adopted, one lost its namespace meanwhile: the unit's status says so, and vethctl doctor."""
    service = Service(systemd_box)
    for name in ("red", "blue"):
        systemd_box.output("ip", "netns", "add", name)
    service.configure(toml_pair(("va", "red"), ("vb", "blue")) + toml_pair(("vc", "red"), ("vd", "")))
    service.start()
    service.wait_pairs(lambda pairs: all(pair["state"] == "alive" for pair in pairs.values()))
    pid = service.pid
    systemd_box.output("kill", "-STOP", str(pid))
    systemd_box.output(
        "ip", "-n", "red", "link", "add", "witness", "type", "veth", "peer", "name", "gone", "netns", "blue"
    )
    systemd_box.output("ip", "netns", "del", "blue")
    wait_until(lambda: "witness" not in service.devices("red"), what="the death of the namespace")
    systemd_box.output("kill", "-KILL", str(pid))
    wait_until(lambda: service.state == "active" and service.pid not in (0, pid), what="the service is back")
    found = wait_until(lambda: service.get("/v1/health")["reconciled"], what="the start's end")
    assert (found["adopted"], found["lost"]) == (1, 1)
    assert service.wait_pairs(lambda pairs: "va" in pairs)["va"]["state"] == "waiting"
    said = wait_until(lambda: systemd_box.show("vethd.service", "StatusText"))
    assert said.startswith("1 pairs, 1 waiting; at the start 1 adopted, 1 lost"), said
    vethctl = str(VETHD.with_name("vethctl"))
    assert "at start 1 adopted, 1 lost" in systemd_box.output(vethctl, "--socket", CONTROL, "doctor", "--json")
    assert service.devices("red") == {"vc"}
