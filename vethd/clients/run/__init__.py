"""vethd-run: run any program with its veth links made by vethd (docs/run.md). supervisor.py has the theory of operation."""
