"""The method, one stage per file: networks in ``__init__``, values in, a value out."""
