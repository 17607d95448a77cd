"""Every way in which /dev/net/tun cannot be opened, each in words of its own, below a directory that stands for /."""

from __future__ import annotations

import errno
import os
import re
import zlib
from pathlib import Path

import pytest

from vethd.kernel import tundev
from vethd.kernel.tundev import Driver, driver, obstacle

TUN = os.makedev(10, 200)
NODE = "dev/net/tun"


def write(path: Path, data: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def node(root: Path, number: int = TUN, mode: int = 0o666) -> None:
    """Make the node, as mknod does; needs root."""
    path = root / NODE
    path.parent.mkdir(parents=True)
    os.mknod(path, 0o020000 | mode, number)
    path.chmod(mode)


def gzipped(text: str) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(text.encode()) + packer.flush()


def refuse(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Have open(2) of the node fail; every other open works."""
    real = os.open

    def fail(path: str | Path, *args: int) -> int:
        if str(path).endswith(NODE):
            raise OSError(code, os.strerror(code))
        return real(path, *args)

    monkeypatch.setattr(os, "open", fail)


MODULES = f"lib/modules/{os.uname().release}"


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({}, Driver.UNKNOWN),
        ({"sys/class/misc/tun/dev": b"10:200\n"}, Driver.RUNNING),
        ({"proc/misc": b" 61 ppp\n200 tun\n"}, Driver.RUNNING),
        ({"proc/misc": b" 61 mytun\n"}, Driver.UNKNOWN),
        ({f"{MODULES}/modules.builtin": b"kernel/drivers/net/tun.ko\n"}, Driver.RUNNING),
        ({"proc/config.gz": gzipped("CONFIG_NET=y\nCONFIG_TUN=y\n")}, Driver.RUNNING),
        ({f"{MODULES}/modules.dep": b"kernel/drivers/net/tun.ko.xz:\n"}, Driver.LOADABLE),
        ({f"{MODULES}/tun.ko": b""}, Driver.LOADABLE),
        ({f"{MODULES}/modules.dep": b"kernel/drivers/net/xtun.ko:\n"}, Driver.ABSENT),
        ({"proc/config.gz": gzipped("# CONFIG_TUN is not set\n")}, Driver.ABSENT),
        ({"proc/config.gz": gzipped("CONFIG_TUN=m\n")}, Driver.UNKNOWN),
        ({"proc/config.gz": gzipped("CONFIG_TUN=y\n")[:-12]}, Driver.UNKNOWN),
        ({"proc/config.gz": b"no gzip"}, Driver.UNKNOWN),
    ],
)
def test_where_the_driver_is(tmp_path: Path, files: dict[str, bytes], where: Driver) -> None:
    for name, data in files.items():
        write(tmp_path / name, data)
    assert driver(tmp_path) is where
    found = obstacle(tmp_path)
    assert found is not None
    assert (found.errno, found.detail.startswith("missing")) == (errno.ENODEV, True)
    assert where.value in found.detail


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        (
            {"proc/misc": b"200 tun\n"},
            "`mkdir -p /dev/net; mknod -m 666 /dev/net/tun c 10 200`; start a container with",
        ),
        ({f"{MODULES}/modules.dep": b"net/tun.ko:\n"}, "`modprobe tun`"),
        (
            {f"{MODULES}/modules.dep": b""},
            "build tun.ko from this kernel's source with CONFIG_TUN=m, or install it (Open",
        ),
        ({}, "`modprobe tun`; start a container with `--device /dev/net/tun`; without such a module, build tun.ko"),
    ],
)
def test_a_missing_node_has_the_advice_of_its_driver(tmp_path: Path, files: dict[str, bytes], advice: str) -> None:
    for name, data in files.items():
        write(tmp_path / name, data)
    found = obstacle(tmp_path)
    assert found is not None
    assert found.advice.startswith(advice)


@pytest.mark.parametrize("kind", ["directory", "file", "other", "below a file"])
@pytest.mark.usefixtures("root")
def test_something_else_in_its_place(tmp_path: Path, kind: str) -> None:
    match kind:
        case "directory":
            (tmp_path / NODE).mkdir(parents=True)
        case "file":
            write(tmp_path / NODE)
        case "other":
            node(tmp_path, os.makedev(1, 3))
        case "below a file":
            write(tmp_path / "dev" / "net")
    found = obstacle(tmp_path)
    assert found is not None
    assert found.errno == errno.ENODEV
    assert found.detail.startswith("missing" if kind == "below a file" else "not the device")
    assert "mknod" in found.advice or kind == "below a file"


@pytest.mark.parametrize(
    ("code", "mode", "words"),
    [
        (errno.EPERM, 0o666, "forbidden by the device rules of this container or service: start the container with"),
        (errno.EACCES, 0o600, "no permission, its mode is 0600: `chmod 666 /dev/net/tun`"),
        (errno.EACCES, 0o666, "on a file system without devices (nodev): start the container with"),
        (errno.EIO, 0o666, os.strerror(errno.EIO)),
    ],
)
@pytest.mark.usefixtures("root")
def test_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, mode: int, words: str) -> None:
    node(tmp_path, mode=mode)
    refuse(monkeypatch, code)
    found = obstacle(tmp_path)
    assert found is not None
    error = found.error("newlink", "va")
    assert error.errno == code
    assert str(error).startswith(f"newlink va: /dev/net/tun: {words}")


@pytest.mark.parametrize("code", [errno.ENODEV, errno.ENXIO])
@pytest.mark.usefixtures("root")
def test_no_driver_behind_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    node(tmp_path)
    refuse(monkeypatch, code)
    write(tmp_path / MODULES / "modules.dep", b"kernel/drivers/net/tun.ko.zst:\n")
    found = obstacle(tmp_path)
    assert found is not None
    assert tuple(found) == (errno.ENODEV, "no driver behind it: the tun module is not loaded", "`modprobe tun`")


@pytest.mark.usefixtures("root")
def test_a_lack_of_fds_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node(tmp_path)
    assert obstacle(tmp_path) is None
    refuse(monkeypatch, errno.EMFILE)
    assert obstacle(tmp_path) is None


def test_all_words_differ() -> None:
    assert len({tundev._ADVICE[where] for where in Driver}) == len({where.value for where in Driver}) == len(Driver)
    assert all(re.fullmatch(r"[^`]*(`[^`]+`[^`]*)+", advice) for advice in tundev._ADVICE.values())
