"""`make install` and the Debian package, under the real systemd, with neither repository nor homes in sight."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.lib.daemon import UnixConnection
from tests.lib.packaging import make
from tests.lib.service import ACTIVE_S, CONFIG, CONTROL
from tests.lib.systemd_box import REPO, SystemdBox
from tests.lib.wait import wait_until
from tools import lock
from vethd import __version__

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("root")]

SOCKETS = ("vethd.socket", "vethd-fd.socket")
ADD = "vethctl add va --netns red --up --peer vb --peer-netns blue --peer-up"
OURS = ("/usr/lib/vethd/lib/python3.", "/usr/lib/python3.", "/usr/bin/python3.")  # as seen through the box's overlay
# what a package manager and an administrator's tools write about themselves
BOOKS = ("/var/lib/dpkg", "/var/log", "/var/cache", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/tmp")


NETWORKD = "systemd-networkd.service"
NETDEV = """\
[NetDev]
Name=na
Kind=veth
MTUBytes=1400
MACAddress=02:00:00:00:00:0a
[Peer]
Name=nb
"""
NETWORK = """\
[Match]
Name={0}
[Network]
Address={1}
LinkLocalAddressing=no
[Link]
RequiredForOnline=no
"""


@pytest.fixture
def clean_box() -> Iterator[SystemdBox]:
    """Boot a box that sees nothing of the repository nor of the tests' Python."""
    with SystemdBox() as box:
        for path in (str(REPO), "/root", "/home"):
            box.output("mount", "-t", "tmpfs", "tmpfs", path)
        box.output("rm", "-f", "/usr/sbin/policy-rc.d")  # a container's: packages' services are not to be started
        yield box


@pytest.fixture(scope="module")
def package() -> Path:
    """Build the Debian package; dpkg-deb reads it uncompressed, too, and half a minute earlier."""
    make("deb", "DPKG_DEB_COMPRESSOR_TYPE=none")
    (found,) = (REPO / "build").glob("vethd_*.deb")
    return found


def listing(box: SystemdBox) -> set[str]:
    """Return every file that the box has and the machine has not, by its path; of its /run only ours.

    They are looked for where the overlay keeps what was written: the rest of a disk is long, and others write there.
    """
    found = re.search(r",upperdir=([^,\n]+)", Path(f"/proc/{box.pid}/mountinfo").read_text())
    assert found
    argv = ["nsenter", f"--target={box.pid}", "--mount", "find", found[1], "-printf", "/%P\\n"]
    written = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=ACTIVE_S).stdout.splitlines()
    new = {path for path in written if not os.path.lexists(path)}
    new.update(box.output("find", "/run", "-name", "vethd*").splitlines())
    return {path for path in new if not path.startswith(BOOKS) and "__pycache__" not in path}


def links(box: SystemdBox, netns: str) -> dict[str, int]:
    return {link["ifname"]: link["ifindex"] for link in json.loads(box.output("ip", "-n", netns, "-j", "link"))}


def health(box: SystemdBox) -> Any:
    connection = UnixConnection(box.path(CONTROL))
    try:
        connection.request("GET", "/v1/health")
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def bring_up(box: SystemdBox) -> None:
    """Join two namespaces, with addresses."""
    for netns in ("red", "blue"):
        box.output("ip", "netns", "add", netns)
    box.output(*ADD.split())
    for netns, name, address in (("red", "va", "192.0.2.1/24"), ("blue", "vb", "192.0.2.2/24")):
        box.output("ip", "-n", netns, "address", "add", address, "dev", name)


def newer(package: Path, directory: Path) -> Path:
    """Return the same package under a higher version."""
    tree = directory / "tree"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 1:"))
    again = directory / "newer.deb"
    subprocess.run(["dpkg-deb", "-Znone", "--root-owner-group", "-b", tree, again], check=True, capture_output=True)
    shutil.rmtree(tree)
    return again


