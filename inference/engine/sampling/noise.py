"""Counter-based noise: an exponential variate for every token id, as a function of seed, position and token id alone.

A token with weight w is drawn if its exponential / w is the least of all, which is a draw in proportion to the weights
(Efraimidis and Spirakis, 2006; the Gumbel-max trick in other words). Since each variate is a function of its own token id, the
draw does not depend on which other tokens survive a filter, and only those that can win need be looked at: the token ids are
dealt into `LANES`, and the minimum of each lane is drawn first, as that of n exponentials is again exponential, with rate n.
All others of a lane exceed its minimum by exponentials of their own (they have no memory), so that the minimum bounds them.

Bits are those of SplitMix64 under a key mixed from seed and position (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, OOPSLA 2014): integer arithmetic, equal everywhere. Logarithms may differ in their last bit between machines, which
decides about one draw in 10**14.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

LANES: Final = 256  # token ids that are equal modulo this share a lane

Words = NDArray[np.uint64]
Reals = NDArray[np.float64]
Ids = NDArray[np.int64]

_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)
_MINIMA: Final = np.arange(
    1, 2 * LANES + 1, dtype=np.uint64
)  # counters: a minimum and its place for each lane
_TOKENS: Final = np.uint64(2 * LANES + 1)  # the counter of token 0


@dataclass(frozen=True, slots=True)
class Noise:
    """Of several rows of `vocabulary` logits. `minima` [rows, LANES] are the least variates of each lane, `least` [rows, LANES]
    the token ids that have them (past the vocabulary where a lane is empty)."""

    keys: Words
    minima: Reals
    least: Ids

    def of(self, rows: Ids, tokens: Ids) -> Reals:
        """The variates of these tokens, each in the row that stands in its place."""
        lanes = tokens % LANES
        beyond = _exponentials(_mixed(self.keys[rows] + (tokens.astype(np.uint64) + _TOKENS) * _GAMMA))
        beyond[tokens == self.least[rows, lanes]] = 0.0
        variates: Reals = self.minima[rows, lanes] + beyond
        return variates


def make_noise(draws: Sequence[tuple[int, int]], vocabulary: int) -> Noise:
    """A row for each seed and position."""
    keys = _mixed(_mixed(np.array([seed for seed, _ in draws], dtype=np.uint64) + _GAMMA))
    keys = _mixed(keys + np.array([position for _, position in draws], dtype=np.uint64) * _FIRST)
    words = _mixed(keys[:, None] + _MINIMA * _GAMMA)
    lanes = np.arange(LANES)
    sizes = np.maximum(1, (vocabulary - lanes + LANES - 1) // LANES)
    minima = _exponentials(words[:, :LANES]) / sizes
    places = ((words[:, LANES:] >> np.uint64(32)) * sizes.astype(np.uint64)) >> np.uint64(32)
    return Noise(keys, minima, places.astype(np.int64) * LANES + lanes)


def _mixed(words: Words) -> Words:
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    return words ^ (words >> np.uint64(31))


def _exponentials(words: Words) -> Reals:
    """From the upper 53 bits; never 0 and never infinite."""
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return -np.log(uniform)
