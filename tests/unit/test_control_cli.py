"""vethctl's commands against a daemon that is not one: what they send, print and exit with."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from tests.lib.fake_daemon import FakeDaemon, daemon_fixture, link_info, pair_info
from tests.lib.vethctl import Run, run_fixture
from vethd import __version__
from vethd.control.main import cli, main
from vethd.control.options import HELP
from vethd.model.api import PairInfo
from vethd.model.errors import VethError
from vethd.model.spec import CREATE_ONLY, LinkSpec, PairSpec

__all__ = ["daemon_fixture", "run_fixture"]  # pytest knows them as daemon and run

MAC = "02:00:00:00:00:02"


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
    run("add", "name", *flags, "--rx-checksum", "trust", "--gro", "off", "--latency-queue")
    (seen,) = daemon.asked("POST")
    own = {"rx_checksum": "trust", "gro": False, "latency_queue": True}
    assert seen.body == expected | {"peer": expected} | own


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
        (["add", "va", "--mtu", "big"], "big"),
        (["add", "va", "--mtuu", "9"], "--mtuu"),
        (["add", "va", "vb"], "vb"),
        (["add", "--addrgenmode", "x"], "--addrgenmode"),
        (["add", "va", "--gro", "default"], "--gro"),
        (["set", "va"], "nothing to set"),
        (["engine", "--spin-us", "1001"], "--spin-us"),
        (["engine", "--gro", "default"], "--gro"),
        (["set", "va", "--queues", "2"], "--queues"),
        (["set", "va", "--latency-queue"], "--latency-queue"),
        (["del"], "NAME"),
        (["show", "--netns", "red"], "needs NAME"),
        (["stats", "--netns", "red"], "needs NAME"),
        (["top", "--interval", "0"], "--interval"),
        (["completion", "tcsh"], "tcsh"),
        (["nothing"], "nothing"),
    ],
)
def test_wrong_usage(run: Run, daemon: FakeDaemon, args: list[str], words: str) -> None:
    """The message is click's, or our own; it names what is wrong."""
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
    assert result.stderr == f"vethctl: newlink va: {os.strerror(errno.EEXIST)}\n"
    assert result.stdout == ""


def test_no_daemon(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["--socket", f"{tmp_path}/x.sock", "show"])
    assert result.exit_code == 3
    assert result.stderr == (
        f"vethctl: no vethd listens at {tmp_path}/x.sock: start it, or give its socket with --socket\n"
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
    assert capsys.readouterr().out.rstrip().endswith(__version__)


def test_help_documents_the_exit_status(run: Run) -> None:
    text = run("--help").stdout
    for line in ("0    success", "1    the daemon or the kernel refused", "2    wrong usage", "130  interrupted"):
        assert line in text
    for name in cli.commands:
        assert f"vethctl {name}" in run(name, "--help").stdout.splitlines()[0]


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
    assert run("del", "vz", status=1).stderr == f"vethctl: getlink vz: {os.strerror(errno.ENODEV)}\n"


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
