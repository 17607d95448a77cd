"""The writer of capture files, read back by a reader of the test's own, which follows the format's draft."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from tests.lib.pcapng import PACKET, blocks
from vethd.model import pcapng


def test_section_and_interface() -> None:
    section, interface = blocks(pcapng.section("vethd 1", "Linux", "why") + pcapng.interface("va", "va in red", "udp"))
    assert struct.unpack("=IHHq", section.head) == (0x1A2B3C4D, 1, 0, -1)
    assert (section.options[1], section.options[3], section.options[4]) == (b"why", b"Linux", b"vethd 1")
    assert struct.unpack("=HHI", interface.head) == (1, 0, pcapng.SNAPLEN)
    assert interface.options == {2: b"va", 3: b"va in red", 9: b"\x09", 11: b"\x00udp"}


@given(
    data=st.binary(max_size=70),
    more=st.integers(0, 65535),
    time_ns=st.integers(0, 2**63 - 1),
    comment=st.text(max_size=20),
    number=st.none() | st.integers(0, 2**64 - 1),
    queue=st.none() | st.integers(0, 255),
    verdict=st.sampled_from([b"", pcapng.VERDICT_DROPPED]),
)
def test_packet(  # noqa: PLR0917 - the fields of a block
    data: bytes, more: int, time_ns: int, comment: str, number: int | None, queue: int | None, verdict: bytes
) -> None:
    (found,) = blocks(
        pcapng.packet(1, time_ns, data, len(data) + more, comment=comment, number=number, queue=queue, verdict=verdict)
    )
    interface, high, low, kept, length = struct.unpack("=IIIII", found.head)
    assert (found.kind, interface, (high << 32) + low) == (PACKET, 1, time_ns)
    assert (kept, length, found.data) == (len(data), len(data) + more, data)
    assert struct.unpack("=I", found.options[2]) == (pcapng.PacketFlags.OUTBOUND,)
    assert found.options.get(1, b"") == comment.encode("utf-8", "replace")
    assert found.options.get(5) == (None if number is None else struct.pack("=Q", number))
    assert found.options.get(6) == (None if queue is None else struct.pack("=I", queue))
    assert found.options.get(7, b"") == verdict


def test_statistics() -> None:
    (found,) = blocks(pcapng.statistics(1, 5, received=4, accepted=3, dropped=2, delivered=1))
    assert struct.unpack("=III", found.head) == (1, 0, 5)
    assert [struct.unpack("=Q", found.options[code])[0] for code in (4, 6, 7, 8)] == [4, 3, 2, 1]


def test_a_text_longer_than_an_option_is_cut() -> None:
    (found,) = blocks(pcapng.interface("v" * 70_000))
    assert len(found.options[2]) == 65_535
