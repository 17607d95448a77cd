"""vethd-run: any program, its veth links made by vethd (docs/run.md). supervisor.py has the theory of operation."""
