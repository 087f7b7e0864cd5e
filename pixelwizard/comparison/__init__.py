"""Runs beside each other: what they share, how they differ, and how far that can be trusted."""
