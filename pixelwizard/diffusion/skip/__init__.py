"""Rules for skipping steps: which steps evaluate the network, and what the others use instead."""
