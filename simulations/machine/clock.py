"""Time and chance that can be repeated: trio's clock (virtual under `MockClock`) and bytes drawn from a seed."""

from __future__ import annotations

import hashlib
from typing import Final

import trio

EPOCH_S: Final = 1_800_000_000.0
"""What a virtual wall clock shows when trio's clock shows 0."""


class VirtualClock:
    """Implements `protocols.seams.Clock` on trio's clock; `skew_s` makes one node's wall clock wrong."""

    def __init__(self, skew_s: float = 0.0) -> None:
        self.skew_s = skew_s

    def monotonic(self) -> float:
        return trio.current_time()

    def wall(self) -> float:
        return EPOCH_S + trio.current_time() + self.skew_s


class SeededRandomness:
    """Implements `protocols.seams.Randomness`: the sha256 of (seed, counter), block after block."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._counter = 0

    def token_bytes(self, count: int) -> bytes:
        drawn = bytearray()
        while len(drawn) < count:
            drawn += hashlib.sha256(f"{self._seed}/{self._counter}".encode()).digest()
            self._counter += 1
        return bytes(drawn[:count])
