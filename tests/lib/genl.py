"""Generic netlink, as little of it as the tests need. Numbers stand in include/uapi/linux/genetlink.h."""

from __future__ import annotations

import os
import socket
import struct
from typing import Self

from tests.lib.netns import Netns
from tests.lib.rtnl import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    Attrs,
    messages,
    nest,
    parse_attrs,
    text,
)

NETLINK_GENERIC = 16
GENL_ID_CTRL = 16
CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 3, 1, 2
HEADER = struct.Struct("=BBxx")  # command, version


class Genl:
    """A socket in one namespace that speaks to one family."""

    def __init__(self, netns: Netns, family: str) -> None:
        """Open the socket and ask for the family's number. Raises OSError ENOENT where there is none."""
        self.sock = netns.run(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        self._family = GENL_ID_CTRL
        (answer,) = self.request(CTRL_CMD_GETFAMILY, [(CTRL_ATTR_FAMILY_NAME, text(family))])
        self._family = int.from_bytes(parse_attrs(answer)[CTRL_ATTR_FAMILY_ID], "little")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def request(self, command: int, attrs: Attrs, *, dump: bool = False) -> list[bytes]:
        """Send one request and return the attributes of each answer. Raises OSError with the kernel's errno."""
        body = HEADER.pack(command, 1) + nest(attrs)
        flags = NLM_F_REQUEST | NLM_F_ACK | (NLM_F_DUMP if dump else 0)
        self.sock.send(struct.pack("=IHHII", 16 + len(body), self._family, flags, 1, 0) + body)
        answers: list[bytes] = []
        while True:
            for kind, payload in messages(self.sock.recv(1 << 17)):
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    return answers
                if kind == NLMSG_DONE:
                    return answers
                answers.append(payload[HEADER.size :])
