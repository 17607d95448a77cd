"""vethd-ip: ip(8) whose veth is vethd's (docs/ip.md). dispatch.py has the theory of operation."""
