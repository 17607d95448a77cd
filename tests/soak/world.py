"""The world of one run: a box with the real systemd, vethd in it as it is shipped, namespaces, the control socket."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lib.daemon import UnixConnection
from tests.lib.netns import Netns, command
from tests.lib.rtnl import Link, Rtnl
from tests.lib.service import CONFIG, CONTROL, Service
from tests.lib.systemd_box import SystemdBox
from tests.soak.stage import Stage, Wrong
from tests.soak.windows import Windows

API_S = 60.0  # a request waits while the daemon is restarted, on a crowded machine


class Cut(Exception):  # noqa: N818 - not an error: a request that the daemon's end cut short
    """Nobody knows whether the request was carried out."""


class Room(Netns):
    """A namespace of the box, seen from outside."""

    def __init__(self, box: SystemdBox, name: str) -> None:
        """Refer to it."""
        super().__init__(name)
        self.path = box.path(f"/run/netns/{name}")

    def links(self) -> list[Link]:
        """Read all devices but lo."""
        with Rtnl(self) as sock:
            return [link for link in sock.links() if link.name != "lo"]


@dataclass(eq=False)
class Pair:
    """A pair that should be there: what its actor knows of it. mark is its traffic's, None without."""

    near: str
    near_name: str
    far: str
    far_name: str
    id: str = ""
    mark: int | None = None
    queues: int = 2
    source: str = "runtime"

    def ends(self) -> set[tuple[str, str]]:
        """Return where its devices should be, and how they should be called."""
        return {(self.near, self.near_name), (self.far, self.far_name)}


@dataclass(eq=False)
class World:
    """Make it by start(); its box is the caller's to close."""

    box: SystemdBox
    engine: str
    stage: Stage
    windows: Windows
    pairs: dict[str, Pair] = field(default_factory=dict)  # by near name, which is never given twice
    rooms: dict[str, Room] = field(default_factory=dict)
    made: int = 0  # pairs made, whoever asked: the work by which a leak would leak
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Install the service and start it."""
        self.service = Service(self.box)
        self.configure("")
        self.service.start()
        text = Path(f"/proc/{self.box.pid}/cgroup").read_text()
        mounts = [
            line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line
        ]
        scope = Path(mounts[0] + text.strip().rpartition("::")[2])
        self._procs = scope.parent / "system.slice" / "vethd.service" / "cgroup.procs"

    def configure(self, pairs: str) -> None:
        """Replace the configuration in one step: a daemon that starts just now reads the old one or the new."""
        self.box.write(f"{CONFIG}.new", f'engine = "{self.engine}"\nworkers = 1\n{pairs}')
        self.box.path(f"{CONFIG}.new").replace(self.box.path(CONFIG))

    # --- the daemon

    def pid(self) -> int:
        """Return the daemon's PID as seen from here, 0 where there is none just now."""
        with suppress(OSError):  # the service, or one of its processes, is just going
            for pid in map(int, self._procs.read_text().split()):
                if Path(f"/proc/{pid}/comm").read_text() == "vethd\n":  # and not what ExecReload= runs
                    return pid
        return 0

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """Make one request. Raises Cut where the daemon went away under it, Wrong where it had no reason to fail."""
        began = time.monotonic_ns()
        what = f"{method} {path} {json.dumps(body) if body else ''}"
        connection = UnixConnection(self.box.path(CONTROL), API_S)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise Wrong(f"{what}: the control socket refused: {error!r}") from error
            try:
                connection.request(method, path, json.dumps(body).encode() if body is not None else None)
                response = connection.getresponse()
                data = response.read()
            except (OSError, http.client.HTTPException) as error:
                if self.windows.is_away(began):
                    raise Cut(what) from error
                raise Wrong(f"{what}: {error!r}, and the daemon had no reason to go") from error
        finally:
            connection.close()
        if response.status >= 500:
            raise Wrong(f"{what}: {response.status} {data!r}")
        return response.status, json.loads(data) if data else None

    def surely(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """Make a request that does no harm twice, until it is answered."""
        while True:
            try:
                return self.ask(method, path, body)
            except Cut:
                self.stage.counts["requests cut short"] += 1

    def get(self, path: str) -> Any:
        """GET what is there."""
        status, body = self.surely("GET", path)
        if status != 200:
            raise Wrong(f"GET {path}: {status} {body}")
        return body

    def make(self, pair: Pair, spec: Mapping[str, Any]) -> bool:
        """Make a pair and take it on the list; False where it is refused for a namespace that is gone (404)."""
        body = {"name": pair.near_name, "netns": pair.near, **spec}
        body["peer"] = {"name": pair.far_name, "netns": pair.far, **spec.get("peer", {})}
        while True:
            try:
                status, reply = self.ask("POST", "/v1/pairs", body)
            except Cut:
                self.stage.counts["requests cut short"] += 1
                found = [one for one in self.get("/v1/pairs") if one["spec"].get("name") == pair.near_name]
                if not found:
                    continue
                status, reply = 201, found[0]
            break
        if status == 404:
            return False
        if status != 201:
            raise Wrong(f"POST {body}: {status} {reply}")
        pair.id = reply["id"]
        pair.queues = sum(link["queues"] for link in reply["links"]) or pair.queues
        with self._lock:
            self.made += 1
            self.pairs[pair.near_name] = pair
        return True

    def change(self, pair: Pair, body: Mapping[str, Any]) -> None:
        """Change a pair that is there. Raises Wrong where it is refused."""
        status, reply = self.surely("PATCH", f"/v1/pairs/{pair.id}", body)
        if status != 200:
            raise Wrong(f"PATCH {pair} {body}: {status} {reply}")

    def delete(self, pair: Pair) -> None:
        """Delete a pair by the API."""
        cut = False
        while True:
            try:
                status, reply = self.ask("DELETE", f"/v1/pairs/{pair.id}")
                break
            except Cut:
                cut = True
        if status != 204 and not (cut and status == 404):
            raise Wrong(f"DELETE {pair}: {status} {reply}")
        self.gone(pair)

    def gone(self, pair: Pair) -> None:
        """Take a pair off the list."""
        with self._lock:
            self.pairs.pop(pair.near_name, None)

    def listed(self) -> list[Pair]:
        """Return the pairs that should be there."""
        with self._lock:
            return list(self.pairs.values())

    # --- namespaces

    def room(self, name: str) -> Room:
        """Make a namespace in which no device sends a frame that nobody asked for."""
        self.box.output("ip", "netns", "add", name)
        room = Room(self.box, name)
        for scope in ("all", "default"):
            room.sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", "1")
        with self._lock:
            self.rooms[name] = room
        return room

    def leave(self, room: Room) -> None:
        """Delete a namespace, with all that is in it."""
        with self._lock:
            self.rooms.pop(room.name, None)
        self.box.output("ip", "netns", "del", room.name)

    def every_room(self) -> list[Room]:
        """Return all namespaces that should be there."""
        with self._lock:
            return list(self.rooms.values())

    def ip(self, room: Room, line: str) -> str:
        """Run `ip` in a namespace; return its complaint, "" where there was none."""
        try:
            room.run(command, ["ip", *line.split()])
        except AssertionError as error:
            return str(error)
        return ""

    def kill(self, pid: int) -> None:
        """Kill the daemon, and see it dead."""
        os.kill(pid, 9)
        self.stage.wait(lambda: not Path(f"/proc/{pid}/status").exists(), f"the end of process {pid}")
