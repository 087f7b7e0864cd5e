"""Scores of written videos: each by a named recipe, read in a stream, merged over processes."""
