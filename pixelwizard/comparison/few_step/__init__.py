"""Objectives of the detail network side by side, in few passes and from the same weights."""
