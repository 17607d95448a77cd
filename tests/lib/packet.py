"""AF_PACKET sockets: frames sent and captured byte for byte, VLAN tags put back where the stack took them out."""

from __future__ import annotations

import socket
import struct
import time
from typing import NamedTuple, Self

from tests.lib.frames import ETH_P_TEST, Vnet
from tests.lib.netns import Netns
from tests.lib.wait import DEADLINE_S, readable

SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
PACKET_AUXDATA = 8
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
PACKET_MR_PROMISC = 1
PACKET_OUTGOING = 4  # a packet's type
SO_RCVBUFFORCE = 33
ETH_P_ALL = 3
TP_STATUS_CSUMNOTREADY = 1 << 3
TP_STATUS_VLAN_VALID = 1 << 4
TP_STATUS_VLAN_TPID_VALID = 1 << 6

_AUXDATA = struct.Struct("=IIIHHHH")  # tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid
VNET_LEN = 10


class Captured(NamedTuple):
    """A frame as the device received it. csum_partial: its checksum is still to be completed."""

    frame: bytes
    vnet: Vnet
    csum_partial: bool

    @property
    def proto(self) -> int:
        """The type field behind the addresses; a VLAN tag's TPID where there is one."""
        return int.from_bytes(self.frame[12:14], "big")


class PacketSocket:
    """A raw socket bound to one device; captures what the device receives, whoever it is for, or else what it sends.

    It pins its namespace: close it before you wait for a namespace's death.
    """

    def __init__(self, netns: Netns, ifname: str, *, vnet: bool = False, outgoing: bool = False) -> None:
        """Open and bind; vnet puts a virtio_net_hdr before every frame, both ways; outgoing captures what is sent."""
        self.vnet = vnet
        self.outgoing = outgoing
        self.sock = netns.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self.sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self.sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, int(not outgoing))
        if vnet:
            self.sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        self.sock.bind((ifname, ETH_P_ALL))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; again is no error."""
        self.sock.close()

    def forget_error(self) -> None:
        """Take the ENETDOWN that the device's going down left for the next call."""
        self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def send(self, frame: bytes, vnet: Vnet | None = None) -> None:
        """Hand one frame to the device. Raises OSError, e.g. ENOBUFS where a noqueue device dropped it."""
        self.sock.send((vnet or Vnet()).pack() + frame if self.vnet else frame)

    def recv(self, deadline_s: float = DEADLINE_S) -> Captured:
        """Take the next frame. Raises AssertionError where none comes within deadline_s."""
        assert readable(self.sock.fileno(), deadline_s), f"no frame within {deadline_s} s"
        return self.take()

    def take(self) -> Captured:
        """Take a frame that is there. Raises BlockingIOError where none is."""
        while True:
            data, ancillary, _, address = self.sock.recvmsg((1 << 16) + 64, 256, socket.MSG_DONTWAIT)
            if (address[2] == PACKET_OUTGOING) is self.outgoing:
                break
        vnet = Vnet.parse(data) if self.vnet else Vnet()
        frame = data[VNET_LEN:] if self.vnet else data
        status, tci, tpid = 0, 0, 0
        for level, kind, aux in ancillary:
            if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                status, _, _, _, _, tci, tpid = _AUXDATA.unpack(aux[: _AUXDATA.size])
        if status & TP_STATUS_VLAN_VALID:
            tpid = tpid if status & TP_STATUS_VLAN_TPID_VALID else 0x8100
            frame = frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:]
        return Captured(frame, vnet, bool(status & TP_STATUS_CSUMNOTREADY))

    def recv_proto(self, proto: int = ETH_P_TEST, deadline_s: float = DEADLINE_S) -> Captured:
        """Take the next frame of that type; others are passed over."""
        end = time.monotonic() + deadline_s
        while True:
            got = self.recv(max(end - time.monotonic(), 0))
            if got.proto == proto:
                return got

    def drained(self) -> list[Captured]:
        """Take all that is there."""
        out = []
        while True:
            try:
                out.append(self.take())
            except BlockingIOError:
                return out
