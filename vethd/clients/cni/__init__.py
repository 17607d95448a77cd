"""vethd-cni: the CNI plugin that connects containers through vethd's pairs (docs/cni.md). plugin.py has main()."""
