"""What outlives the process: held file descriptors, the state record, saved pairs; and taking them up again."""
