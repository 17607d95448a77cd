"""Programs that the Makefile calls; not part of the package."""
