"""Objectives of the networks that predict velocities."""
