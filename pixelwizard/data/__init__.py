"""Training data, and the prompts of a run."""
