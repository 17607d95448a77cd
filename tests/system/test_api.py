"""The control socket of a real daemon: every request and every refusal, over HTTP."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.lib.daemon import UnixConnection
from tests.lib.frames import sized
from tests.lib.lab import Lab, Wire
from tests.lib.site import Site
from tests.lib.sockets import ping
from tests.lib.wait import wait_until
from vethd.doors.routing import BODY_MAX
from vethd.model.api import Health, LinkInfo, LinkStats, PairInfo, Saved
from vethd.model.spec import LinkSpec


@pytest.fixture
def live(lab: Lab) -> tuple[Wire, tuple[str, str]]:
    """Return a pair that forwards, and its addresses."""
    wire = lab.pair(lab.netns("a"), lab.netns("b"))
    wire.up()
    return wire, wire.addresses()


def ask(site: Site, method: str, path: str, body: Any = None, *, data: bytes = b"") -> tuple[int, Any]:
    return site.daemon.request(method, path, msgspec.json.encode(body) if body is not None else data or None)


def refused(reply: tuple[int, Any]) -> tuple[int, str]:
    """Return (status, code) of a refusal whose body is as it should be."""
    status, body = reply
    assert status >= 400
    assert set(body) == {"code", "errno", "message"}
    assert body["message"]
    if body["errno"]:
        assert getattr(errno, body["code"]) == body["errno"]
    return status, body["code"]


def of(kind: Any, body: Any) -> Any:
    """Read a reply as its type; what is too much or too little is an error."""
    value = msgspec.convert(body, kind, strict=True)
    assert msgspec.to_builtins(value) == body
    return value


def vars_of(struct: msgspec.Struct) -> dict[str, Any]:
    return dict(msgspec.structs.asdict(struct))


# --- each request


def test_a_pair_s_life(site: Site, lab: Lab) -> None:
    a, b = lab.netns("a"), lab.netns("b")
    peer = {"name": "vb", "netns": b.name, "mtu": 1400}
    status, body = ask(site, "POST", "/v1/pairs", {"name": "va", "netns": a.name, "rx_checksum": "trust", "peer": peer})
    info = of(PairInfo, body)
    assert (status, info.state, info.source, info.reason) == (201, "alive", "runtime", "")
    assert (info.rx_checksum, info.spec.peer) == ("trust", LinkSpec(**peer))  # type: ignore[arg-type]
    assert [(link.name, link.netns, link.mtu) for link in info.links] == [("va", a.name, 1500), ("vb", b.name, 1400)]
    path = f"/v1/pairs/{info.id}"
    assert ask(site, "GET", path) == (200, body) or of(PairInfo, ask(site, "GET", path)[1]).id == info.id
    assert [pair["id"] for pair in ask(site, "GET", "/v1/pairs")[1]] == [info.id]
    status, body = ask(site, "PATCH", path, {"up": True, "peer": {"up": True, "alias": "far"}})
    changed = of(PairInfo, body)
    assert (status, changed.links[0].up, changed.links[1].alias) == (200, True, "far")
    lab.wire(a, b).wait_carrier()
    assert ask(site, "DELETE", path) == (204, None)
    assert (a.names(), b.names()) == (set(), set())
    assert refused(ask(site, "DELETE", path)) == (404, "ENOENT")
    assert refused(ask(site, "GET", path)) == (404, "ENOENT")
    assert refused(ask(site, "PATCH", path, {"mtu": 1400})) == (404, "ENOENT")


def test_links(site: Site, live: tuple[Wire, Any]) -> None:
    wire, _ = live
    a, b = wire.a.netns, wire.b.netns
    # the kernel's news of what we see at the devices are on their way to the daemon
    wait_until(lambda: [link["operstate"] for link in ask(site, "GET", "/v1/links")[1]] == ["up", "up"])
    status, body = ask(site, "GET", "/v1/links")
    near, far = of(list[LinkInfo], body)
    assert (status, near.name, far.name) == (200, "va", "vb")
    for link, end, peer in ((near, wire.a, wire.b), (far, wire.b, wire.a)):
        seen = end.link
        assert (link.ifindex, link.address, link.mtu) == (seen.ifindex, seen.address, seen.mtu)
        assert (link.netns, link.netns_inode) == (end.netns.name, end.netns.path.stat().st_ino)
        assert (link.peer_name, link.peer_netns, link.peer_ifindex) == (peer.name, peer.netns.name, peer.link.ifindex)
        assert (link.up, link.carrier, link.operstate) == (True, True, "up")
    for path in (f"/v1/links/va?netns={a.name}", "/v1/links/va", f"/v1/links/va?netns={a.path}"):
        assert ask(site, "GET", path)[1]["name"] == "va", path
    assert ask(site, "PATCH", f"/v1/links/vb?netns={b.name}", {"mtu": 1300})[1]["mtu"] == 1300
    assert wire.b.link.mtu == 1300
    assert refused(ask(site, "GET", f"/v1/links/va?netns={b.name}")) == (404, "ENODEV")
    assert refused(ask(site, "GET", "/v1/links/va?netns=")) == (404, "ENODEV")
    assert refused(ask(site, "GET", "/v1/links/vx")) == (404, "ENODEV")
    assert refused(ask(site, "GET", "/v1/links/vx/stats")) == (404, "ENODEV")
    assert refused(ask(site, "PATCH", "/v1/links/vx", {"mtu": 1300})) == (404, "ENODEV")
    assert refused(ask(site, "DELETE", "/v1/links/vx")) == (404, "ENODEV")
    assert ask(site, "DELETE", "/v1/links/vb") == (204, None)
    assert (a.names(), b.names()) == (set(), set())


def test_name_in_several_namespaces(site: Site, lab: Lab) -> None:
    """Say which; the daemon's own is netns= and nothing."""
    a = lab.netns("a")
    site.post({"name": "va", "netns": a.name, "peer": {"name": "vb"}})
    site.post({"name": "vc", "netns": a.name, "peer": {"name": "va"}})
    assert refused(ask(site, "GET", "/v1/links/va")) == (409, "ENOTUNIQ")
    assert refused(ask(site, "DELETE", "/v1/links/va")) == (409, "ENOTUNIQ")
    assert ask(site, "GET", "/v1/links/va?netns=")[1]["peer_name"] == "vc"
    assert ask(site, "GET", f"/v1/links/va?netns={a.name}")[1]["peer_name"] == "vb"


