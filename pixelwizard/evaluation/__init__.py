"""Scores of written videos: each has a named recipe and reads its files as a stream."""
