"""The command line: tasks, overrides, Hydra, sweeps."""
