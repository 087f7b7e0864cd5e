"""``generate``: prompts through the stages, on a Lightning predict loop."""
