"""Measurements of the stages with random weights, against the forward of the published code."""
