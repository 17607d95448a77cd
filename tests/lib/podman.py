"""Real podman on a host of its own: a network namespace, and a mount namespace with a cgroup2 that is nobody else's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.lib.daemon import UnixConnection
from tests.lib.leaks import PREFIX
from tests.lib.netns import Netns
from tests.lib.wait import wait_until

BUSYBOX = Path("/bin/busybox")
LIMITS = ("--cgroups", "disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
SOCKET = "/run/vethd/vethd.sock"
PATIENCE_S = 600.0
MOUNTS = """
mount --make-rprivate /
mount -t cgroup2 none /sys/fs/cgroup
for directory in /run /var/lib/cni; do mkdir -p $directory; mount -t tmpfs none $directory; done
mkdir /run/netns
ip link set lo up
echo ready
exec cat
"""


class Podman:
    """A host with podman and vethd; a process holds its namespaces."""

    def __init__(self, directory: Path, network: str) -> None:
        """Set it up; network is the part [network] of containers.conf, and what follows. close() ends it."""
        self.netns = Netns.create(f"{PREFIX}podman", ipv6=True)
        self.directory = directory
        for name in ("bin", "etc", "proc", "sys", "dev", "tmp"):
            (directory / "rootfs" / name).mkdir(parents=True)
        busybox = directory / "rootfs" / "bin" / "busybox"
        busybox.write_bytes(BUSYBOX.read_bytes())
        busybox.chmod(0o755)
        for applet in ("sh", "sleep", "ping", "httpd", "wget"):
            (busybox.parent / applet).symlink_to("busybox")
        (directory / "rootfs" / "etc" / "page").write_text("hello")
        (directory / "containers.conf").write_text(f"[network]\n{network}")
        argv = ["unshare", "--mount", "sh", "-ec", MOUNTS]
        self.holder = self.netns.run(subprocess.Popen, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == "ready\n"
        with (directory / "vethd.log").open("wb") as log:
            argv = [*self._inside(), sys.executable, "-m", "vethd.daemon.main", "--socket", SOCKET]
            self.daemon = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: self.path(f"{SOCKET}.fd").exists(), what="vethd")

    def close(self) -> None:
        """Remove the containers, end the daemon, let the namespaces go."""
        self.run("rm", "--force", "--all", "--time=0", check=False)
        self.daemon.terminate()
        self.daemon.wait()
        self.holder.communicate()
        self.netns.delete()

    def run(self, *words: str, check: bool = True) -> str:
        """Run podman and return its output. Raises AssertionError where it fails."""
        where = ("--root", f"{self.directory}/root", "--runroot", "/run/podman")
        argv = ["podman", *where, "--cgroup-manager", "cgroupfs", "--events-backend", "file", *words]
        environ = f"CONTAINERS_CONF={self.directory}/containers.conf"
        return self.command("env", environ, *argv, check=check)

    def start(self, name: str, *command: str, options: tuple[str, ...] = ()) -> str:
        """Start a container in the background and return its address."""
        rootfs = f"{self.directory}/rootfs:O"
        self.run("run", "--detach", *LIMITS, "--name", name, *options, "--rootfs", rootfs, *command)
        return self.address(name)

    def address(self, name: str) -> str:
        """Return a container's address."""
        return self.run("inspect", name, "--format", "{{.NetworkSettings.IPAddress}}").strip()

    def command(self, *argv: str, check: bool = True) -> str:
        """Run a program on this host and return its output. Raises AssertionError where it fails."""
        done = subprocess.run(
            [*self._inside(), *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert not check or done.returncode == 0, f"{argv}: {done.stderr}\n{(self.directory / 'vethd.log').read_text()}"
        return done.stdout

    def _inside(self) -> list[str]:
        return ["nsenter", f"--target={self.holder.pid}", "--mount", "--net"]

    def get(self, path: str) -> Any:
        """GET by the daemon's socket."""
        connection = UnixConnection(self.path(SOCKET))
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def path(self, path: str) -> Path:
        """Return where a path of that host is to be seen from here."""
        return Path(f"/proc/{self.holder.pid}/root{path}")
