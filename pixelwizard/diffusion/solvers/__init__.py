"""Solvers of the flow's differential equation, one per file, named like the file."""
