"""`python -m tests.soak`: the command behind `make soak`."""

from __future__ import annotations

import argparse
import os
import random
import sys
from pathlib import Path

from tests.lib.engines import ENGINES, need
from tests.soak.run import soak

LEFT = Path("build/soak")


def main() -> int:
    """Run what the command line says; 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="in all, over the engines (default 3600)")
    parser.add_argument("--seed", type=int, help="what is done, and in which order (default: random)")
    parser.add_argument(
        "--engine", choices=("asyncio", "native"), help="one of them (default: both, one after the other)"
    )
    said = parser.parse_args()
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        parser.exit(1, "soak makes namespaces and TAP devices: run it as root, with /dev/net/tun\n")
    seed = random.SystemRandom().getrandbits(32) if said.seed is None else said.seed
    engines = (said.engine,) if said.engine else ENGINES
    failed = False
    for engine in engines:
        need(engine)
        print(f"soak: {engine}, {said.seconds / len(engines):.0f} s, seed {seed}", flush=True)
        report = soak(engine, seed, said.seconds / len(engines), LEFT / engine)
        print(report.text(), flush=True)
        if report.wrong:
            failed = True
            print(f"what is left of it: {LEFT / engine}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
