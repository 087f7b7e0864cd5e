"""Self-attentions of the transformers, one a file; the name of a file is its attention's."""
