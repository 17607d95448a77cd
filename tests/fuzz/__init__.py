"""Fuzzing: every parser of vethd, fed with anything.

A target is a module with a one_input(), which takes any bytes and asserts what must hold (mutate.TARGETS has their
names). What broke something, and what leads far into a parser, stands in corpus/TARGET; tests/unit/test_fuzz.py
replays it and has hypothesis alter it. `make fuzz` has atheris do so for FUZZ_S seconds each.
"""
