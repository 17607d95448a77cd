"""Programs that other programs start. They import only the standard library and this room, so that they start fast."""
