"""vethd-cni under real containerd, asked through CRI as a kubelet asks: docs/kubernetes.md."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lib.containerd import Containerd
from tests.lib.cri import CriError
from tests.lib.netns import command, in_netns
from tests.lib.wait import wait_until

pytestmark = pytest.mark.heavy

CIDRS = "10.77.0.0/24,fd77::/64"
GENERATED = "10-containerd-net.conflist"  # the name that containerd gives to what it makes of the template
GATEWAY = "10.77.0.1"
MANY = 10
FAILS_S = 10.0  # it is at once, on an idle machine
PORT = 7000


@pytest.fixture(scope="module")
def node(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:  # noqa: ARG001 - see conftest.py
    """Yield the module's own node; containerd made its configuration of our template."""
    directory = tmp_path_factory.mktemp("containerd")
    config = directory / "vethd.toml"
    config.write_text(f'persist = true\nstate_dir = "{directory}/state"\n')
    with ExitStack() as stack:
        host = Containerd(directory, "--config", str(config))
        stack.callback(host.close)
        assert not host.network_ready()
        host.configure(CIDRS)
        assert host.network_ready()
        yield host


def gone(node: Containerd, *pods: str) -> None:
    """Stop and remove pods, both twice; prove that nothing of any is left."""
    for pod in pods:
        for ask in (node.stop, node.stop, node.remove, node.remove):
            ask(pod)
    nothing_left(node)


def nothing_left(node: Containerd) -> None:
    """Wait until nothing of any pod is left."""
    left: dict[str, set[str]] = {}

    def nothing() -> bool:
        left.update(node.left())
        return not any(left.values())

    try:
        wait_until(nothing)
    except AssertionError as error:
        raise AssertionError(left) from error


def test_pods(node: Containerd) -> None:
    """Links, addresses, traffic between pods, published ports; and all of it goes."""
    first = node.run("first", (8080, 80))
    second = node.run("second")
    for pod in (first, second):
        link = node.link(pod)
        assert (link["linkinfo"]["info_kind"], link["linkinfo"]["info_data"]["type"]) == ("tun", "tap")
        assert [each["local"] for each in link["addr_info"] if each["scope"] == "global"] == node.addresses(pod)
    assert {one["container"] for one in node.get("/v1/attachments")} == {first, second}
    node.start("first", first, "/bin/httpd", "-f", "-p", "80", "-h", "/www")
    client = node.start("second", second, "/bin/sleep", "1000")
    for address in node.addresses(first):
        assert "1 packets received" in node.exec(client, "ping", "-c", "1", "-W", "10", address)[1]
    for at in (f"{node.addresses(first)[0]}:80", f"{GATEWAY}:8080"):
        assert node.exec(client, "wget", "-q", "-O", "-", f"http://{at}/page") == (0, "hello")
    for at in ("127.0.0.1", GATEWAY):
        assert node.command("busybox", "wget", "-q", "-O", "-", f"http://{at}:8080/page") == "hello"
    assert all(node.left().values()), node.left()
    node.stop(first)
    assert node.left()["attachments"] == {second}
    assert len(node.left()["ports"]) == 1
    gone(node, first, second)


def test_many_at_once(node: Containerd) -> None:
    """Each pod has an address of its own."""
    with ThreadPoolExecutor(MANY) as pool:
        pods = list(pool.map(node.run, [f"n{number}" for number in range(MANY)]))
        assert len({address for pod in pods for address in node.addresses(pod)}) == 2 * MANY
        list(pool.map(node.stop, pods))
    gone(node, *pods)


def test_configuration_renamed_within_its_directory(node: Containerd) -> None:
    """containerd notices it, without a restart, and notices that it is gone."""
    directory = node.directory / "net.d"
    written = (directory / GENERATED).read_text()
    (directory / GENERATED).unlink()
    wait_until(lambda: not node.network_ready(), what="no network")
    node.put("10-vethd.conflist", written)
    wait_until(node.network_ready, what="the network")
    gone(node, node.run("renamed"))
    (directory / "10-vethd.conflist").unlink()
    wait_until(lambda: not node.network_ready(), what="no network")
    node.configure(CIDRS)
    wait_until(node.network_ready, what="the network")


