"""How the world comes in: one module a door, each a thin translation to what pairs/ does."""
