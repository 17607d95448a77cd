"""The only code that calls Linux: TAPs, rtnetlink, namespaces, the tun filter, and checks of the machine's features."""
