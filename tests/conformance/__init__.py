"""One suite, the same assertions, against the kernel's own veth and against vethd."""
