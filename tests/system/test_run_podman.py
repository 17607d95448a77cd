"""An unmodified netavark under vethd-run, as podman's network backend: a wrapper in podman's directory of helpers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.podman import LIMITS, SOCKET, Podman
from tests.lib.systemd_box import REPO
from tests.lib.wait import wait_until

pytestmark = pytest.mark.heavy

HELPERS = REPO / "build" / "unpacked" / "aardvark-dns" / "usr" / "lib" / "podman"  # it depends on netavark
VETHD_RUN = Path(sys.executable).with_name("vethd-run")


@pytest.fixture(scope="module")
def podman(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:  # noqa: ARG001 - see conftest.py
    """Yield a host whose podman finds our wrapper under the name netavark."""
    directory = tmp_path_factory.mktemp("podman")
    helpers = directory / "helpers"
    helpers.mkdir()
    wrapper = helpers / "netavark"
    wrapper.write_text(f'#!/bin/sh\nVETHD_SOCKET={SOCKET} exec {VETHD_RUN} {HELPERS}/netavark "$@"\n')
    wrapper.chmod(0o755)
    (helpers / "aardvark-dns").symlink_to(HELPERS / "aardvark-dns")
    config = f'network_backend = "netavark"\nnetwork_config_dir = "{directory}/networks"\n'
    host = Podman(directory, f'{config}[engine]\nhelper_binaries_dir = ["{helpers}", "/usr/lib/podman"]\n')
    yield host
    host.close()


def started(podman: Podman, name: str, *options: str) -> None:
    """Start a container that serves a page."""
    rootfs = f"{podman.directory}/rootfs:O"
    words = ("run", "--detach", *LIMITS, "--name", name, *options, "--rootfs", rootfs)
    podman.run(*words, "httpd", "-f", "-p", "80", "-h", "/etc")


def test_the_default_network(podman: Podman) -> None:
    """A published port, an address, a reload of the network; the pair is ours and goes with the container."""
    started(podman, "web", "--publish", "8080:80")
    assert "eth0" in [link["name"] for link in podman.get("/v1/links")]
    assert podman.command("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/page") == "hello"
    podman.run("network", "reload", "web")
    assert podman.command("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/page") == "hello"
    podman.run("rm", "--force", "--time=0", "web")
    wait_until(lambda: not podman.get("/v1/pairs"), what="no pair")


def test_a_network_with_names(podman: Podman) -> None:
    """Two containers find each other by name."""
    podman.run("network", "create", "net")
    started(podman, "first", "--network", "net")
    started(podman, "second", "--network", "net")
    assert podman.run("exec", "second", "wget", "-q", "-O", "-", "http://first/page") == "hello"
    podman.run("rm", "--force", "--time=0", "first", "second")
    podman.run("network", "rm", "net")
    wait_until(lambda: not podman.get("/v1/pairs"), what="no pair")
