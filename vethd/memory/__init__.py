"""State that outlives the process: kept file descriptors, the state record and saved pairs, and how it is restored."""
