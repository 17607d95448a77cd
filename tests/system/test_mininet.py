"""Real Mininet with Linux bridges: its own links over vethd-ip, unmodified, and the links of vethd/clients/mininet.py.

Mininet has a broom (pkill -f, rm /tmp/*.log, sysctl), so it runs in a box: PID and mount namespaces of its own, a /tmp
that is empty but for the daemon's directory and the repository, and a /proc/sys that cannot be written. Where the tests
themselves are under /tmp, a shell would complain of its lost working directory, and Mininet take that for its commands'
output: so it is /.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.lab import Lab
from tests.lib.leaks import Traces
from tests.lib.site import Site
from tests.lib.systemd_box import REPO
from vethd.clients import ip
from vethd.clients.ip.install import install

pytestmark = pytest.mark.heavy

RUN_S = 100.0
VETHD_RUN, VETHCTL = (str(Path(sys.executable).with_name(name)) for name in ("vethd-run", "vethctl"))
# silently: what the daemon says when it has gone to the background, Mininet would take for the next command's output
LISTEN = "iperf -s -D >/dev/null 2>&1; until ss -Hltn sport = :5001 | grep -q .; do :; done"
CUSTOM = Path(ip.__file__).parents[1] / "mininet.py"
BRIDGES = ("--switch", "lxbr", "--controller", "none")
_BOX = """
dir=$1 repo=$2
shift 2
mount --bind "$dir" /mnt
mount --bind "$repo" /media
mount -t tmpfs tmpfs /tmp
mkdir -p "$dir" "$repo"
mount --move /mnt "$dir"
mount --move /media "$repo"
for file in /proc/sys/net/bridge/bridge-nf-call-*; do
  [ ! -e "$file" ] || echo 0 >"$file"
done
mount --bind -o ro /proc/sys /proc/sys
cd /
exec "$@"
"""


class Room:
    """Where `mn` is run: the daemon's own namespace, which is Mininet's root one."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.bin = site.directory / "bin"
        self.bin.mkdir(exist_ok=True)
        self.custom = site.directory / "vethd_links.py"
        shutil.copy(CUSTOM, self.custom)

    def mn(
        self, *args: str, vethd_ip: bool = False, door: str = "", commands: str = "", socket: Path | None = None
    ) -> str:
        """Run mn to its end, below a door's program, commands of its CLI after its tests, and return what it said."""
        script = self.site.directory / "commands"
        script.write_text(commands)
        post = ["--post", str(script)] if commands else []
        return self.run(*([door] if door else []), "mn", *BRIDGES, *args, *post, vethd_ip=vethd_ip, socket=socket)

    def run(self, *args: str, vethd_ip: bool = False, socket: Path | None = None) -> str:
        """Run a program to its end and return what it said."""
        path = os.environ["PATH"]
        if vethd_ip:
            install(self.bin)
            path = f"{self.bin}:{path}"
        unshare = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
        argv = [*unshare, "sh", "-euc", _BOX, "box", str(self.site.directory), str(REPO), *args]
        child = self.site.home.run(
            subprocess.Popen[str],
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PATH": path, "VETHD_SOCKET": str(socket or self.site.socket)},
        )
        try:
            return child.communicate(timeout=RUN_S)[0]
        except subprocess.TimeoutExpired:
            child.kill()  # and with it all that is in the box
            raise AssertionError(f"{' '.join(args)}: not within {RUN_S} s\n{child.communicate()[0]}") from None

    def links(self, *options: str) -> list[str]:
        """Return the arguments by which Mininet makes the links of our file."""
        return ["--custom", str(self.custom), "--link", ",".join(options)]


@pytest.fixture
def room(site: Site, lab: Lab) -> Iterator[Room]:  # noqa: ARG001 - proves that the daemon keeps no descriptor
    before = Traces.now(site.home)
    yield Room(site)
    before.assert_nothing_left(site.home)


# without `fast` Mininet makes links in its own namespace, and moves them
PROGRAM = """
from functools import partial
from mininet.net import Mininet
from mininet.nodelib import LinuxBridge
from mininet.topo import SingleSwitchTopo
from vethd_links import VethdLink

LINKS = ["a name that mn has, too"]
net = Mininet(SingleSwitchTopo(2), switch=LinuxBridge, controller=None, link=partial(VethdLink, fast=False))
net.start()
print("lost:", net.pingAll(), net["h1"].cmd("ip -d link show h1-eth0"))
net.stop()
"""


