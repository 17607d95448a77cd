"""Other users: processes of other uids that talk to vethd, and the namespaces that they hold."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.lib.netns import Netns

SOURCE = Path(__file__).with_name("stranger.py")
ALICE, BOB = 61_001, 61_002  # nobody has these


class HeldNetns(Netns):
    """A namespace that another process holds by a descriptor, as seen from here."""

    def __init__(self, pid: int, fd: int) -> None:
        """Refer to it."""
        super().__init__("")
        self.path = Path(f"/proc/{pid}/fd/{fd}")
        self.fd = fd
        self.inode = self.path.stat().st_ino


class Other:
    """One other user; a context manager, with whose end his process ends, and all that he holds."""

    def __init__(
        self, socket: Path, uid: int = ALICE, groups: Sequence[int] = (), inherited: Sequence[int] = ()
    ) -> None:
        """Start him: uid, whose group has the same number, and more groups; inherited are fds that he begins with."""
        self.uid = uid
        gids = ",".join(map(str, (uid, *groups)))
        argv = [sys.executable, "-c", SOURCE.read_text(), str(socket.parent), socket.name, str(uid), gids]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, pass_fds=inherited
        )
        self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.process.communicate()

    @property
    def pid(self) -> int:
        """His process."""
        return self.process.pid

    def netns(self, nested: int = 0) -> HeldNetns:
        """Have him make a network namespace in a user namespace of his own, nested so deep in another one."""
        return HeldNetns(self.pid, self.ask("hold", nested)[0])

    def fd(self, method: str, target: str, body: Any = None, fds: Sequence[int | str] = ()) -> tuple[int, Any]:
        """Make a request on the fd-passing socket, with descriptors of his, or "home", "file" or "null"."""
        status, reply = self.ask("fd", method, target, body, list(fds))
        return status, reply

    def http(self, method: str, target: str, body: Any = None) -> tuple[int, Any]:
        """Make a request on the control socket."""
        status, reply = self.ask("http", method, target, body)
        return status, reply

    def pair(self, near: HeldNetns, far: HeldNetns, **attributes: Any) -> tuple[int, Any]:
        """Ask for va in near and vb in far."""
        body = {"name": "va", "netns": "fd:0", "peer": {"name": "vb", "netns": "fd:1"}} | attributes
        return self.fd("POST", "/v1/pairs", body, [near.fd, far.fd])

    def ask(self, method: str, *args: Any) -> Any:
        """Call a method of Stranger. Raises AssertionError with his words where it fails."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([method, *args]) + "\n")
        answer = self._answer()
        assert "ok" in answer, answer
        return answer["ok"]

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "he died"
        return json.loads(line)
