"""What Linux does, as far as vethd relies on it: each file states facts and asserts them on this kernel."""
