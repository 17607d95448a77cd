"""What vethctl prints on a terminal: within its width, with no word broken, and without control sequences."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lib.fake_daemon import FakeDaemon, daemon_fixture, link_info, link_stats, pair_info
from vethd.control.doctor import checks_table
from vethd.control.show import STATS_COLUMNS, stats_table
from vethd.control.table import wrapped
from vethd.daemon import logs
from vethd.kernel.probe import Check
from vethd.kernel.tundev import _ADVICE
from vethd.model.api import EngineInfo
from vethd.model.spec import LinkSpec, PairSpec

__all__ = ["daemon_fixture"]  # pytest knows it as daemon

END_S = 60.0
WIDTHS = (80, 60)
LONG = "no network namespace a-name-of-a-namespace-that-is-rather-long, and no process of that number either"
DROPS = {"kernel_oversize": 2, "kernel_queue_full": 2713, "peer_down": 12, "kernel_no_carrier": 1_234_567}


def on_a_terminal(columns: int, *args: str, env: Mapping[str, str] | None = None) -> str:
    """Run vethctl on a terminal of that width, to its end; return what it printed."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    clean = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
    argv = [sys.executable, "-m", "vethd.control.main", *args]
    process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=clean | dict(env or {}))
    os.close(slave)
    printed = bytearray()
    try:
        while chunk := _read(master):
            printed += chunk
    finally:
        os.close(master)
        process.wait(END_S)
    return printed.decode().replace("\r\n", "\n")


def _read(master: int) -> bytes:
    try:
        return os.read(master, 1 << 16)
    except OSError:  # EIO: nobody has the terminal any more
        return b""


@pytest.mark.parametrize("columns", WIDTHS)
def test_every_command_keeps_to_the_width(daemon: FakeDaemon, columns: int) -> None:
    far = link_info("vb", "va", netns="a-namespace-with-a-long-name", ifindex=123456, mtu=65521)
    waiting = pair_info(PairSpec(name="vc", peer=LinkSpec(name="vd")), [], id="p2", state="waiting", reason=LONG)
    daemon.on("GET", "/v1/pairs", body=[pair_info(PairSpec(name="va"), [link_info("va", "vb"), far]), waiting])
    daemon.on("GET", "/v1/stats", body=[link_stats("va", "vb", drops=DROPS), link_stats("vb", "va")])
    daemon.engine(EngineInfo(name="asyncio", workers=0, spin_us=None, gro=True, fallback=LONG))
    event = b'{"seq":1,"time":2.5,"event":"link_up","pair":"p2","link":"vc","netns":"","detail":"%s"}\n'
    daemon.on("GET", "/v1/events", lines=[event % LONG.encode()])
    top = ("top", "--count", "1", "--interval", "0.01")
    for args in (("show",), ("stats",), ("engine",), ("monitor",), top):
        text = on_a_terminal(columns, "--socket", daemon.path, *args, env={"TERM": "dumb"})
        assert "\x1b" not in text, text
        lines = [line for line in text.splitlines() if not line.startswith("vethctl: ")]  # one sentence: see docs
        assert max(map(len, lines)) <= columns, args
        words = set(text.split())
        if args[0] in ("show", "engine", "monitor"):
            assert set(LONG.split()) <= words
        if args[0] == "stats":
            assert {f"{reason}={number}" for reason, number in DROPS.items() if number < 100_000} <= {
                word.rstrip(",") for word in words
            }


def test_a_terminal_that_knows_sequences_is_cleared(daemon: FakeDaemon) -> None:
    daemon.on("GET", "/v1/stats", body=[link_stats("va", "vb")])
    args = ("--socket", daemon.path, "top", "--count", "1", "--interval", "0.01")
    assert "\x1b[2J" in on_a_terminal(80, *args, env={"TERM": "xterm"})


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("advice", _ADVICE.values())
def test_advice_can_be_copied(columns: int, advice: str) -> None:
    """A command stays on one line."""
    check = Check(name="/dev/net/tun", ok=False, required=True, detail="missing", advice=advice)
    path = Check(name="vethd-ip", ok=False, required=False, detail="-", advice="PATH=/usr/lib/vethd/ip:$PATH")
    lines = checks_table([check, path]).fitted(columns).splitlines()
    assert max(map(len, lines)) <= columns
    for command in (*re.findall(r"`[^`]*`", advice), "PATH=/usr/lib/vethd/ip:$PATH"):
        assert sum(command in line for line in lines) >= 1, command


def test_an_empty_table_has_its_heads() -> None:
    lines = stats_table([], exact=True).fitted(40).splitlines()
    assert max(map(len, lines)) <= 40
    assert " ".join(lines).split() == [name.removeprefix(">") for name in STATS_COLUMNS]


def test_counts_are_not_broken() -> None:
    lines = stats_table([link_stats("va", "vb", drops=DROPS)], exact=True).fitted(40).splitlines()
    assert max(map(len, lines)) <= 40
    assert sum(f"{reason}={number}" in line for reason, number in DROPS.items() for line in lines) == len(DROPS)


@given(
    words=st.lists(st.text("abc`", min_size=1, max_size=30), max_size=30),
    head=st.text("h", max_size=20),
    width=st.integers(24, 100),
)
def test_wrapped_breaks_at_spaces_alone(words: list[str], head: str, width: int) -> None:
    text = wrapped(f"{head} ", " ".join(words), width)
    assert text.split() == [*head.split(), *words]
    room = max(map(len, words), default=0)
    assert max(map(len, text.splitlines()), default=0) <= max(width, room + 2)


@pytest.mark.parametrize(
    ("terminal", "env", "colours"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {}, False),
        (False, {"TERM": "xterm"}, False),
    ],
)
def test_the_log_has_colours_where_they_are_wanted(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, env: dict[str, str], colours: bool
) -> None:
    class Stderr:
        def isatty(self) -> bool:
            return terminal

    def value(name: str, default: Any = None) -> Any:
        return env.get(name, default)

    monkeypatch.setattr(sys, "stderr", Stderr())
    monkeypatch.setattr(os.environ, "get", value)
    assert logs._colours() == colours
