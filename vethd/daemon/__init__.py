"""The service: config file, sockets, signals, systemd, and the composition of all parts."""
