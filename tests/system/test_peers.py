"""Callers who are no administrators: what they may do, what they are shown, and what they cannot take from others."""

from __future__ import annotations

import errno
import grp
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.lib.daemon import UnixConnection
from tests.lib.lab import End, Lab, Wire
from tests.lib.others import ALICE, BOB, HeldNetns, Other
from tests.lib.site import Site, fd_call
from tests.lib.site import site as make_site
from tests.lib.sockets import ping
from tests.lib.stranger import LINGER_S
from tests.lib.wait import wait_until
from vethd.doors.callers import CONNECTIONS
from vethd.doors.insight import FILTER_MAX

QUOTA = 3
GROUP = "daemon"  # one that every Debian has, and that nobody is in


@pytest.fixture(scope="module")
def site(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:  # noqa: ARG001 - the check that we may
    with make_site(tmp_path_factory.mktemp("peers")) as (it, _):
        it.configure(f'quota = {QUOTA}\nadmin_group = "{GROUP}"')
        it.directory.chmod(0o755)
        it.start()
        it.count_idle()
        yield it


@pytest.fixture
def user(site: Site, lab: Lab) -> Iterator[Callable[..., Other]]:  # noqa: ARG001 - they end before it does
    """Yield a function that starts another user."""
    with ExitStack() as stack:
        yield lambda *args, **more: stack.enter_context(Other(site.socket, *args, **more))


@pytest.fixture
def alice(user: Callable[..., Other]) -> Other:
    return user(ALICE)


@pytest.fixture
def bob(user: Callable[..., Other]) -> Other:
    return user(BOB)


def refused(answer: tuple[int, Any]) -> tuple[int, str]:
    status, body = answer
    assert status >= 400, body
    assert body["errno"] == getattr(errno, body["code"])
    return status, body["code"]


def test_anybody_may_connect(site: Site) -> None:
    for path in (site.socket, Path(f"{site.socket}.fd")):
        assert path.stat().st_mode & 0o777 == 0o666


def test_pair_between_namespaces_of_his_own(site: Site, alice: Other) -> None:
    a, b = alice.netns(), alice.netns()
    status, pair = alice.pair(a, b, up=True)
    assert (status, pair["owner"]) == (201, ALICE)
    assert [link["netns_inode"] for link in pair["links"]] == [a.inode, b.inode]
    wire = Wire(End(a, "va"), End(b, "vb"))
    wire.up()
    near, far = wire.addresses()
    ping(a, near, b, far)
    assert alice.http("PATCH", f"/v1/pairs/{pair['id']}", {"mtu": 1400, "alias": "mine", "gro": False})[0] == 200
    assert (wire.a.link.mtu, wire.b.link.mtu) == (1400, 1500)
    assert alice.http("PATCH", "/v1/links/vb", {"name": "vz", "address": "02:00:00:00:00:99"})[0] == 200
    assert b.names() == {"vz"}
    shown = alice.http("GET", "/v1/pairs")[1]
    assert [(one["id"], one["spec"]["alias"], one["links"][0]["alias"]) for one in shown] == [
        (pair["id"], "mine", "mine")
    ]
    assert [one["name"] for one in alice.http("GET", "/v1/stats")[1]] == ["va", "vz"]
    assert 'vethd_link_carrier{link="va"' in alice.http("GET", "/metrics")[1]
    assert alice.http("GET", "/v1/health")[1]["owner"] == ALICE
    assert alice.http("DELETE", "/v1/links/vz") == (204, "")
    assert a.names() | b.names() == set()
    assert site.daemon.pairs() == []


@pytest.mark.parametrize("nested", [1, 3])
def test_what_is_nested_in_his_is_his(alice: Other, nested: int) -> None:
    """As a container in his container is."""
    a, b = alice.netns(nested), alice.netns()
    assert alice.pair(a, b)[0] == 201


def test_a_namespace_that_nobody_lives_in_is_his_still(alice: Other) -> None:
    a = alice.netns()  # who made it has ended, with his user namespace
    assert alice.fd("POST", "/v1/pairs", {"netns": "fd:0", "name": "va"}, [a.fd])[0] == 201
    assert len(a.names()) == 2, "a peer of which nothing is said follows"


@pytest.mark.parametrize("end", ["near", "far"])
@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("home", (403, "EPERM")),  # root's network namespace
        ("user", (400, "EINVAL")),
        ("mnt", (400, "EINVAL")),
        ("file", (400, "EINVAL")),
        ("null", (400, "EINVAL")),
    ],
)
def test_what_is_no_namespace_of_his(alice: Other, what: str, answer: tuple[int, str], end: str) -> None:
    net, users, mounts = alice.ask("hold")
    wrong = {"user": users, "mnt": mounts}.get(what, what)
    fds = [wrong, net] if end == "near" else [net, wrong]
    body = {"name": "va", "netns": "fd:0", "peer": {"name": "vb", "netns": "fd:1"}}
    assert refused(alice.fd("POST", "/v1/pairs", body, fds)) == answer
    assert HeldNetns(alice.pid, net).names() == set()


