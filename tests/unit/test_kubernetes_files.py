"""configs/: the DaemonSet that installs a conflist, whose script runs here by a curl of our own, and the template."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

CONFIGS = Path(__file__).parents[2] / "configs"
MANIFEST = (CONFIGS / "kubernetes-conflist.yaml").read_text()
CURL = '#!/bin/sh\nfor word; do :; done\necho "$word" >asked\ncat answer\n'
FOUR, SIX = {"dst": "0.0.0.0/0"}, {"dst": "::/0"}


def block(key: str) -> str:
    """Return the text of a key whose value is a literal block."""
    found = re.search(rf"^  {re.escape(key)}: \|\n((?:    .*\n|\n)+)", MANIFEST, re.MULTILINE)
    assert found, key
    return textwrap.dedent(found[1])


def answer(*cidrs: str) -> str:
    """Return the beginning of what the API says of a node, with its traps for a script."""
    managed: Any = [{"fieldsV1": {"f:spec": {"f:podCIDRs": {".": {}, 'v:"10.9.9.0/24"': {}}}}}]
    annotations = {"last": '{"spec": {"podCIDRs":["10.8.8.0/24"]}}\n'}
    spec = {"podCIDR": cidrs[0], "podCIDRs": cidrs, "taints": [{"key": "not-ready"}]} if cidrs else {}
    return json.dumps({"metadata": {"annotations": annotations, "managedFields": managed}, "spec": spec}, indent=2)


def installed(directory: Path, said: str, host: str = "10.96.0.1") -> subprocess.CompletedProcess[str]:
    """Run the script as on a node that has the plugin and the daemon."""
    for name in ("host/bin", "host/vethd", "host/net.d", "config", "bin"):
        (directory / name).mkdir(parents=True)
    for file, text in (("host/bin/vethd-cni", ""), ("bin/curl", CURL)):
        (directory / file).write_text(text)
        (directory / file).chmod(0o755)
    (directory / "config" / "conflist").write_text(block("conflist"))
    (directory / "token").write_text("token")
    (directory / "answer").write_text(said)
    script = re.sub(r"(?<= |>)/(?=host|config)", "", block("install.sh"))
    script = script.replace("/var/run/secrets/kubernetes.io/serviceaccount", ".").replace("sleep infinity", "true")
    service = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443", "NODE": "node-1"}
    environ = {"PATH": f"{directory}/bin:{os.environ['PATH']}", **service}
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(os.path.relpath(directory / "host" / "vethd" / "vethd.sock.fd"))
        argv = ["sh", "-c", script]
        return subprocess.run(argv, cwd=directory, env=environ, capture_output=True, text=True, check=False, timeout=30)


def without_subnets(text: str) -> Any:
    """Read a conflist, without what is filled in later."""
    return json.loads(re.sub(r"\[(\{\{.*\}\}|RANGES|ROUTES)\]", "[]", text))


@pytest.mark.parametrize(
    ("cidrs", "routes"),
    [(("10.77.3.0/24",), [FOUR]), (("10.77.3.0/24", "fd77:3::/64"), [FOUR, SIX]), (("fd77:3::/64",), [SIX])],
)
def test_the_daemonset_installs_a_conflist(tmp_path: Path, cidrs: tuple[str, ...], routes: list[Any]) -> None:
    done = installed(tmp_path, answer(*cidrs))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asked").read_text() == "https://10.96.0.1:443/api/v1/nodes/node-1\n"
    assert [path.name for path in (tmp_path / "host" / "net.d").iterdir()] == ["10-vethd.conflist"]
    conflist = json.loads((tmp_path / "host" / "net.d" / "10-vethd.conflist").read_text())
    ranges = [[{"subnet": cidr}] for cidr in cidrs]
    assert conflist["plugins"][0]["ipam"] == {"type": "host-local", "ranges": ranges, "routes": routes}


def test_an_api_server_with_an_ipv6_address(tmp_path: Path) -> None:
    assert installed(tmp_path, answer("fd77:3::/64"), "fd96::1").returncode == 0
    assert (tmp_path / "asked").read_text() == "https://[fd96::1]:443/api/v1/nodes/node-1\n"


def test_a_node_without_subnets(tmp_path: Path) -> None:
    done = installed(tmp_path, answer())
    assert (done.returncode, bool(done.stderr)) == (1, True)
    assert list((tmp_path / "host" / "net.d").iterdir()) == []


def test_template_and_daemonset_have_the_same_conflist() -> None:
    template = (CONFIGS / "vethd-cni.conflist.template").read_text()
    assert without_subnets(block("conflist")) == without_subnets(template)