def put(box: SystemdBox, file: Path) -> str:
    """Copy a file into the box, and return its path there."""
    shutil.copy(file, box.path("/var/cache"))
    return f"/var/cache/{file.name}"


def test_the_package_from_its_installation_to_its_end(clean_box: SystemdBox, package: Path, tmp_path: Path) -> None:
    box = clean_box
    before = listing(box)
    box.output("dpkg", "-i", put(box, package))
    for unit in (*SOCKETS, "vethd.service"):
        assert (box.show(unit, "ActiveState"), box.show(unit, "UnitFileState")) == ("active", "enabled")
    assert {"/usr/bin/vethd", CONFIG} <= listing(box) - before
    pid = health(box)["pid"]
    assert health(box)["version"] == box.output("dpkg-query", "-W", "-f", "${Version}", "vethd")
    mapped = {line.split()[5] for line in box.output("cat", f"/proc/{pid}/maps").splitlines() if "/python3" in line}
    assert any("/_native." in path for path in mapped)
    assert [path for path in mapped if not any(place in path for place in OURS)] == []

    bring_up(box)
    box.output("sed", "-i", "$a # mine", CONFIG)
    before_upgrade = [links(box, "red"), links(box, "blue")]
    sockets = [box.path(f"{CONTROL}{suffix}").stat().st_ino for suffix in ("", ".fd")]
    pings = box.path("/run/pings")
    ping = box.popen(["ip", "netns", "exec", "red", "sh", "-c", "exec ping -i 0.02 192.0.2.2 >/run/pings"])
    box.output("dpkg", "-i", put(box, newer(package, tmp_path)))
    wait_until(lambda: health(box)["pid"] != pid, ACTIVE_S, "the new version")
    box.output("pkill", "-INT", "-x", "ping")
    ping.communicate(timeout=ACTIVE_S)
    told = pings.read_text()
    answered = [int(number) for number in re.findall(r"icmp_seq=(\d+)", told)]
    assert answered == list(range(1, len(answered) + 1)), told
    sent = re.search(r"(\d+) packets transmitted", told)
    assert sent, told
    assert int(sent[1]) - len(answered) <= 1, told  # whose answer is on its way when ping ends is no loss
    assert [links(box, "red"), links(box, "blue")] == before_upgrade
    assert [box.path(f"{CONTROL}{suffix}").stat().st_ino for suffix in ("", ".fd")] == sockets
    assert box.output("tail", "-n", "1", CONFIG) == "# mine\n"
    box.output("vethctl", "save")

    box.output("dpkg", "-r", "vethd")
    wait_until(lambda: links(box, "red").keys() == {"lo"}, what="the pair gone with its daemon")
    assert box.path(CONFIG).exists()
    assert box.path("/var/lib/vethd").exists()
    box.output("dpkg", "--purge", "vethd")
    for netns in ("red", "blue"):
        box.output("ip", "netns", "del", netns)
    assert listing(box) - before == set()
    assert box.run("getent", "passwd", "vethd").returncode == 2
    assert box.run("getent", "group", "vethd").returncode == 2