@pytest.mark.parametrize("nested", [0, 2])
def test_another_users_namespace(site: Site, bob: Other, user: Callable[..., Other], nested: int) -> None:
    """Even where its fd has come to him."""
    theirs = bob.netns(nested)
    with closing(os.fdopen(os.open(theirs.path, os.O_RDONLY))) as file:
        alice = user(ALICE, inherited=[file.fileno()])
        mine = alice.netns()
        body = {"name": "va", "netns": "fd:0", "peer": {"name": "vb", "netns": "fd:1"}}
        answer = alice.fd("POST", "/v1/pairs", body, [mine.fd, file.fileno()])
        assert refused(answer) == (403, "EPERM")
        assert f"uid {ALICE}" in answer[1]["message"]
    assert mine.names() | theirs.names() == set()
    assert site.daemon.pairs() == []


@pytest.mark.parametrize("word", ["NAME", "/run/netns/NAME", "PID", None, "", "/etc/shadow", "no-such"])
def test_no_words_for_namespaces_from_him(lab: Lab, alice: Other, word: str | None) -> None:
    """Whatever there is at the end of the word, the answer is the same: nothing is opened to see."""
    said = word and word.replace("NAME", lab.netns().name).replace("PID", str(alice.pid))
    mine = alice.netns()
    for body in (
        {"netns": said},
        {"netns": "fd:0", "peer": {"netns": said}},
        {"netns": said, "peer": {"netns": "fd:0"}},
    ):
        for answer in (alice.fd("POST", "/v1/pairs", body, [mine.fd]), alice.http("POST", "/v1/pairs", body)):
            assert refused(answer) == (403, "EPERM")
            assert "send the file descriptor" in answer[1]["message"]
    assert mine.names() == set()


def test_other_peoples_pairs(site: Site, lab: Lab, alice: Other, bob: Other) -> None:
    """Root's and another user's: he sees that they are there, and can do nothing to them."""
    a, b = lab.netns("a"), lab.netns("b")
    site.post(
        {"name": "ra", "netns": a.name, "alias": "secret", "altname": "hidden", "peer": {"name": "rb", "netns": b.name}}
    )
    assert bob.pair(bob.netns(), bob.netns())[0] == 201
    before = site.daemon.pairs()
    devices = a.names() | b.names()
    for pair in alice.http("GET", "/v1/pairs")[1]:
        whole = next(one for one in before if one["id"] == pair["id"])
        assert (pair["state"], pair["owner"], pair["spec"]) == ("alive", whole["owner"], {})
        assert [(link["name"], link["netns"]) for link in pair["links"]] == [
            (link["name"], link["netns"]) for link in whole["links"]
        ]
        one = alice.http("GET", f"/v1/pairs/{pair['id']}")[1]
        told = [*pair["links"], *one["links"], *alice.http("GET", "/v1/links")[1]]
        told.append(alice.http("GET", f"/v1/links/{pair['links'][0]['name']}")[1])
        assert {(link["address"], link["alias"], link["altname"], link["master"]) for link in told} == {("",) * 4}
        for method, body in (("PATCH", {"mtu": 1400}), ("PATCH", {}), ("DELETE", None)):
            assert refused(alice.http(method, f"/v1/pairs/{pair['id']}", body)) == (403, "EPERM")
            for link in pair["links"]:
                assert refused(alice.http(method, f"/v1/links/{link['name']}?netns={link['netns']}", body)) == (
                    403,
                    "EPERM",
                )
                for what in ("stats", "drops", "latency"):
                    assert refused(alice.http("GET", f"/v1/links/{link['name']}/{what}")) == (403, "EPERM")
        assert refused(alice.http("GET", f"/v1/pairs/{pair['id']}/drops")) == (403, "EPERM")
        assert refused(alice.fd("POST", f"/v1/pairs/{pair['id']}/capture", {})) == (403, "EPERM")
    assert alice.http("GET", "/v1/stats") == alice.http("GET", "/v1/latency") == (200, [])
    assert alice.http("GET", "/v1/drops")[1]["frames"] == []
    assert "vethd_link_carrier{" not in alice.http("GET", "/metrics")[1]
    assert [(pair["id"], pair["spec"]) for pair in site.daemon.pairs()] == [
        (pair["id"], pair["spec"]) for pair in before
    ]
    assert (End(a, "ra").link.mtu, a.names() | b.names()) == (1500, devices)
    assert "secret" not in json.dumps(alice.http("GET", "/v1/pairs"))


