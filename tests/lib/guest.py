"""A virtual machine: Debian's cloud kernel and busybox under QEMU, without KVM.

The guest is told what to do through its serial line. tools/packages unpacks the kernel into build/unpacked. guest() has
one virtio NIC, on a TAP of ours. twin() has this machine's files instead, and another kernel: for tests that need what
this machine's kernel may lack.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.lib.netns import Netns
from tests.lib.wait import readable, wait_until

REPO = Path(__file__).resolve().parents[2]
KERNEL = REPO / "build" / "unpacked" / "linux-image-cloud-amd64"
BOOT_S = 100.0  # 3 s on an idle machine, as QEMU interprets every instruction
COMMAND_S = 60.0

# in the order in which they need each other
_VIRTIO = (
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
)
_NIC = (*_VIRTIO, "net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net")
_SHARE = ("fs/fuse/fuse", *_VIRTIO, "fs/fuse/virtiofs")
_LINKS = (
    "net/llc/llc",
    "net/802/stp",
    "net/802/garp",
    "net/802/mrp",
    "net/bridge/bridge",
    "net/8021q/8021q",
    "drivers/net/tun",
    "drivers/net/veth",
)
_NFT = ("lib/libcrc32c", "net/netfilter/nfnetlink", "net/netfilter/nf_tables")
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
MEMORY = "1G"
TWIN = "/twin"
_INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin PS1= PS2=
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/lib/$module.ko"; done </lib/order
ip link set lo up
{more}
stty -echo
echo the guest is up
exec sh
"""
_UP = "ip link set eth0 up"
_MOUNTS = f"""\
mount -t virtiofs -o ro twin {TWIN}
mount -t proc proc {TWIN}/proc
mount -t sysfs sysfs {TWIN}/sys
mount -t devtmpfs dev {TWIN}/dev
mount -t tmpfs run {TWIN}/run
mkdir {TWIN}/run/netns"""


