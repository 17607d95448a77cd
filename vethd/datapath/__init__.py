"""Engines: what reads a frame from one TAP, judges it and writes it to the other."""
