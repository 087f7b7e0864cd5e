"""What a run leaves on disk: its folder, the store, provenance, status, failures."""
