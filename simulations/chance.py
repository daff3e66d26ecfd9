"""Seeded randomness for every named consumer, so that one that draws more does not change what another draws."""

from __future__ import annotations

import hashlib
from random import Random

Chance = Random
"""What draws are taken from, for annotations elsewhere: only this module makes one."""


def chance(seed: int, *consumer: object) -> Chance:
    """The same draws for the same seed and consumer, in every process."""
    named = "/".join(map(str, (seed, *consumer)))
    return Random(int.from_bytes(hashlib.sha256(named.encode()).digest()[:8], "big"))  # noqa: S311 (no secrets here)
