"""The random numbers of a training, drawn by key: those of a step depend on none before it."""

from __future__ import annotations

import hashlib

import torch


def generator(*key: object) -> torch.Generator:
    """Random numbers for a key like (seed, step, "noise")."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
