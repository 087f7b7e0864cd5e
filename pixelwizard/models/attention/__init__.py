"""Self-attentions of the transformers, one per file, named like the file."""
