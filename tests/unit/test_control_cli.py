"""vethctl's commands against a daemon that is not one: what they send, print and exit with."""

from __future__ import annotations

import errno
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import rich.console
from click.testing import CliRunner, Result

from tests.lib.fake_daemon import HOME, FakeDaemon, link_info, link_stats, pair_info
from vethd.control import apply as apply_module
from vethd.control.doctor import engine_check
from vethd.control.main import cli, main
from vethd.control.options import HELP
from vethd.control.show import pairs_table, stats_table
from vethd.control.table import Table, count
from vethd.datapath.uring import Obstacle
from vethd.kernel.probe import Check
from vethd.model.api import EngineInfo, LinkInfo, LinkStats, PairEvent, PairInfo, Saved
from vethd.model.errors import VethError
from vethd.model.spec import CREATE_ONLY, LinkSpec, PairSpec

Run = Callable[..., Result]
MAC = "02:00:00:00:00:02"


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with tempfile.TemporaryDirectory() as directory, FakeDaemon(Path(directory)) as fake:
        yield fake


@pytest.fixture
def run(daemon: FakeDaemon) -> Run:
    def run(*args: str, status: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(cli, ["--socket", daemon.path, *args], prog_name="vethctl", input=stdin)
        assert result.exit_code == status, result.output
        return result

    return run


# --- add


def test_add_says_every_attribute(run: Run, daemon: FakeDaemon) -> None:
    daemon.on("POST", "/v1/pairs", 201, pair_info())
    values = {"address": MAC, "addrgenmode": "none"}
    flags: list[str] = []
    expected: dict[str, Any] = {}
    for field in msgspec.structs.fields(LinkSpec):
        option = field.name.replace("_", "-")
        if bool in getattr(field.type, "__args__", ()):
            flags += [f"--no-{option}", f"--peer-no-{option}"]
            expected[field.name] = False
        elif int in getattr(field.type, "__args__", ()):
            flags += [f"--{option}=70", f"--peer-{option}=70"]
            expected[field.name] = 70
        else:
            value = values.get(field.name, field.name)
            flags += ([] if field.name == "name" else [f"--{option}", value]) + [f"--peer-{option}", value]
            expected[field.name] = value
    run("add", "name", *flags, "--rx-checksum", "trust", "--gro", "off")
    (seen,) = daemon.asked("POST")
    assert seen.body == expected | {"peer": expected, "rx_checksum": "trust", "gro": False}


def test_every_attribute_has_a_help_text() -> None:
    assert set(HELP) == set(LinkSpec.__struct_fields__)


def test_add_without_peer_options_names_no_peer(run: Run, daemon: FakeDaemon) -> None:
    daemon.on("POST", "/v1/pairs", 201, pair_info())
    run("add")
    run("add", "va", "--mtu", "9000")
    run("add", "va", "--peer-mtu", "9000")
    run("add", "va", "--peer", "vb", "--up")
    assert [seen.body for seen in daemon.asked("POST")] == [
        {},
        {"name": "va", "mtu": 9000},
        {"name": "va", "peer": {"mtu": 9000}},
        {"name": "va", "up": True, "peer": {"name": "vb"}},
    ]


def test_add_is_silent_or_json(run: Run, daemon: FakeDaemon) -> None:
    daemon.on("POST", "/v1/pairs", 201, pair_info())
    assert run("add", "va").output == ""
    assert msgspec.json.decode(run("add", "va", "--json").stdout, type=PairInfo) == pair_info()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["add", "va", "--mtu", "big"], "'big' is not a valid integer"),
        (["add", "va", "--mtuu", "9"], "No such option"),
        (["add", "va", "vb"], "unexpected extra argument"),
        (["add", "--addrgenmode", "x"], "is not one of 'eui64'"),
        (["add", "va", "--gro", "default"], "is not one of 'on', 'off'"),
        (["set", "va"], "nothing to set"),
        (["engine", "--spin-us", "1001"], "is not in the range"),
        (["engine", "--gro", "default"], "is not one of 'on', 'off'"),
        (["set", "va", "--queues", "2"], "No such option"),
        (["del"], "Missing argument 'NAME'"),
        (["show", "--netns", "red"], "there is no NAME"),
        (["stats", "--netns", "red"], "there is no NAME"),
        (["top", "--interval", "0"], "0.0 is not in the range"),
        (["completion", "tcsh"], "is not one of 'bash'"),
        (["nothing"], "No such command"),
    ],
)
def test_wrong_usage(run: Run, daemon: FakeDaemon, args: list[str], words: str) -> None:
    result = run(*args, status=2)
    assert words in result.stderr
    assert result.stdout == ""
    assert daemon.seen == []


