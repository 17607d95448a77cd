"""The config file: what it says is what is taken, and each thing wrong with it is told by file, key and reason."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

from vethd.daemon import cli as daemon_main
from vethd.daemon.config import Config, read_config
from vethd.daemon.early import Early
from vethd.model.errors import ConfigError
from vethd.model.spec import LinkSpec, PairSpec

REPO = Path(__file__).parents[2]

GOOD = """
socket = "/run/x.sock"
socket_group = "netdev"
socket_mode = "0600"
engine = "asyncio"
workers = 3
spin_us = 0
gro = false
state_dir = "/var/lib/x"
log_level = "debug"
log_format = "json"

[[pair]]
name = "va"
netns = "red"
mtu = 9000
up = true
rx_checksum = "trust"
gro = true
[pair.peer]
name = "vb"
netns = "blue"
up = true

[[pair]]
name = "lab%d"
"""

# what is wrong: the file's text, the key that is named, words of the reason
BAD = {
    "not toml": ("socket = ", "", "not TOML"),
    "twice": ('engine = "auto"\nengine = "auto"', "", "not TOML"),
    "unknown key": ('sockets = "/x"', "sockets", "did you mean socket?"),
    "unknown key far off": ("zebra = 1", "zebra", "unknown key"),
    "socket": ("socket = 1", "socket", "expected str"),
    "socket_group": ("socket_group = 1", "socket_group", "expected str"),
    "mode as a number": ("socket_mode = 660", "socket_mode", "expected str"),
    "mode not octal": ('socket_mode = "0888"', "socket_mode", "octal"),
    "mode words": ('socket_mode = "rw-rw----"', "socket_mode", "octal"),
    "mode too much": ('socket_mode = "1777"', "socket_mode", "octal"),
    "mode negative": ('socket_mode = "-1"', "socket_mode", "octal"),
    "engine": ('engine = "warp"', "engine", "auto, native, asyncio"),
    "workers": ("workers = 65", "workers", "expected int <= 64"),
    "workers negative": ("workers = -1", "workers", "expected int >= 0"),
    "spin_us": ("spin_us = 1001", "spin_us", "expected int <= 1000"),
    "moderation_us": ("moderation_us = 1001", "moderation_us", "expected int <= 1000"),
    "spin_us as fraction": ("spin_us = 0.5", "spin_us", "expected int"),
    "gro": ('gro = "on"', "gro", "expected bool"),
    "state_dir": ("state_dir = []", "state_dir", "expected str"),
    "log_level": ('log_level = "chatty"', "log_level", "debug, info, warning, error"),
    "log_format": ('log_format = "xml"', "log_format", "auto, console, json"),
    "pair no table": ("pair = 1", "pair", "expected array"),
    "pair no array": ('[pair]\nname = "va"', "pair", "expected array"),
    "pair unknown": ("[[pair]]\nmtuu = 1500", "pair[0].mtuu", "did you mean mtu?"),
    "pair of pairs": ("[[pair]]\n[pair.peer]\n[pair.peer.peer]", "pair[0].peer.peer", "unknown key"),
    "peer gro": ("[[pair]]\n[pair.peer]\ngro = true", "pair[0].peer.gro", "unknown key"),
    "pair gro": ('[[pair]]\ngro = "default"', "pair[0].gro", "expected bool"),
    "peer rx_checksum": ('[[pair]]\n[pair.peer]\nrx_checksum = "trust"', "pair[0].peer.rx_checksum", "unknown key"),
    "name long": ('[[pair]]\nname = "sixteen-bytes-xx"', "pair[0].name", "at most 15 bytes"),
    "name empty": ('[[pair]]\nname = ""', "pair[0].name", "not a valid device name"),
    "name slash": ('[[pair]]\n[[pair]]\nname = "a/b"', "pair[1].name", "not a valid device name"),
    "name two patterns": ('[[pair]]\nname = "a%d%d"', "pair[0].name", "not a valid device name"),
    "netns": ("[[pair]]\nnetns = 7", "pair[0].netns", "expected str"),
    "address short": ('[[pair]]\naddress = "02:00:00:00:00"', "pair[0].address", "not 6 bytes"),
    "address multicast": ('[[pair]]\naddress = "01:00:00:00:00:01"', "pair[0].address", "unicast"),
    "mtu as text": ('[[pair]]\nmtu = "1500"', "pair[0].mtu", "expected int, got str"),
    "mtu as fraction": ("[[pair]]\nmtu = 1500.5", "pair[0].mtu", "expected int"),
    "mtu low": ("[[pair]]\nmtu = 67", "pair[0].mtu", "outside 68..65521"),
    "mtu high": ("[[pair]]\n[pair.peer]\nmtu = 65522", "pair[0].peer.mtu", "a TAP does not"),
    "txqueuelen": ("[[pair]]\ntxqueuelen = -1", "pair[0].txqueuelen", "outside"),
    "queues": ("[[pair]]\nqueues = 257", "pair[0].queues", "outside 1..256"),
    "index": ("[[pair]]\nindex = 0", "pair[0].index", "outside"),
    "group": ("[[pair]]\ngroup = 4294967296", "pair[0].group", "outside"),
    "alias": (f'[[pair]]\nalias = "{256 * "x"}"', "pair[0].alias", "longer than 255 bytes"),
    "altname": ('[[pair]]\naltname = "a b"', "pair[0].altname", "not a valid altname"),
    "master": ('[[pair]]\nmaster = "br/0"', "pair[0].master", "not a valid device name"),
    "up": ('[[pair]]\nup = "yes"', "pair[0].up", "expected bool"),
    "promisc": ("[[pair]]\npromisc = 1", "pair[0].promisc", "expected bool"),
    "addrgenmode": ('[[pair]]\naddrgenmode = "eui48"', "pair[0].addrgenmode", "expected one of eui64"),
    "gso": ("[[pair]]\ngso_max_size = -1", "pair[0].gso_max_size", "outside"),
    "rx_checksum": ('[[pair]]\nrx_checksum = "maybe"', "pair[0].rx_checksum", "expected one of verify, trust"),
    "latency_queue": ("[[pair]]\nlatency_queue = 2", "pair[0].latency_queue", "expected bool"),
    "latency_queue and queues": (
        '[[pair]]\nname = "va"\nlatency_queue = true\n[pair.peer]\nqueues = 2',
        "pair[0].latency_queue",
        "latency_queue cannot be combined with queues > 1",
    ),
    "peer latency_queue": ("[[pair]]\n[pair.peer]\nlatency_queue = true", "pair[0].peer.latency_queue", "unknown key"),
    "name left out": ("[[pair]]\nmtu = 1500", "pair[0].name", "needs a name"),
    "name twice": ('[[pair]]\nname = "va"\n[[pair]]\nname = "va"', "pair[1].name", "already the name of pair[0]"),
    "name twice in a pair": (
        '[[pair]]\nname = "va"\nnetns = "red"\n[pair.peer]\nname = "va"\nnetns = "/run/netns/red"',
        "pair[0].peer.name",
        "already the name of pair[0]",
    ),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Undo what a command set up for the whole process."""
    yield
    structlog.reset_defaults()


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "vethd.toml"
    path.write_text(text)
    return str(path)