def errors(said: str) -> list[str]:
    """Return Mininet's complaints, but for the limits that the box keeps from it, and what HTB tells everybody."""
    lines = re.findall(r"\*\*\* Error.*|.*Exception.*|.*Error:.*", said)
    return [line for line in lines if "setting resource limits" not in line and "quantum of class" not in line]


def test_an_unmodified_mn_with_vethd_ip_first_on_path(room: Room) -> None:
    said = room.mn("--test", "pingall", vethd_ip=True, commands="s1 ethtool -i s1-eth1\n")
    assert "0% dropped (2/2 received)" in said, said
    assert "driver: tun" in said, "these were no links of vethd's"
    assert errors(said) == []


def test_an_unmodified_mn_under_vethd_run(room: Room) -> None:
    commands = f"s1 ethtool -i s1-eth1\ns1 {VETHCTL} show\n"
    said = room.mn("--topo", "linear,4", "--test", "pingall", door=VETHD_RUN, commands=commands)
    assert "0% dropped (12/12 received)" in said, said
    assert "driver: veth" in said, said
    assert re.search(r"^LINK +s1-eth1$", said, re.MULTILINE), f"these were no links of vethd's: {said}"
    assert errors(said) == []


def test_a_line_of_switches_carries_tcp_and_feels_a_link_go_down(room: Room) -> None:
    commands = f"""
h3 {LISTEN}
h1 iperf -c h3 -t 1
link s1 s2 down
h1 ping -c 1 -W 1 h3
link s1 s2 up
h1 until ping -c 1 -W 1 h3 | grep ' 1 received'; do :; done
links
py net.delLinkBetween(h2, s2)
py sorted(s2.intfNames())
"""
    said = room.mn("--topo", "linear,3", "--test", "pingall", vethd_ip=True, commands=commands)
    assert "0% dropped (6/6 received)" in said, said
    assert re.search(r"[1-9][\d.]* [KMG]bits/sec", said), said
    assert "1 packets transmitted, 0 received" in said, said
    assert "1 packets transmitted, 1 received" in said, said
    assert "s2-eth2<->s1-eth2 (OK OK)" in said, said
    assert "['lo', 's2-eth2', 's2-eth3']" in said, said
    assert errors(said) == []


def test_links_of_our_own_make_a_tree(room: Room) -> None:
    said = room.mn(*room.links("vethd"), "--topo", "tree,2,2", "--mac", "--test", "pingall", commands="h1 ip -d link\n")
    assert "0% dropped (12/12 received)" in said, said
    assert "00:00:00:00:00:01" in said, said
    assert "tun type tap" in said, "these were no links of vethd's"
    assert errors(said) == []


def test_a_link_with_a_rate_keeps_to_it(room: Room) -> None:
    commands = f"h2 {LISTEN}\nh1 iperf -c h2 -t 2 -f m\ns1 tc qdisc show dev s1-eth1\n"
    said = room.mn(*room.links("vethdtc", "bw=20"), "--test", "pingall", commands=commands)
    assert "0% dropped" in said, said
    assert "qdisc htb 5: root" in said, said
    rates = [float(rate) for rate in re.findall(r"([\d.]+) Mbits/sec", said)]
    assert rates, said
    assert 0 < max(rates) < 30, said
    assert errors(said) == []


def test_without_a_daemon_one_sentence_says_so(room: Room) -> None:
    nobody = room.site.directory / "nobody"
    said = room.mn(*room.links("vethd"), "--test", "none", socket=nobody)
    assert errors(said) == [f"VethdError: vethd does not answer at {nobody}.fd: {os.strerror(errno.ENOENT)}"], said


def test_a_refusal_of_the_daemons_is_told(room: Room) -> None:
    room.site.post({"name": "s1-eth1", "peer": {"name": "other"}})
    said = room.mn(*room.links("vethd"), "--test", "none")
    assert errors(said) == [f"VethdError: link h1-eth0 - s1-eth1: newlink s1-eth1: {os.strerror(errno.EEXIST)}"], said


def test_a_program_has_links_of_our_own(room: Room) -> None:
    program = room.site.directory / "program.py"
    program.write_text(PROGRAM)
    said = room.run("/usr/bin/python3", "-B", str(program))
    assert "lost: 0.0" in said, said
    assert "tun type tap" in said, said
    assert errors(said) == []
