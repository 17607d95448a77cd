"""veth in userspace: pairs of TAP devices that behave like the kernel's veth."""

__version__ = "0.1.0"
