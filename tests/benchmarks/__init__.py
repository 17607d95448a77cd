"""Benchmarks: figures beside the kernel's veth, printed, never asserted. `python -m tests.benchmarks` runs them all."""
