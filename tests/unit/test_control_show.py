"""vethctl's commands that show something, against a daemon that is not one."""

from __future__ import annotations

import time

import msgspec
import pytest

from tests.lib.fake_daemon import FakeDaemon, daemon_fixture, link_info, link_stats, pair_info
from tests.lib.vethctl import Run, run_fixture
from vethd.control.show import pairs_table, stats_table
from vethd.control.table import count
from vethd.model.api import AttachmentKey, LinkStats, PairEvent, PairInfo
from vethd.model.spec import LinkSpec, PairSpec

__all__ = ["daemon_fixture", "run_fixture"]  # pytest knows them as daemon and run

MAC = "02:00:00:00:00:02"


# --- show, stats


@pytest.fixture
def pairs() -> list[PairInfo]:
    spec = PairSpec(name="va", netns="red", mtu=9000, peer=LinkSpec(name="vb"))
    near = link_info("va", "vb", up=True, carrier=True, netns="blue", altname="long-name", address=MAC)
    return [
        pair_info(PairSpec(name="va"), [near, link_info("vb", "va", up=True, ifindex=12)]),
        pair_info(spec, [], id="p2", state="waiting", reason="no network namespace red", source="config"),
    ]


def test_show_is_plain_in_a_pipe(run: Run, daemon: FakeDaemon, pairs: list[PairInfo]) -> None:
    daemon.on("GET", "/v1/pairs", body=pairs)
    assert run("show").stdout.splitlines() == [
        "LINK  NETNS  INDEX   MTU  ADDRESS            STATE       PEER  SOURCE   PAIR  REASON",
        "va    blue      11  1500  02:00:00:00:00:02  up          vb    runtime  p1    -",
        "vb    -         12  1500  02:00:00:00:00:01  no-carrier  va    runtime  p1    -",
        "va    red        -  9000  -                  waiting     vb    config   p2    no network namespace red",
        "vb    -          -     -  -                  waiting     va    config   p2    no network namespace red",
    ]


@pytest.mark.parametrize(
    ("name", "ids"), [("va", ["p1", "p2"]), ("vb", ["p1", "p2"]), ("long-name", ["p1"]), ("p2", ["p2"])]
)
def test_show_searches_all(run: Run, daemon: FakeDaemon, pairs: list[PairInfo], name: str, ids: list[str]) -> None:
    daemon.on("GET", "/v1/pairs", body=pairs)
    shown = msgspec.json.decode(run("show", name, "--json").stdout, type=list[PairInfo])
    assert [info.id for info in shown] == ids


def test_show_names_attachments(run: Run, daemon: FakeDaemon, pairs: list[PairInfo]) -> None:
    attached = msgspec.structs.replace(pairs[0], attachment=AttachmentKey("podman", "7839", "eth0"))
    daemon.on("GET", "/v1/pairs", body=[attached, pairs[0]])
    lines = [line.split()[-2:] for line in run("show").stdout.splitlines()]
    assert lines == [["PAIR", "ATTACHMENT"], *2 * [["p1", "podman/7839/eth0"]], *2 * [["p1", "-"]]]


def test_show_of_nothing(run: Run, daemon: FakeDaemon) -> None:
    daemon.on("GET", "/v1/pairs", body=[])
    assert run("show").stdout == "LINK  NETNS  INDEX  MTU  ADDRESS  STATE  PEER  SOURCE  PAIR\n"
    assert run("show", "vz", status=1).stderr == "vethctl: getlink vz: vethd has no link of that name\n"


def test_show_in_a_namespace(run: Run, daemon: FakeDaemon, pairs: list[PairInfo]) -> None:
    daemon.on("GET", "/v1/links/va", body=pairs[0].links[0])
    daemon.on("GET", "/v1/pairs/p1", body=pairs[0])
    assert "no-carrier" in run("show", "va", "--netns", "blue").stdout
    assert daemon.seen[0].query == {"netns": "blue"}


def test_stats(run: Run, daemon: FakeDaemon) -> None:
    busy = link_stats("va", "vb", rx_dropped=4, drops={"write_error": 3, "runt": 0}, write_errors={"EIO": 3})
    daemon.on("GET", "/v1/stats", body=[busy, link_stats("vb", "va")])
    text = run("stats").stdout.splitlines()
    assert text[1].split() == ["va", "-", "3", "300", "1234567", "9876543210", "vb", "12", "blue", text[1].split()[-1]]
    assert text[1].split()[-1] == "write_error:EIO=3,rx_dropped=4"
    assert text[2].split()[-1] == "no_peer=1,kernel_no_carrier=2"
    assert msgspec.json.decode(run("stats", "va", "--json").stdout, type=list[LinkStats]) == [busy]


