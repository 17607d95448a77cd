"""Batches for coalescers, mostly of flows that go on as they began, with everything that ends one.

batches() is hypothesis's, for one look; session() is long and at random, for what is remembered between looks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from random import Random

from hypothesis import strategies as st

from tests.lib.frames import Vnet, ether, sized, tagged
from tests.lib.segments import ACK, PSH, TCP, UDP, VNET_LEN, Segment, cut, finished, numbered

FLOW_COUNT = 20  # more than are open at once
SIZES = (1, 2, 63, 64, 1000)
FLOWS = tuple(
    Segment(
        payload=b"x" * SIZES[n % 5],
        proto=TCP if n % 2 else UDP,
        src="fd00::1" if n % 4 > 1 else "10.0.0.1",
        dst="fd00::2" if n % 4 > 1 else "10.0.0.2",
        dport=2000 + n,
        ip_id=0xFFFE + n % 3 if n % 3 < 2 else 7,  # two that wrap soon
        seq=0xFFFFFF00 if n % 5 == 1 else n,
        options=b"\x01\x01\x08\x0a" + bytes(8) if n % 3 else b"",
    )
    for n in range(FLOW_COUNT)
)
# what makes a segment one that its flow's last would not be followed by, or should not be taken with it
CHANGES: tuple[dict[str, object], ...] = (
    {"flags": ACK | PSH},
    {"flags": ACK | 1},
    {"flags": ACK | 0x40},
    {"flags": ACK | 0x80},
    {"flags": ACK | 0x20, "urgent": 1},
    {"flags": 0},
    {"urgent": 1},
    {"reserved": 1},
    {"window": 501},
    {"ack": 78},
    {"options": b"\x01\x01\x08\x0a" + bytes(7) + b"\x01"},
    {"options": b""},
    {"tos": 1},
    {"ttl": 63},
    {"fragment": 0},
    {"fragment": 0x8000},
    {"fragment": 0x2000},
    {"fragment": 0x0001},
    {"flow_label": 5},
    {"ip_id": 0},
    {"seq": 12345},
    {"dst_mac": "03:00:00:00:aa:02"},
    {"dst_mac": "ff:ff:ff:ff:ff:ff"},
    {"src_mac": "02:00:00:00:aa:09"},
    {"check_error": 1},
    {"finished": True},
)
OTHERS = (
    Vnet().pack() + sized(60),
    Vnet().pack() + ether(b"\0\1" + bytes(26), proto=0x0806),
    Vnet().pack() + tagged(FLOWS[0].but(finished=True).frame(), 5),
    Vnet().pack() + ether(b"\x46" + Segment().frame()[15:34] + bytes(4) + Segment().frame()[34:], proto=0x0800),
    Vnet().pack() + ether(b"", proto=0x0800),
    Vnet(1, 5, 42, 100, 34, 6).pack() + Segment(payload=bytes(200)).frame(),
)


@st.composite
def batches(draw: st.DrawFn, vnet_hdr_len: int = VNET_LEN, longest: int = 64) -> list[bytes]:
    """Return up to longest frames behind their headers, as one look at a queue might."""
    current = list(draw(st.permutations(FLOWS)))[: draw(st.sampled_from((1, 1, 2, 3, FLOW_COUNT)))]
    out = []
    for n in range(draw(st.integers(0, longest))):
        which = draw(st.integers(0, len(current) - 1))
        data, current[which] = draw(_next(current[which], n))
        tail = bytes([draw(st.sampled_from((0, 0, 0, 0, 0, 0, 0, 1)))]) + bytes(13)
        out.append(data[:VNET_LEN] + tail[: vnet_hdr_len - VNET_LEN] + data[VNET_LEN:])
    return out


@st.composite
def _next(draw: st.DrawFn, segment: Segment, n: int) -> tuple[bytes, Segment]:
    """Return a frame, most often the flow's next one, and what the flow goes on with."""
    segment = segment.but(payload=numbered(len(segment.payload), n))
    match draw(st.integers(0, 15)):
        case 0:
            return draw(st.sampled_from(OTHERS)), segment
        case 1:
            odd = segment.but(**draw(st.sampled_from(CHANGES)))
            return odd.data(), segment.after()
        case 2:  # for good
            segment = segment.but(**draw(st.sampled_from(CHANGES)))
        case 3:
            data = segment.data()
            length = draw(st.integers(1, len(data)))  # an empty message would be the end of the stream to a reader
            return data[:length] if draw(st.booleans()) else data + bytes(length % 9), segment.after()
        case 4:  # any bit of any header
            flipped = bytearray(segment.data())
            bit = draw(st.integers(0, min(len(flipped), 100) * 8 - 1))
            flipped[bit // 8] ^= 1 << bit % 8
            return bytes(flipped), segment.after()
        case 5:
            other = segment.but(payload=numbered(draw(st.sampled_from((0, 1, 2, 64, 65, 900, 1001, 1400))), n))
            return other.data(), other.after(segment.payload)
    return segment.data(), segment.after()


def session(random: Random, looks: int, vnet_hdr_len: int = VNET_LEN) -> Iterator[list[bytes]]:
    """Yield batches of 2 to 64 frames in which the same flows go on and on, and come back to where they were."""
    current = random.sample(FLOWS, random.choice((1, 1, 2, 3, 8, FLOW_COUNT)))
    oddity = random.choice((0.0, 0.02, 0.1, 0.4))
    for _ in range(looks):
        batch = []
        for _ in range(random.choice((2, 3, 5, 16, 64))):
            which = random.randrange(len(current))
            segment = current[which].but(payload=numbered(len(current[which].payload), random.getrandbits(32)))
            if random.random() < oddity:
                data, current[which] = _odd(random, segment)
            else:
                data, current[which] = segment.data(), segment.after()
            tail = (bytes([random.random() < 0.02]) + bytes(13))[: vnet_hdr_len - VNET_LEN]
            batch.append(data[:VNET_LEN] + tail + data[VNET_LEN:])
        yield batch


def _odd(random: Random, segment: Segment) -> tuple[bytes, Segment]:
    """Return a frame that is not what was to be expected, and what its flow goes on with."""
    data = segment.data()
    match random.randrange(9):
        case 0:
            return random.choice(OTHERS), segment
        case 1:
            return segment.but(**random.choice(CHANGES)).data(), segment.after()
        case 2:
            segment = segment.but(**random.choice(CHANGES))
            return segment.data(), segment.after()
        case 3:
            flipped = bytearray(data)
            bit = random.randrange(min(len(data), 100) * 8)
            flipped[bit // 8] ^= 1 << bit % 8
            return bytes(flipped), segment.after()
        case 4:
            cut_off = (
                data[: random.randint(1, len(data))] if random.random() < 0.5 else data + bytes(random.randint(1, 8))
            )
            return cut_off, random.choice((segment, segment.after()))
        case 5:
            other = segment.but(payload=numbered(random.choice((0, 1, 2, 64, 65, 900, 1001, 1400)), 7))
            return other.data(), random.choice((segment, other.after(segment.payload), other.after()))
        case 6:  # what the sender's queue dropped
            for _ in range(random.randint(1, 5)):
                segment = segment.after()
        case 7:  # once more
            return data, segment
        case 8:
            seqs = (segment.seq, -len(segment.payload) % (1 << 32), (1 << 32) - 1, random.getrandbits(32))
            segment = segment.but(
                ip_id=random.choice((0, 0xFFFF, 0xFFFE, random.getrandbits(16))), seq=random.choice(seqs)
            )
    return segment.data(), segment.after()


def flow(frame: bytes) -> bytes | None:
    """Return what frames must stay in order by; None for what must stay in order with all."""
    if frame[12:15] == b"\x08\x00\x45" and len(frame) >= 38 and frame[23] in (TCP, UDP):
        return None if frame[20] & 0x3F or frame[21] else frame[23:24] + frame[26:38]
    if frame[12:14] == b"\x86\xdd" and len(frame) >= 58 and frame[14] >> 4 == 6 and frame[20] in (TCP, UDP):
        return frame[20:21] + frame[22:58]
    return None


def what_leaves(batch: Sequence[bytes], written: Sequence[bytes], vnet_hdr_len: int) -> list[dict[bytes, list[bytes]]]:
    """Return what a machine sends on of what its TAP was written: per flow, in order, between any two barriers.

    What of batch was written as it was stays whole: whoever sent it answers for it.
    """
    whole = set(batch)
    spans: list[dict[bytes, list[bytes]]] = [defaultdict(list)]
    for data in written:
        for frame in [_whole(data, vnet_hdr_len)] if data in whole else cut(data, vnet_hdr_len):
            key = flow(frame)
            if key is None:
                spans += [{b"": [frame]}, defaultdict(list)]
            else:
                spans[-1][key].append(frame)
    return spans


def _whole(data: bytes, vnet_hdr_len: int) -> bytes:
    vnet = Vnet.parse(data.ljust(VNET_LEN, b"\0"))
    cuttable = vnet.csum_start + vnet.csum_offset + 2 <= len(data) - vnet_hdr_len
    return finished(data, vnet_hdr_len) if cuttable and not vnet.gso_type else data[vnet_hdr_len:]
