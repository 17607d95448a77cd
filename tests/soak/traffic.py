"""The traffic: stamped datagrams over many pairs at once, TCP transfers whose hashes are compared, pings."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from contextlib import suppress
from typing import IO

import msgspec

from tests.lib.frames import csum
from tests.lib.load import Loads
from tests.lib.wait import readable
from tests.soak.stage import Stage, Wrong
from tests.soak.windows import FlowEvent
from tests.soak.world import Room

TELL_S = 20.0
TRANSFER_S = 60.0  # the TCP timers back off over a restart or two
CHUNK = 64 << 10
RATE = 3 << 20  # bytes a second of a transfer: leave the machine to the others
PORT = 5201
PING_S = 20.0  # for the last replies
ECHO = 8


class FlowTotals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one flow stands; see tests/lib/load/flows.c. heard, lost, late and doubled are of what it sent."""

    mark: int
    side: int
    sent: int
    refused: int
    heard: int
    lost: int
    late: int
    doubled: int
    foreign: int
    corrupt: int
    socket_drops: int
    heard_ns: int


class _Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    at_ns: int
    flows: list[FlowTotals]


Totals = dict[tuple[int, int], FlowTotals]


class Flows:
    """`load flows` at work. For several threads."""

    def __init__(self, loads: Loads) -> None:
        """Start it, without a flow."""
        self.events: deque[FlowEvent] = deque()
        self._told: deque[_Told] = deque()
        self._asking = threading.Lock()
        self._process = subprocess.Popen(
            [str(loads.program), "flows"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert readable(self._process.stdout.fileno(), TELL_S), "load flows did not begin"
        assert self._process.stdout.readline() == "ready\n"
        self._news = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), name="flows")
        self._reader.start()

    def add(self, room: Room, mark: int, side: int, rate: float) -> None:
        """Hear in one more namespace, and send from there about rate datagrams a second, once told to go."""
        self._say(f"add {room.path} {mark} {side} {rate}")

    def go(self) -> None:
        """Begin to send, all that have not begun."""
        self._say("go")

    def totals(self) -> Totals:
        """Ask how it stands. Raises Wrong where no answer comes."""
        with self._asking:
            self._news.clear()
            self._say("tell")
            end = time.monotonic() + TELL_S
            while not self._told:
                if self._process.poll() is not None or not self._news.wait(max(end - time.monotonic(), 0)):
                    raise Wrong(f"load flows does not answer: {self._process.poll()}")
                self._news.clear()
            return {(flow.mark, flow.side): flow for flow in self._told.popleft().flows}

    def end(self) -> None:
        """Send no more."""
        self._say("end")

    def close(self) -> None:
        """Let it go."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise Wrong(f"load flows ended with {self._process.wait()}") from error

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            if line.startswith('{"event"'):
                self.events.append(msgspec.json.decode(line, type=FlowEvent))
            else:
                self._told.append(msgspec.json.decode(line, type=_Told))
                self._news.set()
        self._news.set()


def transfer(rooms: tuple[Room, Room], far_ip: str, size: int, seed: int, stage: Stage) -> None:
    """Send size random bytes by TCP, and compare the hashes of what went in and what came out. Raises Wrong."""
    near, far = rooms
    door = far.run(socket.socket)
    sender = near.run(socket.socket)
    came = hashlib.sha256()
    errors: list[OSError] = []

    def receive() -> None:
        try:
            connection, _ = door.accept()
            connection.settimeout(TRANSFER_S)
            with connection:
                while data := connection.recv(CHUNK):
                    came.update(data)
        except OSError as error:
            errors.append(error)

    went = hashlib.sha256()
    dice = random.Random(seed)
    with door, sender:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.settimeout(TRANSFER_S)
        door.bind((far_ip, PORT))
        door.listen(1)
        receiver = threading.Thread(target=receive, name="transfer")
        receiver.start()
        try:
            sender.settimeout(TRANSFER_S)
            sender.connect((far_ip, PORT))
            for _ in range(size // CHUNK):
                data = dice.randbytes(CHUNK)
                went.update(data)
                sender.sendall(data)
                if stage.over.wait(CHUNK / RATE):
                    break
            sender.shutdown(socket.SHUT_WR)
        except OSError as error:
            errors.append(error)
        receiver.join(TRANSFER_S * 2)
    if errors or receiver.is_alive():
        raise Wrong(f"the TCP transfer did not come through: {errors}")
    if went.digest() != came.digest():
        raise Wrong("the TCP transfer came through with other bytes than it went")


def ping(room: Room, address: str, count: int) -> tuple[int, int]:
    """Ping, ten a second; return how many were sent and how many came back. Raises Wrong where one came twice.

    ping(8) waits for the last replies for two round trips only, and not while a daemon is restarted.
    """
    ident = random.getrandbits(16)
    back: list[int] = []
    with room.run(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.connect((address, 0))
        for number in range(count):
            echo = struct.pack("!BBHHH", ECHO, 0, 0, ident, number)
            sock.send(echo[:2] + (csum(echo) ^ 0xFFFF).to_bytes(2, "big") + echo[4:])
            last = number + 1 == count
            end = time.monotonic() + (PING_S if last else 0.1)
            while (left := end - time.monotonic()) > 0 and not (last and len(back) == count):
                if readable(sock.fileno(), left):
                    kind, _, _, its, which = struct.unpack_from("!BBHHH", sock.recv(2048), 20)
                    back += [which] if (kind, its) == (0, ident) else []
    if len(set(back)) != len(back):
        raise Wrong(f"ping: replies {back}")
    return count, len(back)
