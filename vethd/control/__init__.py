"""Control a running vethd: a synchronous client library, and the command vethctl, which uses it."""

from vethd.control.client import Client, Reloaded
from vethd.control.errors import DaemonDown

__all__ = ["Client", "DaemonDown", "Reloaded"]