def test_captures_of_his_own(alice: Other) -> None:
    """Within his quota of memory, and with a filter that does not take long."""
    pair = alice.pair(alice.netns(), alice.netns(), up=True)[1]["id"]
    path = f"/v1/pairs/{pair}/capture"
    status, info = alice.fd("POST", path, {"filter": [[6, 0, 0, 1]], "buffer": 1 << 20})
    assert (status, info["pair"], info["room"]) == (200, pair, 1 << 19)
    assert refused(alice.fd("POST", path, {"buffer": 64 << 20})) == (403, "EDQUOT")
    assert refused(alice.fd("POST", path, {"filter": [[0, 0, 0, 0]] * FILTER_MAX + [[6, 0, 0, 1]]})) == (403, "EDQUOT")
    assert refused(alice.fd("POST", path, {"filter": [[0, 0, 0, 0]]})) == (400, "EINVAL")
    assert alice.fd("POST", path, {"filter": [[0, 0, 0, 0]] * (FILTER_MAX - 1) + [[6, 0, 0, 1]]})[0] == 200
    assert alice.http("DELETE", f"/v1/pairs/{pair}")[0] == 204


def test_events_without_others_details(lab: Lab, user: Callable[..., Other]) -> None:
    alice = user(ALICE)
    assert alice.ask("listen", "/v1/events") == 200
    wire = lab.pair(lab.netns("a"), lab.netns("b"))
    wire.a.set("mtu 1400")
    wire.b.set("name secret0")
    heard = alice.ask("hear", "link_renamed")
    assert {"pair_created", "link_changed", "link_renamed"} <= {event["event"] for event in heard}
    assert not [event for event in heard if event.get("detail")]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("PATCH", "/v1/engine", {"gro": True}), ("POST", "/v1/save", None), ("POST", "/v1/reload", None)],
)
def test_what_is_for_all_is_for_administrators(alice: Other, method: str, path: str, body: Any) -> None:
    assert refused(alice.http(method, path, body)) == (403, "EPERM")
    assert refused(alice.fd(method, path, body)) == (403, "EPERM")
    assert alice.http("GET", "/v1/engine")[0] == alice.http("GET", "/v1/openapi.json")[0] == 200


@pytest.mark.parametrize("groups", [0, 1, 300])
def test_a_member_of_the_admin_group_may_do_anything(
    site: Site, lab: Lab, user: Callable[..., Other], groups: int
) -> None:
    """Also where it is but one of 300 groups of his."""
    gid = grp.getgrnam(GROUP).gr_gid
    carol = user(ALICE, [*range(62_000, 62_000 + groups), gid])
    a, b = lab.netns("a"), lab.netns("b")
    status, pair = carol.http(
        "POST", "/v1/pairs", {"name": "va", "netns": a.name, "peer": {"name": "vb", "netns": b.name}}
    )
    assert (status, pair["owner"], pair["links"][0]["address"]) == (
        201,
        0,
        site.daemon.pairs()[0]["links"][0]["address"],
    )
    assert carol.http("GET", "/v1/health")[1]["owner"] == 0
    assert carol.http("PATCH", "/v1/engine", {"gro": True})[0] == 200
    assert carol.http("DELETE", f"/v1/pairs/{pair['id']}")[0] == 204


