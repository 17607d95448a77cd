"""vethd-ip: ip(8) with veth links made by vethd (docs/ip.md). dispatch.py has the theory of operation."""
