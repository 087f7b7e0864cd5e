"""Objectives for networks that predict velocities."""
