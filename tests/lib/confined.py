"""`python -m tests.lib.confined`: carry a frame by the native engine, and say what is forbidden here; JSON.

For a container: it shows that the engine runs under a container runtime's default seccomp profile.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import socket
from pathlib import Path

from tests.lib.seccomp import IO_URING_SETUP
from tests.lib.wait import DEADLINE_S
from vethd.model.spec import LinkSpec, PairSpec
from vethd.pairs import open_pair

ETHERTYPE = 0x88B5  # for local experiments
FRAME = b"\xff" * 6 + bytes(6) + ETHERTYPE.to_bytes(2, "big") + bytes(range(50))


async def _carry() -> dict[str, object]:
    loop = asyncio.get_running_loop()
    spec = PairSpec(name="va", up=True, peer=LinkSpec(name="vb", up=True))
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as near,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as far,
    ):
        async with asyncio.timeout(DEADLINE_S), open_pair(spec, engine="native") as pair:
            near.bind(("va", ETHERTYPE))
            far.bind(("vb", ETHERTYPE))
            near.setblocking(False)
            far.setblocking(False)
            await loop.sock_sendall(near, FRAME)
            return {"engine": pair.engine.name, "arrived": await loop.sock_recv(far, 1 << 16) == FRAME}


def main() -> None:
    """Print what came of it."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(IO_URING_SETUP, 1, None)
    code = ctypes.get_errno()
    print(json.dumps(asyncio.run(_carry()) | {"seccomp": int(status["Seccomp"]), "io_uring": code}))


if __name__ == "__main__":
    main()
