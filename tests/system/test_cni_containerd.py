"""vethd-cni under real containerd, asked through CRI as a kubelet asks: docs/kubernetes.md."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.lib.containerd import Containerd
from tests.lib.cri import CriError
from tests.lib.netns import in_netns
from tests.lib.wait import wait_until

pytestmark = pytest.mark.heavy

CIDRS = "10.77.0.0/24,fd77::/64"
GENERATED = "10-containerd-net.conflist"  # the name that containerd gives to what it makes of the template
MANY = 10
FAILS_S = 5.0
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
    for at in (f"{node.addresses(first)[0]}:80", "10.77.0.1:8080"):
        assert node.exec(client, "wget", "-q", "-O", "-", f"http://{at}/page") == (0, "hello")
    for at in ("127.0.0.1", "10.77.0.1"):
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
    (directory / ".10-vethd").write_text(written)
    (directory / ".10-vethd").rename(directory / "10-vethd.conflist")
    wait_until(node.network_ready, what="the network")
    gone(node, node.run("renamed"))
    (directory / "10-vethd.conflist").unlink()
    wait_until(lambda: not node.network_ready(), what="no network")
    node.configure(CIDRS)
    wait_until(node.network_ready, what="the network")


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
            node.end(old, signal.SIGKILL)
            client.sendall(b"while it is away\n")
            node.daemon = node.vethd()
            assert server.recv(100) == b"while it is away\n"
        client.sendall(b"hello\n")
        assert server.recv(100) == b"hello\n"
        assert {one["container"] for one in node.get("/v1/attachments")} == {first, second}
    gone(node, first, second)
