"""`python -m tests.benchmarks`: see cli.py."""

from tests.benchmarks.cli import main

main()