def test_set_cannot_say_what_is_create_only() -> None:
    options = {option for param in cli.commands["set"].params for option in param.opts}
    assert not options & {f"--{prefix}{name}" for name in CREATE_ONLY for prefix in ("", "peer-")}
    assert "--name" in options


# --- exit status


def test_refusal_is_one_sentence(run: Run, daemon: FakeDaemon) -> None:
    daemon.refuse("POST", "/v1/pairs", VethError(errno.EEXIST, "newlink", "va"), 409)
    result = run("add", "va", status=1)
    assert result.stderr == "vethctl: newlink va: File exists\n"
    assert result.stdout == ""


def test_no_daemon(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["--socket", f"{tmp_path}/x.sock", "show"])
    assert result.exit_code == 3
    assert result.stderr == (
        f"vethctl: no vethd listens at {tmp_path}/x.sock: start it, or name its socket with --socket\n"
    )


def test_interrupted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_client: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vethd.control.client.Client.pairs", interrupt)
    assert run("show", status=130).output == ""
    monkeypatch.setattr("vethd.control.client.Client.events", interrupt)
    run("monitor")
    monkeypatch.setattr("vethd.control.client.Client.stats", interrupt)
    run("top")


def test_main_exits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["vethctl", "--version"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("vethctl, version ")


def test_help_documents_the_exit_status(run: Run) -> None:
    text = run("--help").stdout
    for line in ("0    success", "1    the daemon or the kernel refused", "2    wrong usage", "130  interrupted"):
        assert line in text
    for name in cli.commands:
        assert run(name, "--help").stdout.startswith(f"Usage: vethctl {name}")


# --- del, set


def test_del(run: Run, daemon: FakeDaemon) -> None:
    daemon.on("DELETE", "/v1/links/va", 204)
    run("del", "va")
    run("del", "va", "--netns", "red")
    assert [seen.query for seen in daemon.seen] == [{}, {"netns": "red"}]


def test_del_of_a_waiting_pair(run: Run, daemon: FakeDaemon) -> None:
    waiting = pair_info(PairSpec(name="va", netns="red"), [], id="p9", state="waiting", reason="no netns red")
    daemon.refuse("DELETE", "/v1/links/va", VethError(errno.ENODEV, "getlink", "va"), 404)
    daemon.on("GET", "/v1/pairs", body=[pair_info(), waiting])
    daemon.on("DELETE", "/v1/pairs/p9", 204)
    run("del", "va")
    assert daemon.seen[-1].path == "/v1/pairs/p9"


def test_del_of_nothing(run: Run, daemon: FakeDaemon) -> None:
    daemon.refuse("DELETE", "/v1/links/vz", VethError(errno.ENODEV, "getlink", "vz"), 404)
    daemon.on("GET", "/v1/pairs", body=[pair_info()])
    assert run("del", "vz", status=1).stderr == "vethctl: getlink vz: No such device\n"


def test_set_one_end(run: Run, daemon: FakeDaemon) -> None:
    daemon.on("PATCH", "/v1/links/va", body=link_info("vx"))
    run("set", "va", "--name", "vx", "--alias", "", "--no-arp", "--in", "red")
    (seen,) = daemon.seen
    assert (seen.body, seen.query) == ({"name": "vx", "alias": "", "arp": False}, {"netns": "red"})


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("va", {"mtu": 9000, "peer": {"up": True}, "rx_checksum": "trust"}),
        ("vb", {"up": True, "peer": {"mtu": 9000}, "rx_checksum": "trust"}),
    ],
)
def test_set_both_ends_from_either(run: Run, daemon: FakeDaemon, name: str, body: dict[str, Any]) -> None:
    daemon.on("GET", f"/v1/links/{name}", body=next(link for link in pair_info().links if link.name == name))
    daemon.on("GET", "/v1/pairs/p1", body=pair_info())
    daemon.on("PATCH", "/v1/pairs/p1", body=pair_info())
    run("set", name, "--mtu", "9000", "--peer-up", "--rx-checksum", "trust")
    assert daemon.seen[-1].body == body


@pytest.mark.parametrize(("word", "value"), [("on", True), ("off", False), ("default", "default")])
def test_set_gro(run: Run, daemon: FakeDaemon, word: str, value: Any) -> None:
    daemon.on("GET", "/v1/links/va", body=pair_info().links[0])
    daemon.on("GET", "/v1/pairs/p1", body=pair_info())
    daemon.on("PATCH", "/v1/pairs/p1", body=pair_info())
    run("set", "va", "--gro", word)
    assert daemon.seen[-1].body == {"gro": value}


# --- engine

URING = EngineInfo(name="uring", workers=2, spin_us=50, gro=True, fallback="")


