"""The only code that talks to Linux: TAPs, rtnetlink, namespaces, the tun filter, and what this machine can do."""