def test_what_make_installs_runs_as_a_service(clean_box: SystemdBox, tmp_path: Path) -> None:
    box, root, clone = clean_box, tmp_path / "root", tmp_path / "clone"
    made = shutil.ignore_patterns(".git", ".venv", "build", "*.so", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(REPO, clone, ignore=made)
    assert "native engine" not in make("install", f"DESTDIR={root}", cwd=clone), "it was built"
    (packages,) = root.glob("usr/local/lib/vethd/lib/python3*/site-packages")
    found = {(each.name, each.version) for each in metadata.distributions(path=[str(packages)])}
    assert lock.unlocked((REPO / lock.LOCK).read_text(), found) == [f"vethd=={__version__}"]
    assert [path for path in root.rglob("*") if path.is_file() and str(root).encode() in path.read_bytes()] == []
    subprocess.run(["cp", "-a", f"{root}/.", str(box.path("/"))], check=True)
    box.output("systemd-sysusers")
    box.output("systemctl", "daemon-reload")
    box.output("systemctl", "enable", "--now", "vethd.service")
    bring_up(box)
    box.output("ip", "netns", "exec", "red", "ping", "-c", "1", "-W", "20", "192.0.2.2")
    assert '"1.1.0"' in box.output("env", "CNI_COMMAND=VERSION", "sh", "-c", "echo '{}' | /opt/cni/bin/vethd-cni")
    box.output("/usr/local/lib/vethd/ip/ip", "link", "add", "vc", "type", "veth", "peer", "name", "vd")
    assert "vc@vd" in box.output("/usr/local/lib/vethd/ip/ip", "link", "show", "type", "veth")
    assert box.run("/usr/local/bin/vethctl", "doctor").returncode == 0
    for shell, file in (("bash", "bash-completion/completions/vethctl"), ("zsh", "zsh/site-functions/_vethctl")):
        assert f"{shell}_complete" in (root / "usr/local/share" / file).read_text()

    mine = root / "usr/local/bin/mine"
    mine.touch()
    make("uninstall", f"DESTDIR={root}", cwd=clone)
    assert [path for path in root.rglob("*") if not path.is_dir()] == [mine]


def test_networkd_makes_its_veths_under_vethd_run(clean_box: SystemdBox, package: Path) -> None:
    """Both ends are vethd's, and it configures them; a restart of either service keeps them."""
    box = clean_box
    box.output("dpkg", "-i", put(box, package))
    box.write("/etc/systemd/network/n.netdev", NETDEV)
    for name, address in (("na", "192.0.2.1/31"), ("nb", "192.0.2.2/31")):
        box.write(f"/etc/systemd/network/{name}.network", NETWORK.format(name, address))
    box.output("mount", "-o", "remount,bind,ro", "/sys")  # as in a container: networkd waits for no udev then
    box.output("vethd-run", "--install", "networkd")
    box.output("systemctl", "daemon-reload")
    box.output("systemctl", "start", NETWORKD)
    assert box.output("systemctl", "is-active", "vethd.service").strip() == "active"
    wait_until(lambda: addresses(box) == {"na": "192.0.2.1", "nb": "192.0.2.2"}, what="the addresses")
    assert ends(box) == {"na", "nb"}
    link = json.loads(box.output("ip", "-json", "-details", "link", "show", "na"))[0]
    assert (link["linkinfo"]["info_kind"], link["mtu"], link["address"]) == ("tun", 1400, "02:00:00:00:00:0a")
    assert "configured" in box.output("networkctl", "list", "na")
    before = [pair["id"] for pair in json.loads(box.output("vethctl", "show", "--json"))]
    for unit in (NETWORKD, "vethd.service"):
        box.output("systemctl", "restart", unit)
        wait_until(lambda: addresses(box) == {"na": "192.0.2.1", "nb": "192.0.2.2"}, what="the addresses again")
        assert [pair["id"] for pair in json.loads(box.output("vethctl", "show", "--json"))] == before
    box.output("vethd-run", "--uninstall", "networkd")
    box.output("systemctl", "daemon-reload")
    box.output("systemctl", "restart", NETWORKD)
    assert ends(box) == {"na", "nb"}


def addresses(box: SystemdBox) -> dict[str, str]:
    """Return the IPv4 address of each end of the pair that networkd makes."""
    links = json.loads(box.output("ip", "-4", "-json", "address"))
    return {link["ifname"]: link["addr_info"][0]["local"] for link in links if link["ifname"] in ("na", "nb")}


def ends(box: SystemdBox) -> set[str]:
    """Return the names of the ends of vethd's pairs."""
    return {link["name"] for pair in json.loads(box.output("vethctl", "show", "--json")) for link in pair["links"]}
