"""A client of the Container Runtime Interface (CRI), the gRPC by which a kubelet speaks to containerd or CRI-O.

A gRPC call is a POST over HTTP/2. Its body is five bytes, namely 0 (not compressed) and the length, and a protobuf
message. The status is in the trailers. curl speaks HTTP/2 over a unix socket, so no gRPC library is needed.

A request is a dict from field numbers to values: an int (also for an enum and a bool), a str, bytes, another such dict,
or a list of these for a repeated field. An answer is a dict from field numbers to lists of values. These are ints and
bytes; fields() decodes the bytes of a nested message. The numbers are those of
https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

Message = Mapping[int, Any]
Fields = dict[int, list[Any]]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # the wire types
_FIXED = {_FIXED64: 8, _FIXED32: 4}  # bytes


class CriError(Exception):
    """What the runtime refused."""

    def __init__(self, status: int, text: str) -> None:
        """Keep the code of gRPC and its text."""
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text


def varint(value: int) -> bytes:
    """Encode a number that is not negative, seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(values: Message) -> bytes:
    """Encode a message."""
    out = b""
    for number, given in values.items():
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, int):
                out += varint(number << 3 | _VARINT) + varint(value)
                continue
            data = message(value) if isinstance(value, Mapping) else value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | _LENGTH) + varint(len(data)) + data
    return out


def fields(data: bytes) -> Fields:
    """Decode one level of a message. Raises IndexError or KeyError if it is broken."""
    out: Fields = {}
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = number()
        value: int | bytes
        if tag & 7 == _VARINT:
            value = number()
        else:
            length = number() if tag & 7 == _LENGTH else _FIXED[tag & 7]
            value = data[at : at + length]
            at += length
        out.setdefault(tag >> 3, []).append(value)
    return out


def text(found: Fields, number: int) -> str:
    """Return a field that is a string; empty where it is not there."""
    return bytes(found.get(number, [b""])[0]).decode()


@dataclass(frozen=True)
class Cri:
    """A runtime's socket."""

    socket: Path
    timeout_s: float = 60.0

    def call(self, name: str, values: Message, service: str = "RuntimeService") -> Fields:
        """Call a method and return its answer. Raises CriError, or AssertionError where the runtime does not answer."""
        request = message(values)
        argv = ["curl", "--silent", "--show-error", "--include", "--http2-prior-knowledge", "--data-binary", "@-"]
        argv += ["--unix-socket", str(self.socket), "--max-time", str(self.timeout_s)]
        for header in ("content-type: application/grpc", "te: trailers"):
            argv += ["--header", header]
        argv.append(f"http://localhost/runtime.v1.{service}/{name}")
        sent = struct.pack(">BI", 0, len(request)) + request
        done = subprocess.run(argv, input=sent, capture_output=True, check=False)
        assert done.returncode == 0, f"{name}: {done.stderr.decode()}"
        return fields(_answer(done.stdout))


def _answer(out: bytes) -> bytes:
    """Return the message of a response: headers, a message or none, trailers or none. Raises CriError."""
    head, _, rest = out.partition(b"\r\n\r\n")
    if rest:
        length = struct.unpack_from(">xI", rest)[0]
        body, trailers = rest[5 : 5 + length], rest[5 + length :]
    else:  # what failed has only one block of headers
        body, trailers = b"", head
    said = dict(line.split(": ", 1) for line in trailers.decode().splitlines() if ": " in line)
    if said["grpc-status"] != "0":
        raise CriError(int(said["grpc-status"]), unquote(said.get("grpc-message", "")))
    return body
