"""Measurements of the stages with random weights, beside a forward shaped like the reference's."""
