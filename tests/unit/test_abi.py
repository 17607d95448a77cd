"""The numbers of the kernel's user API on every architecture, against those that its headers give there."""

from __future__ import annotations

import fcntl
import os
import struct

import pytest

from vethd.kernel import uapi
from vethd.kernel.abi import bpf_number, bpf_registers, ioctl_none, ioctl_read, ioctl_write

GENERIC = ("x86_64", "i686", "aarch64", "armv6l", "armv7l", "armv8l", "riscv64", "loongarch64", "s390x", "m68k")
ODD = ("mips", "mips64", "ppc", "ppc64", "ppc64le", "sparc", "sparc64", "alpha")


@pytest.mark.parametrize("machine", GENERIC)
def test_ioctls_of_most_architectures(machine: str) -> None:
    assert ioctl_write(ord("T"), 202, 4, machine) == 0x400454CA  # TUNSETIFF
    assert ioctl_read(ord("T"), 210, 4, machine) == 0x800454D2  # TUNGETIFF
    assert ioctl_none(0xB7, 3, machine) == 0xB703  # NS_GET_NSTYPE


@pytest.mark.parametrize("machine", ODD)
def test_ioctls_with_three_bits_of_direction(machine: str) -> None:
    assert ioctl_write(ord("T"), 202, 4, machine) == 0x800454CA
    assert ioctl_read(ord("T"), 210, 4, machine) == 0x400454D2
    assert ioctl_none(0xB7, 3, machine) == 0x2000B703


def test_ioctls_of_parisc() -> None:
    assert ioctl_write(ord("T"), 202, 4, "parisc64") == 0x800454CA
    assert ioctl_read(ord("T"), 210, 4, "parisc64") == 0x400454D2
    assert ioctl_none(0xB7, 3, "parisc64") == 0xB703


def test_ioctls_here_are_known_to_the_kernel() -> None:
    """ENOTTY would say that it does not know them."""
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        assert fcntl.ioctl(fd, uapi.NS_GET_NSTYPE) == uapi.CLONE_NEWNET
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("machine", "pointer", "number"),
    [
        ("x86_64", 8, 321),
        ("x86_64", 4, 357),  # a program of 32 bits on a 64-bit kernel
        ("i686", 4, 357),
        ("aarch64", 8, 280),
        ("aarch64", 4, 386),
        ("armv6l", 4, 386),
        ("armv8l", 4, 386),
        ("riscv64", 8, 280),
        ("loongarch64", 8, 280),
        ("mips", 4, 4355),
        ("mips64", 8, 5315),
        ("ppc64le", 8, 361),
        ("ppc", 4, 361),
        ("s390x", 8, 351),
        ("vax", 4, None),
    ],
)
def test_number_of_bpf(machine: str, pointer: int, number: int | None) -> None:
    assert bpf_number(machine, pointer) == number


def test_registers_of_an_instruction() -> None:
    """struct bpf_insn has dst_reg:4 before src_reg:4."""
    assert struct.pack("B", bpf_registers(1, 6, "little")) == b"\x61"
    assert struct.pack("B", bpf_registers(1, 6, "big")) == b"\x16"
