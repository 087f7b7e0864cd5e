"""What the networks are trained on and what the prompts of a run are."""
