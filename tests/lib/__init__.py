"""What all tests share: namespaces, rtnetlink, raw frames, sockets, backends, and proofs that nothing leaked."""
