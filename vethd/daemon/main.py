"""Start `vethd`: forward first what a predecessor left, and only then import the rest. And end it without delay."""

from __future__ import annotations

import os
import sys

from vethd.daemon import early


def main() -> None:
    """Run the command.

    It ends without Python's own clearing up: that takes 0.1 s, in which frames would wait for the successor. What must
    be closed in order has been by then, and what forwards still, where something failed, writes what it has read.
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
