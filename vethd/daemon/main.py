"""Start `vethd`: forward a predecessor's pairs, then import the rest of the daemon. At the end, exit without delay."""

from __future__ import annotations

import os
import sys

from vethd.daemon import early


def main() -> None:
    """Run the command.

    It exits without Python's own cleanup, which takes 0.1 s: frames would wait for the successor that long. All objects
    that need an ordered close are closed by then. If an error left wires running, they write the frames that they have
    read.
    """
    begun = early.Early()
    try:
        early.begin(begun, "vethd.daemon.cli")
        from vethd.daemon import cli  # noqa: PLC0415  it takes half a second

        cli.run(begun)
    except SystemExit as end:
        begun.let_go()
        if not isinstance(end.code, int):
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code)


if __name__ == "__main__":
    main()