def test_his_links_stand_in_nobodys_way(site: Site, lab: Lab, alice: Other, bob: Other) -> None:
    """A name means one's own link first, root's too."""
    a, b = lab.netns("a"), lab.netns("b")
    site.post({"name": "va", "netns": a.name, "peer": {"name": "vb", "netns": b.name}})
    mine = {who: who.netns() for who in (alice, bob)}
    for who, netns in mine.items():
        assert who.pair(netns, netns, altname="ra@rb")[0] == 201
    assert site.daemon.request("GET", "/v1/links/va")[1]["netns"] == a.name
    for who, netns in mine.items():
        assert who.http("GET", "/v1/links/va")[1]["netns_inode"] == netns.inode
        assert who.http("PATCH", "/v1/links/va", {"mtu": 1234})[1]["netns_inode"] == netns.inode
    assert site.daemon.request("PATCH", "/v1/links/va", b'{"mtu": 1300}')[1]["netns"] == a.name
    assert site.daemon.request("DELETE", "/v1/links/va")[0] == 204
    assert (a.names(), mine[alice].names()) == (set(), {"va", "vb"})
    # of two strangers' links root has to say which, as of two of his own
    assert site.daemon.request("GET", "/v1/links/va")[0] == 409


def test_moves(site: Site, alice: Other, bob: Other) -> None:
    a, b, c = alice.netns(), alice.netns(), alice.netns()
    assert alice.pair(a, b)[0] == 201
    status, link = alice.fd("PATCH", "/v1/links/vb", {"netns": "fd:0"}, [c.fd])
    assert (status, link["netns_inode"]) == (200, c.inode)
    for body, fds in (({"netns": "fd:0"}, ["home"]), ({"netns": ""}, []), ({"netns": str(bob.pid)}, [])):
        assert refused(alice.fd("PATCH", "/v1/links/vb", body, fds)) == (403, "EPERM")
        assert refused(alice.fd("PATCH", f"/v1/pairs/{site.daemon.pairs()[0]['id']}", {"peer": body}, fds)) == (
            403,
            "EPERM",
        )
    assert c.names() == {"vb"}


def test_an_end_that_root_took_is_no_lever(site: Site, lab: Lab, alice: Other) -> None:
    """Root moved it into a namespace of his: there the user changes nothing. His pair it is, to delete."""
    red = lab.netns("red")
    red.ip("link add br0 type bridge")
    a = alice.netns()
    pair = alice.pair(a, a)[1]
    with red.path.open("rb") as file:
        move = {"peer": {"netns": "fd:0"}}
        assert fd_call(site.socket, "PATCH", f"/v1/pairs/{pair['id']}", move, [file.fileno()])[0] == 200
    for body in ({"master": "br0"}, {"name": "lo2"}, {"up": True}, {"address": "02:00:00:00:00:01"}, {"alias": "x"}):
        assert refused(alice.http("PATCH", "/v1/links/vb", body)) == (403, "EPERM")
        assert refused(alice.http("PATCH", f"/v1/pairs/{pair['id']}", {"peer": body})) == (403, "EPERM")
    assert red.names() == {"br0", "vb"}
    assert alice.http("DELETE", f"/v1/pairs/{pair['id']}")[0] == 204
    assert red.names() == {"br0"}


def test_a_master_is_looked_for_in_his_namespace(site: Site, alice: Other) -> None:
    site.home.ip("link add br0 type bridge")
    try:
        a = alice.netns()
        assert refused(alice.pair(a, a, master="br0")) == (404, "ENODEV")
        a.ip("link add br0 type bridge")
        assert alice.pair(a, a, master="br0")[0] == 201
        assert "va" in a.command("ip", "link", "show", "master", "br0")
    finally:
        site.home.ip("link del br0")


