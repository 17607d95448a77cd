"""The daemon's interfaces: one module for each door, each a thin translation to the operations of pairs/."""
