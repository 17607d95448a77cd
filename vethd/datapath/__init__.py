"""Engines: they read each frame from one TAP, apply the verdict and write it to the other TAP."""