def test_quota(site: Site, alice: Other, bob: Other) -> None:
    a = alice.netns()

    def another(number: int, **more: Any) -> tuple[int, Any]:
        return alice.pair(a, a, name=f"a{number}", peer={"name": f"b{number}", "netns": "fd:0"}, **more)

    made = [another(number) for number in range(QUOTA)]
    assert [status for status, _ in made] == [201] * QUOTA
    over = another(QUOTA)
    assert refused(over) == (403, "EDQUOT")
    assert f"uid {ALICE} may have {QUOTA} pairs" in over[1]["message"]
    assert bob.pair(bob.netns(), bob.netns())[0] == 201, "it is each user's own"
    assert alice.http("DELETE", f"/v1/pairs/{made[0][1]['id']}")[0] == 204
    assert another(QUOTA)[0] == 201
    a.ip("link del a1")
    wait_until(lambda: len(site.daemon.pairs()) == QUOTA)
    assert refused(another(0, queues=2)) == (403, "EDQUOT"), "queues take descriptors as pairs do"
    assert another(0)[0] == 201


def test_pairs_of_his_are_not_saved(site: Site, lab: Lab, alice: Other) -> None:
    """Nor does one keep root from saving: its namespaces have no names."""
    assert alice.pair(alice.netns(), alice.netns())[0] == 201
    lab.pair(lab.netns("a"), lab.netns("b"))
    status, saved = site.daemon.request("POST", "/v1/save")
    assert (status, saved["pairs"]) == (200, 1)
    assert site.daemon.request("DELETE", "/v1/links/va")[0] == 204  # root's, and out of the file


def test_a_config_that_names_such_a_pair_does_not_take_it_over(site: Site, lab: Lab, alice: Other) -> None:
    """Root gave his namespace a name, and declares a pair there: that is taken, and waits."""
    a = alice.netns()
    assert alice.pair(a, a)[0] == 201
    name = lab.netns().name
    subprocess.run(["umount", f"/run/netns/{name}"], check=True)
    subprocess.run(["mount", "--bind", str(a.path), f"/run/netns/{name}"], check=True)
    more = f'[[pair]]\nname = "va"\nnetns = "{name}"\n[pair.peer]\nname = "vb"\nnetns = "{name}"\n'
    settings = f'quota = {QUOTA}\nadmin_group = "{GROUP}"\n'
    try:
        site.configure(settings + more)
        assert site.reload()["waiting"] == 1
        assert [(pair["owner"], pair["state"]) for pair in site.daemon.pairs()] == [(ALICE, "alive"), (0, "waiting")]
    finally:
        site.configure(settings)
        assert site.reload()["deleted"] == 1


def test_connections(site: Site, alice: Other, bob: Other) -> None:
    """He has so many for both sockets together; nobody else misses them."""
    http, fd = alice.ask("idle", CONNECTIONS)
    assert http + fd == CONNECTIONS
    assert refused(alice.http("GET", "/v1/health")) == refused(alice.fd("GET", "/v1/health")) == (403, "EDQUOT")
    done = vethctl(site, ALICE, "show")
    assert (done.returncode, done.stderr.startswith("vethctl: connect: too many ")) == (1, True), done.stderr
    assert bob.http("GET", "/v1/health")[0] == bob.fd("GET", "/v1/health")[0] == 200
    assert site.daemon.request("GET", "/v1/health")[0] == fd_call(site.socket, "GET", "/v1/health")[0] == 200
    alice.ask("quiet")
    wait_until(lambda: alice.http("GET", "/v1/health")[0] == 200)


