"""vethd as a service in a box: installed from the units as they are shipped, under the real systemd."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lib.daemon import UnixConnection
from tests.lib.engines import ENGINE
from tests.lib.systemd_box import REPO, SystemdBox, visible_to_services
from tests.lib.wait import wait_until

VETHD = Path(sys.prefix) / "bin" / "vethd"
CONTROL = "/run/vethd/vethd.sock"
CONFIG = "/etc/vethd/vethd.toml"
ACTIVE_S = 60.0


class Service:
    """vethd installed in a box by tools/install-units, not started yet."""

    def __init__(self, box: SystemdBox) -> None:
        self.box = box
        box.output(str(REPO / "tools" / "install-units"), str(VETHD))
        box.output("systemd-sysusers")
        self.drop_in("where", visible_to_services())
        self.configure("")

    def drop_in(self, name: str, service: str) -> None:
        """Add lines to the unit's [Service] section."""
        self.box.write(f"/etc/systemd/system/vethd.service.d/{name}.conf", f"[Service]\n{service}")
        self.box.output("systemctl", "daemon-reload")

    def configure(self, pairs: str) -> None:
        """Replace the configuration: the engine that the tests run on, then pairs."""
        self.box.write(CONFIG, f'engine = "{ENGINE}"\n{pairs}')

    def start(self) -> None:
        """Start the service, which systemd says is done at READY=1."""
        self.box.output("systemctl", "start", "vethd.service")

    @property
    def state(self) -> str:
        """active, activating, inactive, ..."""
        return self.box.show("vethd.service", "ActiveState")

    def restarted(self, before: int) -> bool:
        """Whether systemd has started it again since it had done so before times."""
        return int(self.box.show("vethd.service", "NRestarts")) > before

    @property
    def pid(self) -> int:
        """The daemon's PID in the box."""
        return int(self.box.show("vethd.service", "MainPID"))

    def proc(self, file: str) -> str:
        """Read a file of the daemon's /proc/PID."""
        return self.box.output("cat", f"/proc/{self.pid}/{file}")

    def get(self, path: str) -> Any:
        """GET by the control socket, as root."""
        connection = UnixConnection(self.box.path(CONTROL))
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, body
            return json.loads(body)
        finally:
            connection.close()

    def wait_pairs(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until the pairs, by their near end's name, are so."""

        def pairs() -> dict[str, Any]:
            found = {pair["spec"]["name"]: pair for pair in self.get("/v1/pairs")}
            return found if condition(found) else {}

        return wait_until(pairs, ACTIVE_S, "the pairs")

    def log(self) -> list[dict[str, Any]]:
        """Return what the daemon wrote to the journal; a line that is no JSON is an error of its own (a traceback)."""
        self.box.output("journalctl", "--sync")
        whose = ("_SYSTEMD_UNIT=vethd.service", "SYSLOG_IDENTIFIER=vethd")  # and not ExecReload='s kill
        entries = self.box.output("journalctl", *whose, "--output=json", "--no-pager")
        return [_line(str(json.loads(entry)["MESSAGE"])) for entry in entries.splitlines()]

    def devices(self, netns: str = "") -> set[str]:
        """Return the names of all devices but lo in a namespace of the box."""
        where = ["ip", "-n", netns] if netns else ["ip"]
        return {link["ifname"] for link in json.loads(self.box.output(*where, "-json", "link"))} - {"lo"}

    def ping(self) -> None:
        """Give va and vb addresses, and ping across."""
        for netns, name, address in (("red", "va", "192.0.2.1/24"), ("blue", "vb", "192.0.2.2/24")):
            self.box.output("ip", "-n", netns, "address", "add", address, "dev", name)
        self.box.output("nsenter", "--net=/run/netns/red", "ping", "-q", "-c", "3", "-i", "0.2", "-W", "9", "192.0.2.2")


def _line(message: str) -> dict[str, Any]:
    try:
        return dict(json.loads(message))
    except ValueError:
        return {"level": "critical", "event": message}
