"""A virtual machine: Debian's cloud kernel and busybox under QEMU, without KVM.

The guest is told what to do through its serial line. tools/packages unpacks the kernel into build/unpacked. guest() has
one virtio NIC, on a TAP of ours. twin() has this machine's files instead, and another kernel: for tests that need what
this machine's kernel may lack, or lack what it may have. A twin keeps to itself what it writes:

    /share   this machine's files, by virtiofs, read-only
    /over    further files, by a virtiofs of its own, as the parts of an overlay must not overlap
    /twin    an overlay: what is written (in memory), /over, /share
"""

from __future__ import annotations

import lzma
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

_NIC = ("virtio_pci", "virtio_net")
_SHARE = ("virtio_pci", "virtiofs", "overlay")
MODULES = ("bridge", "8021q", "tun", "veth", "nf_tables")
"""What a twin has, if it is not told otherwise."""
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
MEMORY = "1G"
SHARE, OVER, TWIN = "/share", "/over", "/twin"
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
mount -t virtiofs -o ro share {SHARE}
mount -t virtiofs -o ro over {OVER}
mount -t tmpfs written /written
mkdir /written/files /written/work
mount -t overlay -o lowerdir={OVER}:{SHARE},upperdir=/written/files,workdir=/written/work twin {TWIN}
mount -t proc proc {TWIN}/proc
mount -t sysfs sysfs {TWIN}/sys
mount -t devtmpfs dev {TWIN}/dev
mount -t tmpfs run {TWIN}/run
mkdir {TWIN}/run/netns"""


def needed(modules: Path, names: Sequence[str]) -> list[Path]:
    """Return the files of the named modules and of those that they need, in the order of loading.

    modules is a kernel's directory, .../lib/modules/VERSION. What is built into the kernel has no file. Raises
    AssertionError where there is no such module.
    """
    depmod = ["depmod", "-n", "-b", str(modules.parents[2]), modules.name]
    said = subprocess.run(depmod, capture_output=True, text=True, check=True).stdout
    needs: dict[str, list[str]] = {}
    for line in said.partition("\n#")[0].splitlines():
        file, _, others = line.partition(":")
        needs[_module(file)] = [*reversed(others.split()), file]  # depmod says first what is loaded last
    built_in = {_module(file) for file in (modules / "modules.builtin").read_text().split()}
    files: dict[str, None] = {}
    for name in names:
        assert name in needs or name in built_in, f"{modules} has no {name}"
        files |= dict.fromkeys(needs.get(name, ()))
    return [modules / file for file in files]


def _module(file: str) -> str:
    """Return the name of the module in a file: "virtio-rng" for ".../virtio-rng.ko.xz"."""
    return Path(file).name.partition(".")[0]


def _unpacked(file: Path) -> bytes:
    """Return a module as insmod takes it."""
    if file.suffix == ".xz":
        return lzma.decompress(file.read_bytes())
    return file.read_bytes()


def initramfs(directory: Path, kernel: Path, modules: Sequence[str], more: str) -> Path:
    """Pack what the guest's kernel unpacks as its root: busybox, modules, and an /init that ends with more.

    Give the file.
    """
    root = directory / "root"
    for name in ("bin", "dev", "lib", "proc", "sys", "written", SHARE[1:], OVER[1:], TWIN[1:]):
        (root / name).mkdir(parents=True)
    (root / "bin" / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    files = needed(next((kernel / "lib" / "modules").iterdir()), modules)
    for file in files:
        (root / "lib" / f"{_module(file.name)}.ko").write_bytes(_unpacked(file))
    (root / "lib" / "order").write_text("".join(f"{_module(file.name)}\n" for file in files))
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


def command_line(kernel: Path, image: Path, machine: str = "", memory: str = "256M") -> list[str]:
    """Return QEMU's command line for a guest that boots image, without devices."""
    vmlinuz = next(path for where in ("boot/vmlinuz-*", "lib/modules/*/vmlinuz") for path in kernel.glob(where))
    return [
        *f"qemu-system-x86_64 -machine q35,accel=tcg{machine} -cpu max -m {memory}".split(),
        *"-nodefaults -nographic -no-reboot -serial stdio -monitor none".split(),  # noqa: SIM905 - as one would type it
        *("-kernel", str(vmlinuz), "-initrd", str(image), "-append", "console=ttyS0 quiet panic=-1"),
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
    it = Guest(netns, [*command_line(KERNEL, initramfs(directory, KERNEL, _NIC, _UP)), *nic])
    try:
        yield it
    finally:
        it.end()


class Twin:
    """A guest that has this machine's files, and a /run of its own."""

    def __init__(self, machine: Guest) -> None:
        self._machine = machine

    def run(self, command: str, *, deadline_s: float = COMMAND_S) -> str:
        """Run a shell's command in the repository, and return what it printed. Raises AssertionError if it fails."""
        environ = "env PATH=/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/run"
        inside = shlex.quote(f"cd {shlex.quote(str(REPO))} && {command}")
        return self._machine.run(f"chroot {TWIN} {environ} sh -c {inside}", deadline_s=deadline_s)


@contextmanager
def _shared(directory: Path, tag: str, source: Path) -> Iterator[list[str]]:
    """Serve a directory's files by virtiofs, and yield QEMU's words for the device."""
    path = directory / f"{tag}.sock"
    server = [VIRTIOFSD, f"--socket-path={path}", "-o", f"source={source},sandbox=chroot,cache=always"]
    with (directory / f"{tag}.log").open("wb") as log:
        files = subprocess.Popen(server, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(path.exists, what="virtiofsd's socket")
        yield ["-chardev", f"socket,id={tag},path={path}", "-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"]
    finally:
        files.kill()
        files.wait()


@contextmanager
def twin(
    directory: Path, kernel: Path = KERNEL, modules: Sequence[str] = MODULES, over: Path | None = None
) -> Iterator[Twin]:
    """Yield a twin of this machine with an unpacked kernel and these of its modules, and end it.

    What the directory over holds is laid over this machine's files.
    """
    memory = ["-object", f"memory-backend-memfd,id=mem,size={MEMORY},share=on"]
    image = initramfs(directory, kernel, (*_SHARE, *modules), _MOUNTS)
    if over is None:
        over = directory / "nothing"
        over.mkdir()
    with _shared(directory, "share", Path("/")) as share, _shared(directory, "over", over) as more:
        argv = command_line(kernel, image, ",memory-backend=mem", MEMORY)
        machine = Guest(Netns(""), [*argv, *memory, *share, *more])
        try:
            yield Twin(machine)
        finally:
            machine.end()