@pytest.mark.parametrize(
    ("info", "row"),
    [
        (URING, ["uring", "2", "50", "on", "-"]),
        (
            EngineInfo(name="asyncio", workers=0, spin_us=None, gro=False, fallback="it is not built"),
            ["asyncio", "-", "-", "off", "it", "is", "not", "built"],
        ),
    ],
)
def test_engine_shows(run: Run, daemon: FakeDaemon, info: EngineInfo, row: list[str]) -> None:
    daemon.engine(info)
    lines = run("engine").stdout.splitlines()
    assert [line.split() for line in lines] == [["ENGINE", "WORKERS", "SPIN-US", "GRO", "FALLBACK"], row]
    assert msgspec.json.decode(run("engine", "--json").stdout, type=EngineInfo) == info


def test_engine_changes(run: Run, daemon: FakeDaemon) -> None:
    daemon.on("PATCH", "/v1/engine", body=URING)
    assert run("engine", "--spin-us", "0").output == ""
    assert run("engine", "--gro", "off", "--spin-us", "20").output == ""
    assert [seen.body for seen in daemon.seen] == [{"spin_us": 0}, {"gro": False, "spin_us": 20}]


def test_engine_refuses(run: Run, daemon: FakeDaemon) -> None:
    words = "the asyncio engine has no spin_us"
    daemon.refuse("PATCH", "/v1/engine", VethError(errno.EOPNOTSUPP, "engine", "", words), 400)
    assert run("engine", "--spin-us", "1", status=1).stderr == f"vethctl: engine: {words}\n"


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


def _on_terminal(table: Table, width: int) -> str:
    out = io.StringIO()
    rich.console.Console(file=out, width=width, force_terminal=True, color_system=None).print(table.rich())
    return out.getvalue()


def test_tables_fit_80_columns_and_lose_nothing(pairs: list[PairInfo]) -> None:
    long = link_info("v" * 15, "w" * 15, netns="a-namespace-with-a-long-name", ifindex=123456, mtu=65521)
    info = pair_info(PairSpec(), [long, long])
    for table in (
        pairs_table([*pairs, info], reasons=True),
        stats_table([link_stats("v" * 15, "w" * 15)], exact=False),
    ):
        text = _on_terminal(table, 80)
        assert max(len(line) for line in text.splitlines()) <= 80
        assert "…" not in text
        letters = text.replace("\n", "").replace(" ", "")
        assert letters.count("v") >= 15
        assert "kernel_no_carrier" not in table.columns
    usual = _on_terminal(pairs_table([pairs[0]], reasons=False), 80)
    assert len(usual.splitlines()) == 3


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
    assert result.stderr.startswith("vethctl: the events ended at ")
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


# --- apply, save, reload

FILE = '[[pair]]\nname = "va"\nmtu = 9000\n[pair.peer]\nname = "vb"\nnetns = "red"\nup = true\n'


def test_apply_prints_and_does_the_differences(run: Run, daemon: FakeDaemon) -> None:
    other = pair_info(PairSpec(name="vo"), [link_info("vo", netns="red"), link_info("veth0")], id="p2")
    declared = pair_info(PairSpec(name="vd"), [link_info("vd"), link_info("veth1")], id="p3", source="config")
    live = pair_info(links=[link_info("va"), link_info("vb", netns="red")])
    daemon.on("GET", "/v1/pairs", body=[live, other, declared])
    for method, path in (("PATCH", "/v1/pairs/p1"), ("POST", "/v1/pairs"), ("DELETE", "/v1/pairs/p2")):
        daemon.on(method, path, body=pair_info())
    text = FILE + '[[pair]]\nname = "vc"\n'
    lines = [
        "delete vo (netns red) - veth0",
        "change va - vb (netns red): mtu=9000 peer.up=true",
        "create vc - veth%d",
    ]
    assert run("apply", "-", "--dry-run", "--prune", stdin=text).stdout.splitlines() == lines
    assert not daemon.asked("PATCH", "POST", "DELETE")
    assert run("apply", "-", stdin=text).stdout.splitlines() == lines[1:]
    assert [seen.method for seen in daemon.asked("PATCH", "POST", "DELETE")] == ["PATCH", "POST"]
    assert run("apply", "-", "--prune", stdin=text).stdout.splitlines() == lines
    assert [seen.method for seen in daemon.asked("PATCH", "POST", "DELETE")][2:] == ["DELETE", "PATCH", "POST"]


