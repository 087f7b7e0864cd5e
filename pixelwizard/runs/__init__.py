"""Everything that runs under Lightning."""
