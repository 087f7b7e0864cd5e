"""The method: networks in ``__init__``, values in, a value out."""