def test_stats_by_altname_and_namespace(run: Run, daemon: FakeDaemon) -> None:
    daemon.on("GET", "/v1/stats", body=[])
    daemon.on("GET", "/v1/links/long-name/stats", body=link_stats("va", "vb"))
    assert run("stats", "long-name").stdout.splitlines()[1].startswith("va")
    run("stats", "long-name", "--netns", "red")
    assert daemon.seen[-1].query == {"netns": "red"}


def test_a_table_fits_its_terminal_and_no_word_is_broken(pairs: list[PairInfo]) -> None:
    usual = pairs_table([pairs[0]], reasons=False)
    assert usual.fitted(80) == usual.plain()
    counters = stats_table([link_stats("va", "vb")], exact=False)
    assert len(counters.plain().splitlines()[0]) > 80
    stacked = counters.fitted(90).splitlines()
    assert stacked[1].split() == [
        "LINK",
        "NETNS",
        "PACKETS",
        "BYTES",
        "PACKETS",
        "BYTES",
        "PEER",
        "INDEX",
        "NETNS",
        "DROPS",
    ]
    assert max(map(len, stacked)) <= 90
    long = link_info("v" * 15, "w" * 15, netns="a-namespace-with-a-long-name", ifindex=123456, mtu=65521)
    table = pairs_table([pair_info(PairSpec(), [long, long])] * 2, reasons=True)
    blocks = [block.splitlines() for block in table.fitted(80).split("\n\n")]
    assert len(blocks) == len(table.rows)
    for block, row in zip(blocks, table.rows, strict=True):
        assert [line.split()[0] for line in block] == [name.removeprefix(">") for name in table.columns]
        assert [line.split(maxsplit=1)[1] for line in block] == [
            ", ".join([cell] if isinstance(cell, str) else cell) or "-" for cell in row
        ]


def test_no_table_has_colours(
    run: Run, daemon: FakeDaemon, pairs: list[PairInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vethd.control.table.is_terminal", lambda: True)
    daemon.on("GET", "/v1/pairs", body=pairs)
    assert "\x1b" not in run("show").stdout


def test_terminal_tables(run: Run, daemon: FakeDaemon, pairs: list[PairInfo], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("show", "table", "live"):
        monkeypatch.setattr(f"vethd.control.{module}.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    daemon.on("GET", "/v1/pairs", body=pairs)
    daemon.on("GET", "/v1/stats", body=[link_stats("va", "vb")])
    assert run("show").stdout.splitlines()[-1] == "p2: no network namespace red"
    assert "9.88G" in run("stats").stdout
    assert "va" in run("top", "--count", "1", "--interval", "0.01").stdout


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (99_999, "99999"), (100_000, "100k"), (1_234_567, "1.23M"), (999_600, "1M"), (5e20, "500E")],
)
def test_counts(value: float, text: str) -> None:
    assert count(value, exact=False) == text
    assert count(value, exact=True) == str(round(value))


# --- monitor, top


def test_monitor(run: Run, daemon: FakeDaemon) -> None:
    lines = [b'{"seq":1,"time":2.5,"event":"link_up","pair":"p1","link":"va","netns":"red","detail":"why"}\n']
    daemon.on("GET", "/v1/events", lines=lines)
    result = run("monitor", status=3)
    assert result.stdout.split()[2:] == ["link_up", "va", "red", "p1", "why"]
    assert result.stderr.startswith("vethctl: the event stream ended at ")
    event = msgspec.json.decode(run("monitor", "--json", status=3).stdout, type=PairEvent)
    assert event == PairEvent(seq=1, time=2.5, event="link_up", pair="p1", link="va", netns="red", detail="why")


def test_top_gives_rates(run: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100, 2))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "sleep", lambda _s: None)
    daemon.on("GET", "/v1/stats", body=[link_stats("va", "vb")])
    daemon.on("GET", "/v1/stats", body=[link_stats("va", "vb", rx_packets=403, rx_bytes=1_000_300)])
    daemon.on("GET", "/v1/stats", body=[link_stats("va", "vb"), link_stats("vn", ifindex=99)])
    blocks = run("top", "--count", "2").stdout.split("\n\n")
    assert blocks[0].splitlines()[1].split() == ["va", "-", "100", "2M", "0", "0", "0", "vb"]
    assert blocks[1].splitlines()[1].split() == ["va", "-", "0", "0", "0", "0", "0", "vb"]
    assert blocks[2] == ""