@pytest.mark.parametrize("name", ["grün", "x?y=#z", "a+b&c", 'q"\\', "va@vb"])
def test_strange_names(site: Site, lab: Lab, name: str) -> None:
    """What the kernel takes, the API can name."""
    site.post({"name": name, "peer": {"name": "vb"}})
    path = site.daemon.link_path(name, "")
    assert ask(site, "GET", path)[1]["name"] == name
    assert ask(site, "GET", site.daemon.link_path(name, "", "/stats"))[1]["name"] == name
    assert lab.backend.home.names() == {name, "vb"}
    assert ask(site, "DELETE", path) == (204, None)


def all_counted(site: Site, wire: Wire) -> None:
    """Wait until kernel and daemon have counted what has arrived: both do so after they have delivered it."""
    wire.wait_balanced()

    def counted() -> bool:
        stats = ask(site, "GET", "/v1/stats")[1]
        return all(one["in_flight"] == 0 and one["read"] == one["tx_packets"] for one in stats)

    wait_until(counted, what="all that was sent read and none of it in flight")


def test_stats_agree_with_the_kernel(site: Site, live: tuple[Wire, tuple[str, str]]) -> None:
    wire, (near, far) = live
    ping(wire.a.netns, near, wire.b.netns, far)
    with wire.a.packet() as sender:
        for n in range(20):
            sender.send(sized(100, n))
    wait_until(lambda: wire.b.link.stats.rx_packets >= 22)
    all_counted(site, wire)
    status, body = ask(site, "GET", "/v1/stats")
    assert status == 200
    for stats, end in zip(of(list[LinkStats], body), (wire.a, wire.b), strict=True):
        seen = end.link.stats
        assert (stats.name, stats.netns) == (end.name, end.netns.name)
        for key in ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_dropped", "tx_dropped"):
            assert vars_of(stats)[key] == getattr(seen, key), key
        assert (stats.read, stats.read_bytes) == (stats.tx_packets, stats.tx_bytes)
        engine = sum(count for reason, count in stats.drops.items() if not reason.startswith("kernel_"))
        assert stats.read == stats.forwarded + engine + stats.in_flight
        assert sum(stats.drops.values()) - engine == stats.tx_dropped
        assert of(LinkStats, ask(site, "GET", f"/v1/links/{end.name}/stats")[1]).name == end.name


