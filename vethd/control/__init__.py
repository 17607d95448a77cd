"""How people and programs talk to a running vethd: a synchronous client library, and vethctl upon it."""

from vethd.control.client import Client, Reloaded
from vethd.control.errors import DaemonDown

__all__ = ["Client", "DaemonDown", "Reloaded"]
