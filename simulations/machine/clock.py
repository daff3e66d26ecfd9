"""Time and chance that can be repeated: trio's clock (virtual under `MockClock`) and bytes drawn from a seed."""

from __future__ import annotations

import hashlib
from typing import Final

import trio

EPOCH_S: Final = 1_800_000_000.0
"""What a virtual wall clock shows when trio's clock shows 0."""


class VirtualClock:
    """Implements `protocols.seams.Clock` on trio's clock. Its wall clock may be wrong by `skew_s`, drift and jump.

    The monotonic clock is never wrong: it counts for the node's own waits only, which are trio's.
    """

    def __init__(self, skew_s: float = 0.0) -> None:
        self.skew_s = skew_s
        self._drift_ppm = 0.0
        self._drifts_since_s = 0.0

    def monotonic(self) -> float:
        return trio.current_time()

    def wall(self) -> float:
        now = trio.current_time()
        return EPOCH_S + now + self.skew_s + (self._drifted_s(now) if self._drift_ppm else 0.0)

    def jump(self, by_s: float) -> None:
        """Somebody sets the wall clock; a negative time sets it back."""
        self.skew_s += by_s

    def drift(self, ppm: float) -> None:
        """From now on the wall clock gains `ppm` microseconds per second; a negative rate loses them, 0 ends the drift."""
        now = trio.current_time()
        self.skew_s += self._drifted_s(now)
        self._drift_ppm, self._drifts_since_s = ppm, now

    def _drifted_s(self, now: float) -> float:
        return (now - self._drifts_since_s) * self._drift_ppm * 1e-6


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