def test_metrics_agree_with_stats(site: Site, live: tuple[Wire, tuple[str, str]]) -> None:
    wire, (near, far) = live
    ping(wire.a.netns, near, wire.b.netns, far)
    all_counted(site, wire)
    connection = UnixConnection(site.socket)
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    assert response.status == 200
    assert (response.getheader("Content-Type") or "").startswith("text/plain")
    samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.name.startswith("vethd_")
        for sample in family.samples:
            key = (sample.name, *(sample.labels.get(label, "") for label in ("link", "netns", "reason", "le")))
            assert key not in samples, "a series stands there once"
            samples[key] = sample.value
    names = {
        "receive_packets": "rx_packets", "receive_bytes": "rx_bytes", "transmit_packets": "tx_packets",
        "transmit_bytes": "tx_bytes", "read_packets": "read", "forwarded_packets": "forwarded",
        "carrier_changes": "carrier_changes",
    }  # fmt: skip
    for stats in of(list[LinkStats], ask(site, "GET", "/v1/stats")[1]):
        for name, field in names.items():
            assert samples[f"vethd_link_{name}_total", stats.name, stats.netns, "", ""] == vars_of(stats)[field], name
        for reason, count in stats.drops.items():
            assert samples["vethd_link_drops_total", stats.name, stats.netns, reason, ""] == count
        assert samples["vethd_link_carrier", stats.name, stats.netns, "", ""] == 1
        assert samples["vethd_link_mtu_bytes", stats.name, stats.netns, "", ""] == 1500
        assert samples["vethd_link_latency_seconds_count", stats.name, stats.netns, "", ""] == stats.read
    assert samples["vethd_pairs", "", "", "", ""] == 1
    assert samples["vethd_pairs_waiting", "", "", "", ""] == 0


def test_health_save_reload_and_schema(site: Site, lab: Lab) -> None:
    health = of(Health, ask(site, "GET", "/v1/health")[1])
    assert (health.pid, health.pairs, health.waiting) == (site.daemon.pid, 0, 0)
    assert health.netns_inode == lab.backend.home.path.stat().st_ino
    status, body = ask(site, "POST", "/v1/save")
    assert (status, of(Saved, body)) == (200, Saved(pairs=0, file=str(site.state / "pairs.json")))
    assert ask(site, "POST", "/v1/reload") == (200, {"created": 0, "changed": 0, "deleted": 0, "waiting": 0})
    status, document = ask(site, "GET", "/v1/openapi.json")
    assert (status, document["openapi"][:2]) == (200, "3.")


