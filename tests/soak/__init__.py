"""A long life with everything going on at once, under the real systemd, and an auditor who looks every second."""
