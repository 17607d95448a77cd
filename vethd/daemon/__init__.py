"""The service: config, sockets, signals, systemd, composition."""
