"""Runs side by side: shared samples, differences, and their intervals."""
