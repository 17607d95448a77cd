"""Programs that other programs start: stdlib alone, nothing of vethd but this room, so that they start fast."""
