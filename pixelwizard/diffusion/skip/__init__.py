"""Which steps ask the network and what the others use in its place, one rule a file."""
