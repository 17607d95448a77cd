"""vethd-cni under real podman, by its standard conflist: only `type` is changed."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.lib.cni import REFERENCE
from tests.lib.podman import LIMITS, Podman
from tests.lib.wait import wait_until
from vethd.clients.cni.install import install

pytestmark = pytest.mark.heavy

CONFLIST = Path("/etc/cni/net.d/87-podman-bridge.conflist")
MANY = 50


class Host(Podman):
    """A host whose podman uses vethd-cni."""

    def __init__(self, directory: Path) -> None:
        """Set it up."""
        for name in ("bin", "net.d"):
            (directory / name).mkdir()
        install(directory / "bin")
        conflist = json.loads(CONFLIST.read_text())
        assert conflist["plugins"][0]["type"] == "bridge"
        conflist["plugins"][0]["type"] = "vethd-cni"
        (directory / "net.d" / CONFLIST.name).write_text(json.dumps(conflist))
        plugins = f'cni_plugin_dirs = ["{directory}/bin", "{REFERENCE}"]\n'
        super().__init__(directory, f'network_backend = "cni"\n{plugins}network_config_dir = "{directory}/net.d"\n')

    def gc(self, conf: dict[str, Any]) -> None:
        """Call the plugin's GC."""
        file = self.directory / "gc.json"
        file.write_text(json.dumps(conf))
        self.command("sh", "-c", f"CNI_COMMAND=GC {self.directory}/bin/vethd-cni < {file}")

    def attachments(self) -> list[Any]:
        """Return what the daemon says is attached."""
        return list(self.get("/v1/attachments"))

    def ports(self) -> set[str]:
        """Return the names of the bridge's ports."""
        links = json.loads(self.command("ip", "-json", "link", "show", "master", "cni-podman0"))
        return {link["ifname"] for link in links if link}

    def leased(self) -> set[str]:
        """Return the addresses that host-local holds."""
        return {path.name for path in self.path("/var/lib/cni/networks/podman").iterdir() if path.name[0].isdigit()}


@pytest.fixture(scope="module")
def podman(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:  # noqa: ARG001 - see conftest.py
    """Yield the module's own host."""
    host = Host(tmp_path_factory.mktemp("podman"))
    yield host
    host.close()


def test_run(podman: Host) -> None:
    """A container in the foreground; nothing of it is left."""
    words = ("run", "--rm", *LIMITS, "--rootfs", f"{podman.directory}/rootfs:O")
    out = podman.run(*words, "sh", "-c", "busybox ip route; ping -c 1 -W 10 10.88.0.1")
    assert "default via 10.88.0.1 dev eth0" in out
    assert "1 packets received" in out
    assert (podman.ports(), podman.leased()) == (set(), set())


def test_two_containers(podman: Host) -> None:
    """They reach each other, by address and by name, and from outside by a published port; a killed one is gone."""
    first = podman.start("first", "httpd", "-f", "-p", "80", "-h", "/etc", options=("--publish", "8080:80"))
    second = podman.start("second", "sleep", "1000", options=("--add-host", f"first:{first}"))
    for there in (first, "first"):
        assert "1 packets received" in podman.run("exec", "second", "ping", "-c", "1", "-W", "10", there)
    assert "1 packets received" in podman.run("exec", "first", "ping", "-c", "1", "-W", "10", second)
    assert podman.run("exec", "second", "wget", "-q", "-O", "-", "http://10.88.0.1:8080/page") == "hello"
    for address in ("127.0.0.1", "10.88.0.1"):
        assert podman.command("busybox", "wget", "-q", "-O", "-", f"http://{address}:8080/page") == "hello"
    assert len(podman.ports()) == 2
    podman.run("kill", "second")
    podman.run("wait", "second")
    wait_until(lambda: len(podman.ports()) == 1, what="the killed container's port gone")
    assert podman.run("exec", "first", "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1/page") == "hello"
    podman.run("rm", "--force", "--time=0", "first", "second")
    assert (podman.ports(), podman.leased()) == (set(), set())


def test_podman_itself_killed(podman: Host) -> None:
    """What it left is taken away by the next `podman rm`; the address is free again."""
    address = podman.start("orphan", "sleep", "1000")
    podman.run("kill", "--signal", "KILL", "orphan")
    podman.run("wait", "orphan")  # what has not ended yet would be "started" all the same
    assert podman.run("start", "orphan").strip() == "orphan"
    assert podman.address("orphan") not in ("", None)
    podman.run("rm", "--force", "--time=0", "orphan")
    assert address not in podman.leased()


def test_fifty_at_once(podman: Host) -> None:
    """Each has an address of its own and reaches its neighbour; all are gone at once, too."""
    names = [f"n{number}" for number in range(MANY)]
    with ThreadPoolExecutor(MANY) as pool:
        addresses = list(pool.map(lambda name: podman.start(name, "sleep", "1000"), names))
    assert len(set(addresses)) == MANY
    assert len(podman.ports()) == MANY
    assert "1 packets received" in podman.run("exec", names[0], "ping", "-c", "1", "-W", "10", addresses[-1])
    podman.run("rm", "--force", "--all", "--time=0")
    assert (podman.ports(), podman.leased()) == (set(), set())
    assert podman.attachments() == []


def test_native_engine_under_the_default_seccomp_profile(podman: Host) -> None:
    """In a container that may make TAPs, and may not use io_uring."""
    here = Path(__file__).parents[2]
    host = ("/usr", "/lib", "/lib64", sys.base_prefix, sys.prefix, here)
    volumes = [word for path in dict.fromkeys(map(str, host)) for word in ("--volume", f"{path}:{path}:ro")]
    may = ("--cap-add", "net_admin,net_broadcast,net_raw,sys_admin", "--device", "/dev/net/tun", "--network", "none")
    words = ("run", "--rm", *LIMITS, *may, *volumes, "--workdir", str(here), "--rootfs", f"{podman.directory}/rootfs:O")
    said = json.loads(podman.run(*words, sys.executable, "-m", "tests.lib.confined"))
    assert said == {"engine": "native", "arrived": True, "seccomp": 2, "io_uring": errno.ENOSYS}


def test_gc(podman: Host) -> None:
    """podman 4.3 never asks for it, its conflist being of 0.4.0: it is asked for as a runtime of 1.1 would."""
    podman.start("kept", "sleep", "1000")
    podman.start("lost", "sleep", "1000")
    kept = podman.run("inspect", "kept", "--format", "{{.Id}}").strip()
    conf = {"cniVersion": "1.1.0", "name": "podman", "type": "vethd-cni"}
    for valid, left in (([{"containerID": kept, "ifname": "eth0"}], 1), ([], 0)):
        podman.gc(conf | {"cni.dev/valid-attachments": valid})
        assert len(podman.attachments()) == len(podman.ports()) == left
    podman.run("rm", "--force", "--time=0", "kept", "lost")
    assert podman.leased() == set()