def test_what_it_says_is_what_is_taken(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, GOOD))
    assert (config.socket, config.socket_group, config.mode) == ("/run/x.sock", "netdev", 0o600)
    assert (config.engine, config.state_dir) == ("asyncio", "/var/lib/x")
    assert (config.workers, config.spin_us, config.gro) == (3, 0, False)
    assert (config.level, config.log_format) == (logging.DEBUG, "json")
    peer = LinkSpec(name="vb", netns="blue", up=True)
    va = PairSpec(name="va", netns="red", mtu=9000, up=True, rx_checksum="trust", gro=True, peer=peer)
    assert config.pair == [va, PairSpec(name="lab%d")]


def test_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, "")) == Config()


def test_shipped_files_are_good() -> None:
    assert read_config(str(REPO / "configs" / "vethd.toml")) == Config()
    assert read_config(str(REPO / "configs" / "demo.toml")).pair


def test_shipped_file_has_every_key_and_its_default(tmp_path: Path) -> None:
    """Uncommented, the daemon's part is the defaults, and no attribute of an end is left out."""
    lines = (REPO / "configs" / "vethd.toml").read_text().splitlines()
    keys = [line.removeprefix("#").split("#")[0].strip() for line in lines if line.startswith("#") and " = " in line]
    keys = [line for line in keys if line.split(" = ")[0].isidentifier()]
    named = {line.split(" = ")[0] for line in keys}
    assert named >= set(Config.__struct_fields__) - {"pair"}
    assert named >= set(PairSpec.__struct_fields__) - {"peer"}
    first = keys.index('socket = "/run/vethd/vethd.sock"')
    daemon_part = [line for line in keys[first : keys.index('name = "va"')] if not line.startswith("socket_group")]
    assert read_config(write(tmp_path, "\n".join(daemon_part))) == Config()


