"""Solvers of the flow's differential equation, one a file; the name of a file is its solver's."""
