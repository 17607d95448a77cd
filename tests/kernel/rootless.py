"""Run inside `unshare -Urn`: try what a rootless daemon would, and print the answers as JSON."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable

from tests.kernel.lib import Net, assign_nsid
from tests.kernel.tap import BASE, IFF_NO_CARRIER, TUNSETOFFLOAD, TUNSETVNETHDRSZ, Tap
from tests.kernel.test_events import Listener
from tests.lib import bpf, rtnl
from tests.lib.netns import Netns
from tests.lib.rtnl import Rtnl, u32


def attempt(what: Callable[[], object]) -> str:
    """Return "ok", or the symbol of the errno."""
    try:
        what()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def main() -> None:
    """Print what happened to each attempt."""
    here = Net.adopt_own()
    tap = Tap(here, "a", BASE | IFF_NO_CARRIER)
    answers = {
        "up": attempt(lambda: here.up("a")),
        "mtu": attempt(lambda: here.set("a", (rtnl.IFLA_MTU, u32(9000)))),
        "carrier": attempt(lambda: tap.carrier(True)),
        "header": attempt(lambda: tap.ioctl_int(TUNSETVNETHDRSZ, 24)),
        "offload": attempt(lambda: tap.ioctl(TUNSETOFFLOAD, 0x1FF)),
        "noqueue": attempt(lambda: here.noqueue("a")),
        "filter": attempt(lambda: os.close(bpf.load(bpf.returning(-1)))),
    }
    with Rtnl(Netns("")) as sock, Rtnl(Netns("")) as asking:
        answers["listen_all_nsid"] = attempt(lambda: Listener(sock, asking))
        other = Net()
        answers["nsid"] = attempt(lambda: assign_nsid(asking, other.fd, 7))
        answers["move"] = attempt(lambda: here.move("a", other))
        other.let_go()
    tap.close()
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
