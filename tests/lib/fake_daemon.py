"""A daemon that is not one: it speaks docs/api.md on both sockets, says what it is told to, and keeps what it heard."""

from __future__ import annotations

import os
import socket
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from vethd.model.api import EngineInfo, ErrorBody, Health, LinkInfo, LinkStats, PairInfo
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec, PairSpec

HOME = os.stat("/proc/thread-self/ns/net").st_ino  # noqa: PTH116


class Seen(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    body: Any
    fds: list[int]  # inodes


class Answer(NamedTuple):
    status: int
    body: Any = None
    raw: bytes | None = None
    lines: list[bytes] | None = None  # a chunked stream, cut off at its end


ASYNCIO = EngineInfo(name="asyncio", workers=0, spin_us=None, gro=True, fallback="it is not built")


class FakeDaemon:
    """Listen on directory/s.sock and directory/s.sock.fd in threads; a context manager that leaves none behind.

    Answers to one request given more than once are given in turn, the last one for ever.
    """

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "s.sock")
        self.seen: list[Seen] = []
        self._answers: dict[tuple[str, str], list[Answer]] = {}
        self.health()
        self.engine(ASYNCIO)

    def __enter__(self) -> Self:
        self._http = _HttpServer(self.path, _Handler)
        self._http.fake = self
        self._fd = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._fd.bind(self.path + ".fd")
        self._fd.listen()
        self._threads = [
            threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}),
            threading.Thread(target=self._serve_fds),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._fd.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._fd.close()

    def on(self, method: str, path: str, status: int = 200, body: Any = None, **answer: Any) -> None:
        self._answers.setdefault((method, path), []).append(Answer(status, body, **answer))

    def refuse(self, method: str, path: str, error: VethError, status: int = 400) -> None:
        self.on(method, path, status, ErrorBody(code=error.code, errno=error.errno, message=str(error)))

    def health(self, netns_inode: int = HOME) -> None:
        health = Health(
            status="ok",
            version="1.2.3",
            pid=7,
            engine="asyncio",
            uptime_s=1.0,
            netns_inode=netns_inode,
            pairs=1,
            waiting=0,
        )
        self._answers["GET", "/v1/health"] = [Answer(200, health)]

    def engine(self, info: EngineInfo) -> None:
        self._answers["GET", "/v1/engine"] = [Answer(200, info)]

    def asked(self, *methods: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.method in methods]

    def answer(self, method: str, target: str, body: bytes, fds: list[int]) -> Answer:
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        decoded = msgspec.json.decode(body) if body else None
        self.seen.append(Seen(method, parts.path, query, decoded, [os.fstat(fd).st_ino for fd in fds]))
        answers = self._answers.get((method, parts.path), [])
        if not answers:
            return Answer(404, ErrorBody(code="ENOENT", errno=2, message=f"route {parts.path}: not here"))
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def _serve_fds(self) -> None:
        while True:
            try:
                connection, _ = self._fd.accept()
            except OSError:
                return
            with connection, _received(connection) as (message, fds):
                request = msgspec.json.decode(message)
                body = msgspec.json.encode(request["body"]) if "body" in request else b""
                answer = self.answer(request["method"], request["path"], body, fds)
                raw = answer.raw
                connection.send(
                    msgspec.json.encode({"status": answer.status, "body": answer.body}) if raw is None else raw
                )


@contextmanager
def _received(connection: socket.socket) -> Iterator[tuple[bytes, list[int]]]:
    message, fds, _flags, _address = socket.recv_fds(connection, 1 << 16, 16)
    try:
        yield message, fds
    finally:
        for fd in fds:
            os.close(fd)


class _HttpServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    fake: FakeDaemon


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server.fake.answer(self.command, self.path, body, [])
        self.send_response(answer.status)
        if answer.lines is not None:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in answer.lines:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.close_connection = True
            return
        raw = answer.raw if answer.raw is not None else b"" if answer.body is None else msgspec.json.encode(answer.body)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815  http.server's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture(name="daemon")
def daemon_fixture() -> Iterator[FakeDaemon]:
    with tempfile.TemporaryDirectory() as directory, FakeDaemon(Path(directory)) as fake:
        yield fake


def link_info(name: str, peer: str = "", **more: Any) -> LinkInfo:
    values: dict[str, Any] = {
        "name": name, "pair": "p1", "netns": "", "netns_inode": HOME, "ifindex": 11, "address": "02:00:00:00:00:01",
        "mtu": 1500, "txqueuelen": 1000, "queues": 1, "group": 0, "alias": "", "altname": "", "master": "", "up": False,
        "carrier": False, "operstate": "down", "promisc": False, "allmulticast": False, "arp": True, "multicast": True,
        "peer_name": peer, "peer_ifindex": 12, "peer_netns": "",
    }  # fmt: skip
    return LinkInfo(**values | more)


def pair_info(spec: PairSpec | None = None, links: list[LinkInfo] | None = None, **more: Any) -> PairInfo:
    spec = PairSpec(name="va", peer=LinkSpec(name="vb")) if spec is None else spec
    links = [link_info("va", "vb"), link_info("vb", "va", ifindex=12)] if links is None else links
    values: dict[str, Any] = {
        "id": "p1", "state": "alive", "reason": "", "source": "runtime", "engine": "asyncio", "rx_checksum": "verify",
        "gro": True,
    }  # fmt: skip
    return PairInfo(**values | {"spec": spec, "links": links} | more)


def link_stats(name: str, peer: str = "", **more: Any) -> LinkStats:
    values: dict[str, Any] = {
        "name": name, "pair": "p1", "netns": "", "ifindex": 11, "peer_name": peer, "peer_ifindex": 12,
        "peer_netns": "blue", "rx_packets": 3, "rx_bytes": 300, "tx_packets": 1_234_567, "tx_bytes": 9_876_543_210,
        "rx_dropped": 0, "tx_dropped": 2, "carrier_changes": 1, "read": 5, "read_bytes": 500, "forwarded": 4,
        "forwarded_bytes": 400,
        "in_flight": 0, "drops": {"oversize": 0, "no_peer": 1, "kernel_no_carrier": 2}, "write_errors": {},
    }  # fmt: skip
    return LinkStats(**values | more)