@pytest.mark.parametrize(("text", "key", "reason"), BAD.values(), ids=BAD)
def test_bad_value(tmp_path: Path, text: str, key: str, reason: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert (caught.value.file, caught.value.key) == (path, key)
    assert reason in caught.value.reason
    assert "\n" not in str(caught.value), "one sentence"
    assert "`" not in str(caught.value), "no words of the parser's own"


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b'socket_group = "gr\xfcn"')
    missing, directory = os.strerror(errno.ENOENT), os.strerror(errno.EISDIR)
    for path, reason in (("absent", missing), ("", directory), ("latin", "not UTF-8")):
        with pytest.raises(ConfigError, match=reason) as caught:
            read_config(str(tmp_path / path))
        assert caught.value.file == str(tmp_path / path)


def test_check_config_of_a_good_file(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    result = CliRunner().invoke(daemon_main.cli, ["--config", path, "--check-config"])
    assert (result.exit_code, result.output) == (0, f"{path}: 2 pairs, no errors\n")


def test_check_config_of_a_bad_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, BAD["mtu low"][0])
    monkeypatch.setattr(sys, "argv", ["vethd", "--config", path, "--check-config"])
    with pytest.raises(SystemExit) as caught:
        daemon_main.run(Early())
    assert caught.value.code == 4
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"vethd: {path}: pair[0].mtu: mtu 67 is outside 68..65521\n"


def test_bad_file_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, 'engine = "warp"')
    sock = tmp_path / "vethd.sock"
    monkeypatch.setattr(sys, "argv", ["vethd", "--config", path, "--socket", str(sock)])
    with pytest.raises(SystemExit) as caught:
        daemon_main.run(Early())
    assert caught.value.code == 4
    assert f"{path}: engine: " in capsys.readouterr().err
    assert not sock.exists()


def test_check_config_needs_a_file() -> None:
    result = CliRunner().invoke(daemon_main.cli, ["--check-config"])
    assert result.exit_code == 2
    assert "--config" in result.output


def test_check_config_says_nothing_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that asks for native is no wrong file where native cannot run, nor is one with its former name."""
    monkeypatch.setattr("vethd.datapath.engines._native", lambda *_: "because")
    for name in ("native", "uring"):
        argv = ["--config", write(tmp_path, f'engine = "{name}"'), "--check-config"]
        assert CliRunner().invoke(daemon_main.cli, argv).exit_code == 0


def test_an_option_wins_over_the_file_at_a_reload_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []

    async def serve(config: Config, reread: Callable[[], Config] | None, _early: Early, *, replace: bool) -> None:
        assert reread is not None
        assert not replace
        seen.append(config)
        write(tmp_path, "workers = 5\nspin_us = 5\ngro = false")
        seen.append(reread())

    monkeypatch.setattr(daemon_main, "serve", serve)
    path = write(tmp_path, GOOD)
    argv = ["--config", path, "--engine", "uring", "--workers", "2", "--spin-us", "7", "--moderation-us", "9"]
    assert CliRunner().invoke(daemon_main.cli, argv, catch_exceptions=False).exit_code == 0
    assert [it.asked for it in seen] == [("uring", 2, 7, 9)] * 2
    assert [it.gro for it in seen] == [False, False]
    assert [len(it.pair) for it in seen] == [2, 0]


@pytest.mark.parametrize(
    ("argv", "text", "gro"),
    [((), "", True), ((), "gro = false", False), (("--gro", "off"), "", False), (("--gro", "on"), "gro = false", True)],
)
def test_a_pair_in_the_foreground_is_as_the_option_says_or_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...], text: str, gro: bool
) -> None:
    seen: list[PairSpec] = []

    async def foreground(spec: PairSpec, _config: Config) -> None:
        seen.append(spec)

    monkeypatch.setattr(daemon_main, "_foreground", foreground)
    monkeypatch.setattr(daemon_main, "need_machine", lambda: None)
    args = ["--config", write(tmp_path, text), "pair", *argv, "va", "vb"]
    assert CliRunner().invoke(daemon_main.cli, args, catch_exceptions=False).exit_code == 0
    assert [spec.gro for spec in seen] == [gro]


WRONG = [["--engine", "warp"], ["--log-level", "chatty"], ["--nonsense"], ["pair", "va"], ["pair", "--gro", "x"]]
WRONG += [["--workers", "65"], ["--workers", "-1"], ["--spin-us", "1001"], ["--spin-us", "fast"]]
WRONG += [["--moderation-us", "1001"], ["--moderation-us", "-1"]]


@pytest.mark.parametrize("argv", WRONG)
def test_usage(argv: list[str]) -> None:
    assert CliRunner().invoke(daemon_main.cli, argv).exit_code == 2
