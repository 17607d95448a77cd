"""vethd-cni: the CNI plugin that makes networks of vethd's pairs (docs/cni.md). plugin.py is its main."""
