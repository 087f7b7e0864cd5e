"""The networks that can be trained: one file each, by name."""
