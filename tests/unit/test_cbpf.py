"""Classic BPF: the check and the two interpreters against the kernel's, over a socket pair with the filter attached."""

from __future__ import annotations

import ctypes
import errno
import importlib
import socket
import struct
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lib.frames import ETH_P_IP, ether, udp
from vethd.model.cbpf import LENGTH_MAX, Instruction, check, run
from vethd.model.errors import VethError

SO_ATTACH_FILTER = 26
WHOLE = 0x40000
UDP_53 = [  # tcpdump -ddd 'udp port 53', IPv4's half
    Instruction(0x28, 0, 0, 12),
    Instruction(0x15, 0, 10, 0x0800),
    Instruction(0x30, 0, 0, 23),
    Instruction(0x15, 0, 8, 17),
    Instruction(0x28, 0, 0, 20),
    Instruction(0x45, 6, 0, 0x1FFF),
    Instruction(0xB1, 0, 0, 14),
    Instruction(0x48, 0, 0, 14),
    Instruction(0x15, 2, 0, 53),
    Instruction(0x48, 0, 0, 16),
    Instruction(0x15, 0, 1, 53),
    Instruction(0x06, 0, 0, WHOLE),
    Instruction(0x06, 0, 0, 0),
]


@pytest.fixture(scope="module", name="native")
def native_fixture() -> ModuleType:
    return importlib.import_module("vethd.datapath._native")


def packed(program: list[Instruction]) -> bytes:
    return b"".join(struct.pack("=HBBI", *one) for one in program)


class Kernel:
    """The kernel's interpreter: a frame is accepted if it arrives."""

    def __init__(self, program: list[Instruction]) -> None:
        """Attach the program. Raises OSError EINVAL where the kernel refuses it."""
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.far.setblocking(False)
        code = ctypes.create_string_buffer(packed(program))
        fprog = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
        try:
            self.far.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)
        except OSError:
            self.close()
            raise

    def run(self, frame: bytes) -> int:
        """Return how many bytes of the frame are let through."""
        self.near.send(frame)
        try:
            return len(self.far.recv(1 << 16))
        except BlockingIOError:
            return 0

    def close(self) -> None:
        self.near.close()
        self.far.close()


CODES = st.sampled_from(
    [
        0x00,
        0x01,
        0x02,
        0x03,
        0x20,
        0x28,
        0x30,
        0x40,
        0x48,
        0x50,
        0x60,
        0x61,
        0x80,
        0x81,
        0xB1,
        0x05,
        0x06,
        0x16,
        0x07,
        0x87,
    ]
    + [0x04 | operation | source for operation in range(0, 0xB0, 0x10) for source in (0, 8)]
    + [0x05 | operation | source for operation in (0x10, 0x20, 0x30, 0x40) for source in (0, 8)]
)
NUMBERS = st.integers(0, 40) | st.sampled_from([53, 0x0800, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])


@st.composite
def programs(draw: st.DrawFn) -> list[Instruction]:
    """Programs of which a good part passes the check."""
    body = draw(
        st.lists(
            st.builds(Instruction, CODES, st.integers(0, 3), st.integers(0, 3), NUMBERS),
            max_size=12,
        )
    )
    return [*body, Instruction(draw(st.sampled_from([0x06, 0x16])), 0, 0, WHOLE)]


def refused_by_kernel(program: list[Instruction]) -> bool:
    try:
        Kernel(program).close()
    except OSError as error:
        return error.errno == errno.EINVAL
    return False


def refused(program: list[Instruction]) -> bool:
    try:
        check(program)
    except VethError as error:
        return error.errno == errno.EINVAL
    return False


@settings(max_examples=600)
@given(program=programs())
def test_the_check_is_the_kernels(program: list[Instruction]) -> None:
    """A negative offset is the one thing that it refuses and the kernel may not: what the kernel adds to a frame."""
    if any(one.code & 7 == 0 and one.code & 0xE0 in (0x20, 0x40) and one.k >= 1 << 31 for one in program):
        return
    # the kernel also refuses to load a word that no path has stored
    if any(one.code in (0x60, 0x61) for one in program):
        assert refused_by_kernel(program) or not refused(program)
        return
    assert refused(program) == refused_by_kernel(program)


@settings(max_examples=600)
@given(program=programs(), frame=st.binary(min_size=1, max_size=64))
def test_every_interpreter_says_the_same(native: ModuleType, program: list[Instruction], frame: bytes) -> None:
    if refused(program):
        return
    result = run(program, frame)
    assert native.filtered(packed(program), frame) == result
    if not refused_by_kernel(program):
        kernel = Kernel(program)
        assert kernel.run(frame) == min(result, len(frame))
        kernel.close()


def test_a_real_one(native: ModuleType) -> None:
    check(UDP_53)
    question = ether(udp(("10.0.0.1", 4000), ("10.0.0.2", 53), b"?"), proto=ETH_P_IP)
    other = ether(udp(("10.0.0.1", 4000), ("10.0.0.2", 54), b"?"), proto=ETH_P_IP)
    for interpreter in (lambda frame: run(UDP_53, frame), lambda frame: native.filtered(packed(UDP_53), frame)):
        assert [interpreter(frame) for frame in (question, other, b"")] == [WHOLE, 0, 0]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ([], "does not return"),
        ([Instruction(0x28, 0, 0, 12)], "does not return"),
        ([Instruction(0x15, 1, 0, 0), Instruction(6, 0, 0, 0)], "instruction 0 jumps out"),
        ([Instruction(0x05, 0, 0, 1 << 31), Instruction(6, 0, 0, 0)], "instruction 0 jumps out"),
        ([Instruction(0x34, 0, 0, 0), Instruction(6, 0, 0, 0)], "instruction 0 divides by 0"),
        ([Instruction(0x02, 0, 0, 16), Instruction(6, 0, 0, 0)], "instruction 0 uses word 16"),
        ([Instruction(0x28, 0, 0, 0xFFFFF000), Instruction(6, 0, 0, 0)], "not in the frame"),
        ([Instruction(0x99, 0, 0, 0), Instruction(6, 0, 0, 0)], "unknown code 0x99"),
        ([Instruction(0x28, 0, 0, 1 << 32), Instruction(6, 0, 0, 0)], "out of range"),
        ([Instruction(0x00, 0, 0, 0)] * LENGTH_MAX + [Instruction(6, 0, 0, 0)], "4097 instructions"),
    ],
)
def test_refusals(program: list[Instruction], said: str) -> None:
    with pytest.raises(VethError, match=said):
        check(program)
