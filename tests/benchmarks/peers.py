"""Other programs that join two namespaces in userspace, as Debian ships them, each with what it takes.

All of them get two TAP devices, va and vb, made in a namespace of the program's own and then moved where they belong.
What they leave, persistent devices for one, dies with that namespace.
"""

from __future__ import annotations

import os
import shutil
from abc import abstractmethod
from contextlib import ExitStack
from typing import ClassVar

from tests.benchmarks.line import Line, Peer, Place
from tests.lib.lab import End, Wire
from tests.lib.netns import command
from tests.lib.programs import Program, running
from tests.lib.wait import wait_until

START_S = 20.0
END_S = 60.0  # its devices go as it goes, and on a busy machine the RTNL lock is long in coming
NEAR, FAR = "va", "vb"


class TapPeer(Peer):
    """A program that makes both TAPs; package is Debian's name of it."""

    package: ClassVar[str]
    program: ClassVar[str]

    @abstractmethod
    def start(self, place: Place, stack: ExitStack) -> list[Program]:
        """Start the program, which makes va and vb in place.home; return all its processes."""

    def draw(self, place: Place, stack: ExitStack) -> Line:
        """Start the program, wait for its devices, move them and set them up."""
        assert shutil.which(self.program), f"{self.program} is not installed: it is in Debian's {self.package}"
        processes = self.start(place, stack)
        try:
            wait_until(lambda: {NEAR, FAR} <= place.home.names(), START_S, "its devices")
        except AssertionError as error:
            raise AssertionError(f"{error}; {processes[-1].output()[-200:]}") from error
        wire = Wire(End(place.near, NEAR), End(place.far, FAR))
        for end in (wire.a, wire.b):
            place.home.ip(f"link set dev {end.name} netns {end.netns.name}")
        wire.up()
        return Line(wire, [each.process.pid for each in processes])

    def version(self) -> str:
        """Return the version of Debian's package."""
        return command(["dpkg-query", "-W", "-f", "${Version}", self.package])


class Socat(TapPeer):
    """One process that copies between two TAPs, a frame at a time."""

    name, title, package, program = "socat", "socat", "socat", "socat"

    def start(self, place: Place, stack: ExitStack) -> list[Program]:
        """Run `socat TUN TUN`, both of them TAPs."""
        ends = [f"TUN,tun-type=tap,iff-no-pi,tun-name={name}" for name in (NEAR, FAR)]
        return [stack.enter_context(running(place.home, "socat", *ends, end_s=END_S))]


class Vde(TapPeer):
    """VDE's switch, with two TAPs of its own."""

    name, title, package, program = "vde", "VDE switch", "vde2", "vde_switch"

    def start(self, place: Place, stack: ExitStack) -> list[Program]:
        """Run vde_switch, whose console is on its stdin."""
        argv = ("vde_switch", "--sock", str(place.directory / "vde"), "--tap", NEAR, "--tap", FAR)
        return [stack.enter_context(running(place.home, *argv, console=True, end_s=END_S))]


class Ovs(TapPeer):
    """Open vSwitch with its datapath in userspace: a bridge whose internal ports are TAPs."""

    name, title, package, program = "ovs", "Open vSwitch, netdev", "openvswitch-switch", "ovs-vswitchd"
    schema = "/usr/share/openvswitch/vswitch.ovsschema"

    def start(self, place: Place, stack: ExitStack) -> list[Program]:
        """Run a database and a switch of our own, and make a bridge with two ports."""
        database, socket = place.directory / "conf.db", place.directory / "db.sock"
        env = ("env", f"OVS_RUNDIR={place.directory}", f"OVS_LOGDIR={place.directory}")
        command(["ovsdb-tool", "create", str(database), self.schema])
        server = stack.enter_context(
            running(place.home, *env, "ovsdb-server", str(database), f"--remote=punix:{socket}", end_s=END_S)
        )
        wait_until(socket.exists, START_S, "the database's socket")
        control = [*env, "ovs-vsctl", f"--db=unix:{socket}", "--timeout=20"]
        command([*control, "--no-wait", "init"])
        switch = stack.enter_context(running(place.home, *env, "ovs-vswitchd", f"unix:{socket}", end_s=END_S))
        ports = [f"-- add-port br0 {name} -- set interface {name} type=internal" for name in (NEAR, FAR)]
        made = " ".join(["add-br br0 -- set bridge br0 datapath_type=netdev", *ports])
        command([*control, *made.split()])
        return [server, switch]


class Testpmd(TapPeer):
    """DPDK's testpmd, forwarding between two TAPs; it polls them without a pause, on a core of its own."""

    name, title, package, program = "dpdk", "DPDK testpmd, net_tap", "dpdk-dev", "dpdk-testpmd"

    def start(self, place: Place, stack: ExitStack) -> list[Program]:
        """Run testpmd without huge pages and, as all others, unpinned."""
        cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        devices = [f"--vdev=net_tap{n},iface={name}" for n, name in enumerate((NEAR, FAR))]
        memory = ("--no-huge", "-m", "256", "--no-pci", "--no-shconf", "--no-telemetry")
        how = ("--auto-start", "--forward-mode=io", "--total-num-mbufs=8192", "--stats-period=3600")
        argv = ("env", f"RUNTIME_DIRECTORY={place.directory}", "dpdk-testpmd", f"--lcores=(0,1)@({cpus})")
        program = stack.enter_context(
            running(place.home, *argv, *memory, *devices, "--", *how, console=True, end_s=END_S)
        )
        program.wait_for("Port statistics", START_S)  # that it forwards now
        return [program]


PEERS: tuple[type[TapPeer], ...] = (Socat, Vde, Ovs, Testpmd)