def test_descriptors_that_take_for_ever_to_close(site: Site, lab: Lab, alice: Other, bob: Other) -> None:
    """They are closed where nobody waits for it, and count as connections until they are."""
    wire = lab.pair(lab.netns("a"), lab.netns("b"))
    wire.up()
    near, far = wire.addresses()
    assert alice.ask("tie", CONNECTIONS) == [200] * CONNECTIONS
    for _ in range(3):
        ping(wire.a.netns, near, wire.b.netns, far)
        assert site.daemon.request("GET", "/v1/health")[0] == 200
        assert bob.http("GET", "/v1/health")[0] == 200
    assert refused(alice.http("GET", "/v1/health")) == (403, "EDQUOT")
    alice.ask("quiet")
    wait_until(lambda: alice.http("GET", "/v1/health")[0] == 200)


@pytest.mark.parametrize("full", [False, True], ids=["let-in", "refused"])
@pytest.mark.parametrize("how", ["second", "many", "http"])
def test_descriptors_that_nobody_asked_for(site: Site, alice: Other, bob: Other, how: str, full: bool) -> None:
    """Whoever throws them away waits for them, so that is not the daemon: it answers others meanwhile."""
    if full:
        alice.ask("idle", CONNECTIONS)
    with site.daemon.stopped():  # they are in the socket before it looks
        alice.ask("litter", how)
    began = time.monotonic()
    for _ in range(3):
        assert site.daemon.request("GET", "/v1/health")[0] == 200
        assert bob.fd("GET", "/v1/health")[0] == 200
    assert time.monotonic() - began < LINGER_S / 2  # it did not wait for one
    alice.ask("quiet")
    wait_until(lambda: alice.http("GET", "/v1/health")[0] == 200)


VETHCTL = """
import http.client, sys
exec(open(sys.argv[1]).read(), stranger := {"__name__": "stranger"})
from vethd.control import main
stranger["become"](int(sys.argv[2]), [int(sys.argv[2])])
sys.argv[:] = ["vethctl", *sys.argv[3:]]
main.main()
"""


def vethctl(site: Site, uid: int, *args: str) -> subprocess.CompletedProcess[str]:
    """Run it as that user, who need not be able to read it; where the socket is, as its directory is root's."""
    stranger = str(Path(__file__).parents[1] / "lib" / "stranger.py")
    argv = [sys.executable, "-c", VETHCTL, stranger, str(uid), "--socket", site.socket.name, *args]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(argv, cwd=site.directory, env=env, capture_output=True, text=True, check=False, timeout=30.0)


def test_vethctl_sends_what_he_may_not_name(site: Site, lab: Lab, alice: Other) -> None:
    """Paths and names are opened with his own rights, without a word from him."""
    a, b = alice.netns(), alice.netns()
    ends = ["va", "--netns", str(a.path), "--peer", "vb", "--peer-netns", str(b.path)]
    done = vethctl(site, ALICE, "add", *ends, "--up", "--peer-up")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [pair["owner"] for pair in site.daemon.pairs()] == [ALICE]
    wire = Wire(End(a, "va"), End(b, "vb"))
    wire.wait_carrier()
    done = vethctl(site, ALICE, "set", "vb", "--netns", str(a.path))
    assert (done.returncode, done.stderr, a.names()) == (0, "", {"va", "vb"})
    for what in (["--netns", lab.netns().name], []):  # root's, which anybody may open; his own, which is root's
        done = vethctl(site, ALICE, "add", "no", *what)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(
            "vethctl: newlink no: the namespace sent as 'fd:0' does not belong to a user namespace"
        )
    done = vethctl(site, BOB, "del", "va")
    assert (done.returncode, done.stderr) == (1, "vethctl: dellink va: the pair belongs to another user\n")
    assert vethctl(site, ALICE, "del", "va").returncode == 0


def test_root_prunes_no_users_pairs(site: Site, alice: Other, tmp_path: Path) -> None:
    assert alice.pair(alice.netns(), alice.netns())[0] == 201
    (tmp_path / "none.toml").write_text("")
    file = str(tmp_path / "none.toml")
    assert vethctl(site, 0, "apply", "--prune", file).stdout == ""
    assert len(site.daemon.pairs()) == 1
    done = vethctl(site, BOB, "apply", "--prune", "/dev/null")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with closing(UnixConnection(site.socket)) as connection:
        connection.request("DELETE", f"/v1/pairs/{site.daemon.pairs()[0]['id']}")
        assert connection.getresponse().status == 204