def test_bandwidth(node: Containerd) -> None:
    """A pod's annotations become token buckets, by a step after the attachment."""
    generated = node.directory / "net.d" / GENERATED
    conflist = json.loads(generated.read_text())
    conflist["plugins"].append({"type": "vethd-cni", "mode": "bandwidth", "capabilities": {"bandwidth": True}})
    node.put("00-bandwidth.conflist", json.dumps(conflist))
    limits = {"kubernetes.io/ingress-bandwidth": "1M", "kubernetes.io/egress-bandwidth": "20M"}

    def limited() -> str:
        pod = node.run("limited", annotations=limits)
        if not any(line.startswith("qdisc tbf") for line in node.command("tc", "qdisc", "show").splitlines()):
            gone(node, pod)
            return ""
        return pod

    pod = wait_until(limited, what="the new conflist loaded")
    (port,) = node.left()["ports"]
    assert tbf(node.netns.path, port) == 125_000
    assert tbf(node.netns_of(pod), "eth0") == 2_500_000
    (node.directory / "net.d" / "00-bandwidth.conflist").unlink()
    gone(node, pod)


def tbf(netns: Path, name: str) -> int:
    """Return the rate of a link's token bucket, in bytes per second."""
    shown = in_netns(netns, command, ["tc", "-json", "qdisc", "show", "dev", name, "root"])
    return int(json.loads(shown)[0]["options"]["rate"])


def test_no_daemon(node: Containerd) -> None:
    """No pod starts, and nothing of it is left; a pod that runs can be removed; the next one starts with the daemon."""
    before = node.run("before", (8080, 80))
    node.end(node.daemon)
    began = time.monotonic()
    with pytest.raises(CriError) as caught:
        node.run("none", (8081, 80))
    assert time.monotonic() - began < FAILS_S
    assert "vethd does not answer" in caught.value.text
    for _ in range(2):
        node.stop(before)
    node.remove(before)
    node.daemon = node.vethd()
    nothing_left(node)
    gone(node, node.run("after"))


def test_containerd_started_again(node: Containerd) -> None:
    """A running pod keeps its network, and is removed by the new containerd."""
    pod = node.run("pod")
    addresses = node.addresses(pod)
    node.end(node.containerd)
    node.start_containerd()
    assert (node.network_ready(), node.addresses(pod)) == (True, addresses)
    node.command("ping", "-c", "1", "-W", "10", addresses[0])
    gone(node, pod)


def persistent(node: Containerd, *pods: str) -> bool:
    """Ask the kernel whether all ends are persistent; they are only after they were written down."""
    near = json.loads(node.command("ip", "-json", "-details", "link", "show", "type", "tun"))
    links = [*near, *(node.link(pod) for pod in pods)]
    return all(link["linkinfo"]["info_data"]["persist"] for link in links if link)


@pytest.mark.parametrize("how", ["replaced", "killed"])
def test_daemon_started_again(node: Containerd, how: str) -> None:
    """A connection between two pods outlives it, and so do the attachments."""
    first, second = node.run("first"), node.run("second")
    address = (node.addresses(second)[0], PORT)
    with ExitStack() as stack:
        listener = stack.enter_context(in_netns(node.netns_of(second), socket.create_server, address))
        client = stack.enter_context(in_netns(node.netns_of(first), socket.create_connection, address, 20.0))
        server = stack.enter_context(listener.accept()[0])
        server.settimeout(20.0)
        old = node.daemon
        if how == "replaced":
            node.daemon = node.vethd("--replace")
            assert old.wait() == 0
        else:
            wait_until(lambda: persistent(node, first, second), what="devices that outlive the daemon")
            node.end(old, signal.SIGKILL)
            client.sendall(b"while it is away\n")
            node.daemon = node.vethd()
            assert server.recv(100) == b"while it is away\n"
        client.sendall(b"hello\n")
        assert server.recv(100) == b"hello\n"
        assert {one["container"] for one in node.get("/v1/attachments")} == {first, second}
    gone(node, first, second)


