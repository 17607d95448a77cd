"""A daemon for the soak: with an fd store as under systemd, namespaces, and short forms of its requests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import msgspec

from tests.lib.daemon import PROGRAM
from tests.lib.fd_store import FdStore
from tests.lib.leaks import PREFIX
from tests.lib.netns import RUN_NETNS, Netns
from tests.lib.site import Site
from tests.lib.wait import wait_until

GONE_S = 60.0
BRIDGE = "soak0"
LOOK_S = 0.01  # a shorter interval would delay the deletion that it waits for

Pair = dict[str, Any]


class Ground:
    """A running daemon, two namespaces that stay, and the operations that a round needs. A context manager."""

    def __init__(self, site: Site) -> None:
        """Use the site's running daemon, and overwrite its config."""
        self.site = site
        self.daemon = site.daemon
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        self.near, self.far = self.netns(), self.netns()
        return self

    def __exit__(self, *_: object) -> None:
        for path in RUN_NETNS.glob(f"{PREFIX}l*"):
            Netns(path.name).delete()

    def number(self) -> int:
        """Return a number that was not used before."""
        return next(self._numbers)

    def netns(self) -> Netns:
        """Make a namespace. It is deleted at the end, unless it was deleted before."""
        return Netns.create(f"{PREFIX}l{self.number()}")

    def configure(self, pairs: str) -> None:
        """Declare these pairs, and reload the config."""
        self.site.configure(pairs)
        self.site.reload()

    def ask(self, method: str, path: str, body: Any = None, status: int = 0) -> Any:
        """Make a request; return its reply. status is the expected one, 0: any success. Raises AssertionError."""
        data = None if body is None else msgspec.json.encode(body)
        got, reply = self.daemon.request(method, path, data)
        assert got == status or (not status and got < 300), (method, path, body, got, reply)
        return reply

    def pair(self, near: str = "", far: str = "", **more: Any) -> Pair:
        """Make a pair between these namespaces; "" is the daemon's."""
        number = self.number()
        body = {"name": f"a{number}", "netns": near or None, "peer": {"name": f"b{number}", "netns": far or None}}
        return dict(self.ask("POST", "/v1/pairs", body | more))

    def delete(self, pair: Pair) -> None:
        """Delete a pair through the API."""
        self.ask("DELETE", f"/v1/pairs/{pair['id']}")

    def change(self, pair: Pair, body: Any) -> None:
        """Change a pair through the API."""
        self.ask("PATCH", f"/v1/pairs/{pair['id']}", body)

    def up(self, pair: Pair) -> None:
        """Set both ends up."""
        self.change(pair, {"up": True, "peer": {"up": True}})

    def wait_gone(self, pair: Pair) -> None:
        """Wait until the daemon no longer has the pair."""
        path = f"/v1/pairs/{pair['id']}"
        wait_until(lambda: self.daemon.request("GET", path)[0] == 404, GONE_S, f"{pair} gone", poll_s=LOOK_S)

    def wait_state(self, state: str) -> None:
        """Wait until the only declared pair has that state."""

        def so() -> bool:
            found = [pair for pair in self.daemon.pairs() if pair["source"] == "config"]
            return [pair["state"] for pair in found] == [state]

        wait_until(so, GONE_S, f"the declared pair {state}", poll_s=LOOK_S)


@contextmanager
def grounds(directory: Path, engine: str, program: Sequence[str] = PROGRAM) -> Iterator[Ground]:
    """Run a daemon with an fd store, as under systemd; stop it, and check that its devices are gone."""
    home = Netns.create(f"{PREFIX}ground")
    try:
        with FdStore(directory / "store") as store:
            site = Site(home, directory, engine)
            site.program = ("env", *(f"{key}={value}" for key, value in store.environ.items()), *program)
            site.start()
            try:
                with Ground(site) as ground:
                    yield ground
            finally:
                site.stop()
        assert home.names() <= {BRIDGE}, home.names()
    finally:
        home.delete()