def test_apply_elsewhere_means_the_callers_namespace(
    run: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the daemon lives elsewhere and calls the caller's namespace "red"
    daemon.health(HOME + 1)
    spec = PairSpec(name="va", netns="fd:0", peer=LinkSpec(name="vb", netns="fd:0"))
    links = [link_info("va", netns="red"), link_info("vb", netns="red", ifindex=12)]
    daemon.on("GET", "/v1/pairs", body=[pair_info(spec, links)])
    daemon.on("POST", "/v1/pairs", body=pair_info())
    text = '[[pair]]\nname = "va"\n[pair.peer]\nname = "vb"\n'
    assert run("apply", "-", stdin=text).stdout == ""
    monkeypatch.setattr(apply_module, "own_inode", lambda: HOME)
    assert run("apply", "-", stdin=text.replace('"v', '"x')).stdout == "create xa - xb\n"
    (seen,) = daemon.asked("POST")
    assert seen.body["peer"]["netns"].startswith("fd:")
    assert set(seen.fds) == {HOME}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[[pair]]\n[pair.peer]\nmtu = "9"', "pair[0].peer.mtu: expected int, got str"),
        (FILE + "[[pair]]\nmtu = 5", "pair[1].mtu: mtu 5 is outside 68..65521"),
        ("[[pair]\n", "not TOML: "),
    ],
)
def test_bad_file(run: Run, daemon: FakeDaemon, tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(text)
    result = run("apply", str(path), status=4)
    assert result.stderr.startswith(f"vethctl: {path}: {sentence}")
    assert result.stderr.count("\n") == 1
    assert daemon.seen == []


def test_file_that_cannot_be_read(run: Run, tmp_path: Path) -> None:
    assert run("apply", f"{tmp_path}/none", status=4).stderr == f"vethctl: {tmp_path}/none: No such file or directory\n"
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert run("apply", f"{tmp_path}/binary", status=4).stderr.endswith("not UTF-8 text\n")


def test_save_and_reload(run: Run, daemon: FakeDaemon) -> None:
    daemon.on("POST", "/v1/save", body=Saved(pairs=1, file="/var/lib/vethd/pairs.toml"))
    daemon.on("POST", "/v1/reload", body={"created": 1, "changed": 2, "deleted": 3, "waiting": 0})
    assert run("save").stdout == "1 pair in /var/lib/vethd/pairs.toml\n"
    assert run("reload").stdout == "1 created, 2 changed, 3 deleted, 0 waiting\n"


# --- doctor

TUN = Check(name="/dev/net/tun", ok=True, required=True, detail="opens", advice="")


@pytest.mark.parametrize(
    ("check", "state", "status"),
    [
        (TUN, "ok", 0),
        (msgspec.structs.replace(TUN, ok=False, advice="modprobe tun"), "missing", 1),
        (msgspec.structs.replace(TUN, ok=False, required=False, advice="modprobe tun"), "note", 0),
    ],
)
def test_doctor(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, check: Check, state: str, status: int) -> None:
    monkeypatch.setattr("vethd.kernel.probe.probe", lambda: [check])
    monkeypatch.setattr("vethd.datapath.uring.why_not", lambda: None)
    for socket, reachable in ((daemon.path, True), (daemon.path + ".none", False)):
        result = CliRunner().invoke(cli, ["--socket", socket, "doctor"])
        assert result.exit_code == status
        lines = result.stdout.splitlines()
        assert lines[1].split() == ["/dev/net/tun", state, "opens", *(check.advice.split() or ["-"])]
        assert lines[2].split()[:3] == ["engine", "uring", "ok"]
        assert lines[3].split()[1] == ("ok" if reachable else "note")
        assert ("vethd 1.2.3, pid 7, engine asyncio, 1 pairs" in lines[3]) == reachable
        assert ("; not uring: it is not built" in lines[3]) == reachable
        as_json = CliRunner().invoke(cli, ["--socket", socket, "doctor", "--json"])
        assert as_json.exit_code == status
        assert msgspec.json.decode(as_json.stdout, type=list[Check])[0] == check


@pytest.mark.parametrize(
    ("obstacle", "advice"),
    [(Obstacle("there is none (x)", built=False), "install a C compiler"), (Obstacle("io_uring is not built in"), "")],
)
def test_doctor_on_the_native_engine(monkeypatch: pytest.MonkeyPatch, obstacle: Obstacle, advice: str) -> None:
    monkeypatch.setattr("vethd.datapath.uring.why_not", lambda: obstacle)
    check = engine_check()
    assert (check.ok, check.required, check.detail) == (False, False, obstacle.reason)
    assert check.advice.startswith(advice)
    assert bool(check.advice) == bool(advice)


# --- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(run: Run, shell: str) -> None:
    assert "_VETHCTL_COMPLETE" in run("completion", shell).stdout


def test_link_names_are_completed(daemon: FakeDaemon) -> None:
    links: list[LinkInfo] = [link_info("va"), link_info("vb", netns="red"), link_info("eth0")]
    daemon.on("GET", "/v1/links", body=links)
    show = cli.commands["show"]
    for socket, names in ((daemon.path, ["va", "vb"]), (daemon.path + ".none", [])):
        root = click.Context(cli, info_name="vethctl")
        root.params["socket"] = socket
        ctx = click.Context(show, info_name="show", parent=root)
        assert [item.value for item in show.params[0].shell_complete(ctx, "v")] == names