def initramfs(directory: Path, modules: Sequence[str], more: str) -> Path:
    """Pack what the guest's kernel unpacks as its root: busybox, modules, and an /init that ends with more.

    Give the file.
    """
    root = directory / "root"
    for name in ("bin", "dev", "lib", "proc", "sys", TWIN.strip("/")):
        (root / name).mkdir(parents=True)
    (root / "bin" / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    kernel = next((KERNEL / "lib" / "modules").iterdir()) / "kernel"
    for module in modules:
        (root / "lib" / Path(f"{module}.ko").name).write_bytes((kernel / f"{module}.ko").read_bytes())
    (root / "lib" / "order").write_text("".join(f"{Path(module).name}\n" for module in modules))
    (root / "init").write_text(_INIT.format(more=more))
    for path in (root / "init", root / "bin" / "busybox"):
        path.chmod(0o755)
    names = "".join(f"{path.relative_to(root)}\n" for path in sorted(root.rglob("*")))
    packed = subprocess.run(
        ["cpio", "--create", "--format=newc", "--quiet"],
        cwd=root,
        input=names.encode(),
        capture_output=True,
        check=True,
    )
    image = directory / "initrd"
    image.write_bytes(packed.stdout)
    return image


def command_line(image: Path, machine: str = "", memory: str = "256M") -> list[str]:
    """Return QEMU's command line for a guest that boots image, without devices."""
    kernel = next((KERNEL / "boot").glob("vmlinuz-*"))
    return [
        *f"qemu-system-x86_64 -machine q35,accel=tcg{machine} -cpu max -m {memory}".split(),
        *"-nodefaults -nographic -no-reboot -serial stdio -monitor none".split(),  # noqa: SIM905 - as one would type it
        *("-kernel", str(kernel), "-initrd", str(image), "-append", "console=ttyS0 quiet panic=-1"),
    ]


class Guest:
    """A running guest."""

    def __init__(self, netns: Netns, argv: Sequence[str]) -> None:
        """Start it in the namespace of its TAP, and wait until it takes commands."""
        self._process = netns.run(
            subprocess.Popen, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
        self._heard = ""
        self._count = 0
        try:
            self._hear(r"the guest is up\r\n", BOOT_S)
        except BaseException:
            self.end()
            raise

    def run(self, command: str, *, deadline_s: float = COMMAND_S) -> str:
        """Run a command of the guest's shell to its end and return its output. Raises AssertionError where it fails."""
        status, said = self.ask(command, deadline_s=deadline_s)
        assert status == 0, f"{command}: {status}\n{said}"
        return said

    def ask(self, command: str, *, deadline_s: float = COMMAND_S) -> tuple[int, str]:
        """Run a command of the guest's shell to its end and return its status, and what it printed."""
        self._count += 1
        assert self._process.stdin is not None
        self._process.stdin.write(f"( {command} ) </dev/null; echo ==$?== {self._count}\n".encode())
        match = self._hear(rf"==(\d+)== {self._count}\r\n", deadline_s)
        return int(match[1]), match.string[: match.start()].replace("\r\n", "\n")

    def end(self) -> None:
        """Take its power away."""
        self._process.kill()
        self._process.communicate()

    def _hear(self, pattern: str, deadline_s: float) -> re.Match[str]:
        """Wait for the pattern on the serial line, and return it with all before it."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        end = time.monotonic() + deadline_s
        while not (match := re.search(pattern, self._heard)):
            left = end - time.monotonic()
            data = os.read(fd, 1 << 16) if left > 0 and readable(fd, left) else b""
            assert data, f"not within {deadline_s} s: {pattern}; heard: {self._heard}"
            self._heard += data.decode(errors="replace")
        self._heard = self._heard[match.end() :]
        return match


@contextmanager
def guest(directory: Path, netns: Netns, tap: str, address: str) -> Iterator[Guest]:
    """Yield a guest whose NIC has that MAC address and is a TAP that is there; end it."""
    nic = ["-netdev", f"tap,id=net,ifname={tap},script=no,downscript=no"]
    nic += ["-device", f"virtio-net-pci,netdev=net,mac={address},romfile="]
    it = Guest(netns, [*command_line(initramfs(directory, _NIC, _UP)), *nic])
    try:
        yield it
    finally:
        it.end()


class Twin:
    """A guest that has this machine's files, read-only, and a /run of its own."""

    def __init__(self, machine: Guest) -> None:
        self._machine = machine

    def run(self, command: str, *, deadline_s: float = COMMAND_S) -> str:
        """Run a shell's command in the repository, and return what it printed. Raises AssertionError if it fails."""
        environ = "env PATH=/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/run PYTHONDONTWRITEBYTECODE=1"
        inside = shlex.quote(f"cd {shlex.quote(str(REPO))} && {command}")
        return self._machine.run(f"chroot {TWIN} {environ} sh -c {inside}", deadline_s=deadline_s)


@contextmanager
def twin(directory: Path) -> Iterator[Twin]:
    """Yield a twin of this machine, and end it."""
    path = directory / "virtiofs.sock"
    server = [VIRTIOFSD, f"--socket-path={path}", "-o", "source=/", "-o", "sandbox=chroot", "-o", "cache=always"]
    memory = ["-object", f"memory-backend-memfd,id=mem,size={MEMORY},share=on"]
    share = ["-chardev", f"socket,id=twin,path={path}", "-device", "vhost-user-fs-pci,chardev=twin,tag=twin"]
    image = initramfs(directory, (*_SHARE, *_LINKS, *_NFT), _MOUNTS)
    with (directory / "virtiofsd.log").open("wb") as log:
        files = subprocess.Popen(server, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(path.exists, what="virtiofsd's socket")
        machine = Guest(Netns(""), [*command_line(image, ",memory-backend=mem", MEMORY), *memory, *share])
        try:
            yield Twin(machine)
        finally:
            machine.end()
    finally:
        files.kill()
        files.wait()
