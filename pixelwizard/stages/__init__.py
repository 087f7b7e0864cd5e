"""The method, one stage per file: dependencies in ``__init__``, values in, a value out."""
