"""Count a daemon's objects from inside: `python -m tests.lib.peek SOCKET ARG ...` runs `vethd ARG ...` with a counter.

Theory of operation. A thread that is added to the daemon serves one request per connection: "still" counts the present
objects; "swept" collects garbage first. The garbage collector never runs by itself in such a daemon, so "still" also
finds an object of ours that only the collector could free. Nothing is frozen, so the tables of modules are counted,
too.
"""

from __future__ import annotations

import gc
import json
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.lib.wait import DEADLINE_S

OURS = "vethd."
_CONTAINERS = (dict, list, set, frozenset, tuple)


@dataclass(frozen=True)
class Held:
    """What a process holds: objects by type, blocks that the interpreter has allocated, members of all containers.

    A table can grow by members that are not objects of their own, such as small integers; items counts these.
    """

    types: Counter[str] = field(default_factory=Counter)
    blocks: int = 0
    items: int = 0

    @property
    def ours(self) -> Counter[str]:
        """The objects of the daemon's own classes."""
        return Counter({name: count for name, count in self.types.items() if name.startswith(OURS)})

    def more_than(self, before: Held) -> Counter[str]:
        """Return by how much each figure has grown, without those that have not."""
        grown = self.types - before.types
        figures = {"blocks": self.blocks - before.blocks, "items": self.items - before.items}
        return grown + Counter({name: more for name, more in figures.items() if more > 0})


def ask(path: Path, *, sweep: bool) -> Held:
    """Ask the daemon whose socket is at path. sweep: collect garbage first."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE_S)
        sock.connect(str(path))
        sock.sendall(b"swept" if sweep else b"still")
        sock.shutdown(socket.SHUT_WR)
        told = json.loads(b"".join(iter(lambda: sock.recv(1 << 16), b"")))
    return Held(Counter(told["types"]), told["blocks"], told["items"])


def _count() -> Held:
    blocks = sys.getallocatedblocks()
    types: Counter[str] = Counter()
    items = 0
    for one in _everything():
        kind = type(one)
        types[f"{kind.__module__}.{kind.__qualname__}"] += 1
        if isinstance(one, _CONTAINERS):
            items += len(one)
    return Held(types, blocks, items)


def _everything() -> Iterator[object]:
    """Yield every object that the collector tracks, and every untracked dict that one of them refers to."""
    for one in gc.get_objects():
        yield one
        for other in gc.get_referents(one):
            if isinstance(other, dict) and not gc.is_tracked(other):
                yield other


def _serve(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            if connection.recv(16) == b"swept":
                gc.collect()
                gc.collect()  # objects that finalizers of the first collection released
            connection.sendall(json.dumps(vars(_count())).encode())


def main() -> None:
    """Listen, then run the daemon."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv.pop(1))
    listener.listen()
    gc.disable()
    gc.freeze = lambda: None
    threading.Thread(target=_serve, args=(listener,), name="peek", daemon=True).start()
    from vethd.daemon.main import main  # noqa: PLC0415 - as `vethd` does

    main()


if __name__ == "__main__":
    main()
