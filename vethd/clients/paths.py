"""The path of the daemon's fd-passing socket, and a test for a file. Imports only posix, which is built in."""

import posix

SOCKET = b"/run/vethd/vethd.sock"


def socket_path() -> bytes:
    """Return the path of the daemon's fd-passing socket: $VETHD_SOCKET or the default, with ".fd" appended."""
    return (posix.environ.get(b"VETHD_SOCKET") or SOCKET) + b".fd"


def there(path: bytes | str) -> bool:
    """Return whether the file exists."""
    try:
        posix.stat(path)
    except OSError:
        return False
    return True
