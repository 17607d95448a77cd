"""vethctl engine, apply, save, reload, doctor and completion, against a daemon that is not one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner

from tests.lib.fake_daemon import HOME, FakeDaemon, daemon_fixture, link_info, pair_info
from tests.lib.vethctl import Run, run_fixture
from vethd.control import apply as apply_module
from vethd.control.doctor import engine_check
from vethd.control.main import cli
from vethd.kernel.probe import Check
from vethd.model.api import AttachmentKey, EngineInfo, LinkInfo, Saved
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec, PairSpec

__all__ = ["daemon_fixture", "run_fixture"]  # pytest knows them as daemon and run

# --- engine

NATIVE = EngineInfo(name="native", workers=2, spin_us=50, moderation_us=40, gro=True, fallback="")


@pytest.mark.parametrize(
    ("info", "row"),
    [
        (NATIVE, ["native", "2", "50", "40", "on", "1000", "-"]),
        (
            EngineInfo(name="asyncio", workers=0, spin_us=None, gro=False, fallback="it is not built"),
            ["asyncio", "-", "-", "-", "off", "1000", "it", "is", "not", "built"],
        ),
    ],
)
def test_engine_shows(run: Run, daemon: FakeDaemon, info: EngineInfo, row: list[str]) -> None:
    daemon.engine(info)
    titles = ["ENGINE", "WORKERS", "SPIN-US", "MODERATION-US", "GRO", "RING", "FALLBACK"]
    assert [line.split() for line in run("engine").stdout.splitlines()] == [titles, row]
    assert msgspec.json.decode(run("engine", "--json").stdout, type=EngineInfo) == info


def test_engine_changes(run: Run, daemon: FakeDaemon) -> None:
    daemon.on("PATCH", "/v1/engine", body=NATIVE)
    assert run("engine", "--spin-us", "0").output == ""
    assert run("engine", "--gro", "off", "--spin-us", "20").output == ""
    assert run("engine", "--moderation-us", "0").output == ""
    assert [seen.body for seen in daemon.seen] == [{"spin_us": 0}, {"gro": False, "spin_us": 20}, {"moderation_us": 0}]


def test_engine_refuses(run: Run, daemon: FakeDaemon) -> None:
    words = "the asyncio engine has no spin_us"
    daemon.refuse("PATCH", "/v1/engine", VethError(errno.EOPNOTSUPP, "engine", "", words), 400)
    assert run("engine", "--spin-us", "1", status=1).stderr == f"vethctl: engine: {words}\n"


# --- apply, save, reload

FILE = '[[pair]]\nname = "va"\nmtu = 9000\n[pair.peer]\nname = "vb"\nnetns = "red"\nup = true\n'


def test_apply_prints_and_does_the_differences(run: Run, daemon: FakeDaemon) -> None:
    other = pair_info(PairSpec(name="vo"), [link_info("vo", netns="red"), link_info("veth0")], id="p2")
    declared = pair_info(PairSpec(name="vd"), [link_info("vd"), link_info("veth1")], id="p3", source="config")
    live = pair_info(links=[link_info("va"), link_info("vb", netns="red")])
    container = pair_info(PairSpec(name="eth0"), id="p4", attachment=AttachmentKey("net", "container", "eth0"))
    daemon.on("GET", "/v1/pairs", body=[live, other, declared, container])
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
    missing = f"vethctl: {tmp_path}/none: {os.strerror(errno.ENOENT)}\n"
    assert run("apply", f"{tmp_path}/none", status=4).stderr == missing
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
    monkeypatch.setattr("vethd.datapath.native.why_not", lambda: None)
    for socket, reachable in ((daemon.path, True), (daemon.path + ".none", False)):
        result = CliRunner().invoke(cli, ["--socket", socket, "doctor"])
        assert result.exit_code == status
        lines = result.stdout.splitlines()
        assert lines[1].split() == ["/dev/net/tun", state, "opens", *(check.advice.split() or ["-"])]
        assert lines[2].split()[:3] == ["engine", "native", "ok"]
        assert lines[3].split()[1] == ("ok" if reachable else "note")
        assert ("vethd 1.2.3, pid 7, engine asyncio, 1 pairs" in lines[3]) == reachable
        assert ("; not native: it is not built" in lines[3]) == reachable
        assert (f"; at {socket} you are an administrator" in lines[3]) == reachable
        as_json = CliRunner().invoke(cli, ["--socket", socket, "doctor", "--json"])
        assert as_json.exit_code == status
        assert msgspec.json.decode(as_json.stdout, type=list[Check])[0] == check


def test_doctor_without_the_native_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vethd.datapath.native.why_not", lambda: "it is not built (x)")
    check = engine_check()
    assert (check.ok, check.required, check.detail) == (False, False, "it is not built (x)")
    assert check.advice


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
