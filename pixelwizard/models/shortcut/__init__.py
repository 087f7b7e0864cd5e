"""Shortcut detail generation: step-size embedding, spatial adapter, network and targets."""
