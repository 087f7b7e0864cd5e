"""The shipped metrics, one per file; ``base`` has their base class."""