BRIDGED = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "vethd-cni",
            "bridge": "cni0",
            "isDefaultGateway": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "subnet": "10.77.1.0/24"},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
    ],
}
MASQUERADING = b"""
table ip pods {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip saddr 10.77.0.0/16 ip daddr != 10.77.0.0/16 masquerade
  }
}
"""
# as kube-proxy has it
SERVICE_ADDRESS = "10.96.0.10"
SERVICE = b"""
table ip services {
  chain prerouting { type nat hook prerouting priority dstnat; ip daddr 10.96.0.10 tcp dport 80 dnat to POD:7000; }
  chain postrouting { type nat hook postrouting priority srcnat; ip saddr POD ip daddr POD masquerade; }
}
"""


@pytest.fixture
def bridged(node: Containerd, tmp_path: Path) -> Iterator[Containerd]:
    """Yield a second node, with pods on a bridge and no masquerading; each node has a route to the other's pods."""
    other = Containerd(tmp_path, name="bridged")
    try:
        other.put("10-vethd.conflist", json.dumps(BRIDGED))
        wait_until(other.network_ready, what="the network")
        node.netns.ip(f"link add lan0 type veth peer lan0 netns {other.netns.name}")
        node.netns.ip("address add 192.0.2.1/24 dev lan0", "link set lan0 up", "route add 10.77.1.0/24 via 192.0.2.2")
        other.netns.ip("address add 192.0.2.2/24 dev lan0", "link set lan0 up", "route add 10.77.0.0/24 via 192.0.2.1")
        yield other
    finally:
        other.close()


def asks(client: Path, server: Path, at: tuple[str, int], to: tuple[str, int]) -> str:
    """Connect from one namespace to an address; return the source that a server in another sees."""
    with in_netns(server, socket.create_server, at) as listener:
        listener.settimeout(20.0)
        with in_netns(client, socket.create_connection, to, 20.0):
            accepted, seen = listener.accept()
            accepted.close()
            return str(seen[0])


class Pod:
    """A pod on a node."""

    def __init__(self, node: Containerd, name: str, *ports: tuple[int, int]) -> None:
        """Run it."""
        self.id = node.run(name, *ports)
        self.netns = node.netns_of(self.id)
        self.address = node.addresses(self.id)[0]

    def asks(self, server: Pod, address: str = "", port: int = PORT) -> str:
        """Connect to a pod, by default at its own address; return the source that the pod sees."""
        return asks(self.netns, server.netns, (server.address, PORT), (address or server.address, port))


def test_two_nodes(node: Containerd, bridged: Containerd) -> None:
    """Pods of two nodes, routed and on a bridge, reach each other by the nodes' routes, and by published ports."""
    near, second, far = Pod(node, "near"), Pod(node, "second"), Pod(bridged, "far", (8080, PORT))
    bridged.command("nft", "-f", "-", stdin=MASQUERADING)
    assert far.asks(near) == far.address
    assert near.asks(far) == "192.0.2.1"  # ipMasq hides a pod from other nodes,
    assert second.asks(near) == second.address  # not from its own
    assert near.asks(far, "192.0.2.2", 8080) == "192.0.2.1"
    outside = ("192.0.2.1", PORT)
    assert asks(far.netns, node.netns.path, outside, outside) == "192.0.2.2"
    gone(bridged, far.id)
    gone(node, near.id, second.id)


def test_service(node: Containerd) -> None:
    """A Service's address leads to a pod of the same node, and of the client itself, without a bridge's netfilter."""
    server, client = Pod(node, "server"), Pod(node, "client")
    node.command("nft", "-f", "-", stdin=SERVICE.replace(b"POD", server.address.encode()))
    assert client.asks(server, SERVICE_ADDRESS, 80) == client.address
    assert server.asks(server, SERVICE_ADDRESS, 80) == GATEWAY
    node.command("nft", "delete", "table", "ip", "services")
    gone(node, server.id, client.id)