# --- refusals


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"name": "sixteen-bytes-xx"}, (400, "ERANGE")),
        ({"name": "a/b"}, (400, "EINVAL")),
        ({"mtu": 67}, (400, "EINVAL")),
        ({"peer": {"mtu": 65522}}, (400, "EINVAL")),
        ({"address": "01:00:00:00:00:01"}, (400, "EADDRNOTAVAIL")),
        ({"peer": {"address": "02:00"}}, (400, "EINVAL")),
        ({"peer": {"up": True}}, (400, "ENOTCONN")),
        ({"netns": "no-such-netns"}, (404, "ENOENT")),
        ({"peer": {"netns": "/no/such/netns"}}, (404, "ENOENT")),
        ({"netns": "4194305"}, (404, "ESRCH")),
        ({"netns": "/dev/null"}, (400, "EINVAL")),
        ({"netns": "/"}, (400, "EINVAL")),
        ({"netns": "fd:0"}, (400, "EBADF")),
        ({"name": "vx", "peer": {"name": "vx"}}, (409, "EEXIST")),
        ({"name": "lo"}, (409, "EEXIST")),
        ({"name": "vx", "master": "no-bridge"}, (404, "ENODEV")),
        ({"name": "vx", "peer": {"name": "vy", "master": "no-bridge"}}, (404, "ENODEV")),
        ({"nmae": "vx"}, (400, "EINVAL")),
        ({"peer": {"rx_checksum": "trust"}}, (400, "EINVAL")),
    ],
    ids=str,
)
def test_refusal_leaves_nothing(site: Site, lab: Lab, body: Any, answer: tuple[int, str]) -> None:
    assert refused(ask(site, "POST", "/v1/pairs", body)) == answer
    assert lab.backend.home.names() == set()
    assert ask(site, "GET", "/v1/pairs") == (200, [])


def test_netns_that_is_a_fifo_is_refused_at_once(site: Site, lab: Lab, tmp_path: Path) -> None:
    """Opening one waits for a writer: nobody may make the daemon wait for ever."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    try:
        for body in ({"netns": str(fifo)}, {"peer": {"netns": str(fifo)}}):
            connection = UnixConnection(site.socket)
            connection.request("POST", "/v1/pairs", json.dumps(body))
            assert connection.getresponse().status == 400
            connection.close()
    finally:
        os.close(os.open(fifo, os.O_RDWR))  # whoever waits in vain is let go
    lab.pair(lab.netns(), lab.netns())


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/pairs/p1/x", "/v2/pairs"])
def test_no_such_path(site: Site, path: str) -> None:
    assert refused(ask(site, "GET", path)) == (404, "PATH")


@pytest.mark.parametrize(
    "path", ["/v1/pairs", "/v1/health", "/v1/stats", "/v1/links/va", "/v1/events", "/metrics", "/v1/openapi.json"]
)
@pytest.mark.parametrize("method", ["PUT", "OPTIONS"])
def test_no_such_method(site: Site, method: str, path: str) -> None:
    assert refused(ask(site, method, path)) == (405, "METHOD")


@pytest.mark.parametrize(
    "data", [b"{", b"nonsense", b"[]", b'{"mtu": "1500"}', b'{"name": "\xff"}', b'{"mtuu": 1}', b"\0" * 100]
)
def test_malformed_body(site: Site, lab: Lab, data: bytes) -> None:  # noqa: ARG001 - proves that nothing stays
    assert refused(ask(site, "POST", "/v1/pairs", data=data)) == (400, "EINVAL")


@pytest.mark.parametrize("chunked", [False, True])
def test_body_over_the_limit(site: Site, lab: Lab, chunked: bool) -> None:
    """64 KiB are read, a byte more is not; whether its length was said or not."""
    fits = json.dumps({"name": "vx", "peer": {"name": "vy"}}).encode()
    fits += b" " * (BODY_MAX - len(fits))

    def post(data: bytes) -> tuple[int, Any]:
        connection = UnixConnection(site.socket)
        pieces = iter([data[:1000], data[1000:]])
        connection.request("POST", "/v1/pairs", pieces if chunked else data, encode_chunked=chunked)
        response = connection.getresponse()
        body = json.loads(response.read())
        connection.close()
        return response.status, body

    assert refused(post(fits + b" ")) == (413, "E2BIG")
    status, body = post(fits)
    assert status == 201
    assert ask(site, "DELETE", f"/v1/pairs/{body['id']}") == (204, None)
    lab.pair(lab.netns(), lab.netns())


def test_connection_serves_many_requests(site: Site) -> None:
    connection = UnixConnection(site.socket)
    for path, status in (("/v1/health", 200), ("/v1/nothing", 404), ("/v1/pairs", 200)):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        assert response.status == status
    connection.close()
