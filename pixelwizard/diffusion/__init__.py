"""Rectified-flow sampling as pure functions: noise path, schedules, solvers, guidance."""
