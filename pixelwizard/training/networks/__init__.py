"""Networks that are trained: one file each, by name."""
