"""Real podman on a host of its own: a network namespace, and a mount namespace with a cgroup2 that is nobody else's."""

from __future__ import annotations

from pathlib import Path

from tests.lib.host import SOCKET, Host

__all__ = ["LIMITS", "SOCKET", "Podman"]

BUSYBOX = Path("/bin/busybox")
LIMITS = ("--cgroups", "disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
MOUNTS = """
mount -t cgroup2 none /sys/fs/cgroup
for directory in /run /var/lib/cni; do mkdir -p $directory; mount -t tmpfs none $directory; done
mkdir /run/netns
"""


class Podman(Host):
    """A host with podman and vethd; a process holds its namespaces."""

    def __init__(self, directory: Path, network: str) -> None:
        """Set it up; network is the part [network] of containers.conf, and what follows. close() ends it."""
        for name in ("bin", "etc", "proc", "sys", "dev", "tmp"):
            (directory / "rootfs" / name).mkdir(parents=True)
        busybox = directory / "rootfs" / "bin" / "busybox"
        busybox.write_bytes(BUSYBOX.read_bytes())
        busybox.chmod(0o755)
        for applet in ("sh", "sleep", "ping", "httpd", "wget"):
            (busybox.parent / applet).symlink_to("busybox")
        (directory / "rootfs" / "etc" / "page").write_text("hello")
        (directory / "containers.conf").write_text(f"[network]\n{network}")
        super().__init__(directory, "podman", MOUNTS)

    def close(self) -> None:
        """Remove the containers, end the daemon, let the namespaces go."""
        self.run("rm", "--force", "--all", "--time=0", check=False)
        super().close()

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
