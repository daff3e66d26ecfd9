"""Drawing a token from logits, counter-based: keyed by the session's seed and the token's position, and nothing else.

Noise for every token of the vocabulary comes from Philox under the key (seed, position), and the token with the highest
`logit / temperature + gumbel(noise)` is taken (the Gumbel-max trick: that is a draw from the softmax). A retry, a standby
or another batch therefore draws the same token, and logits that differ in their last bits nearly always do so too.

Filters apply in the order that transformers has: temperature, then `top_k`, then `top_p` over what is left. Among equal
logits the lowest token id comes first, in greedy choice as well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Malformed
from protocols.session import Sampling

Logits = NDArray[np.float64]


def draw(logits: NDArray[np.float32], sampling: Sampling, position: int) -> int:
    """The token for `position` out of [vocabulary] logits. Raises `Malformed` if they are not finite."""
    if not np.isfinite(logits).all():
        raise Malformed(f"the rows before position {position} lead to logits that are not finite")
    if sampling.temperature == 0:
        return int(np.argmax(logits))
    with np.errstate(over="ignore"):  # a minute temperature may leave the highest logit alone
        scaled = (logits.astype(np.float64) - float(logits.max())) / sampling.temperature
    keep = _kept(scaled, sampling)
    return int(np.argmax(np.where(keep, scaled + _gumbel(sampling.seed, position, len(scaled)), -np.inf)))


def _kept(scaled: Logits, sampling: Sampling) -> NDArray[np.bool_]:
    keep = np.ones(len(scaled), dtype=np.bool_)
    if 0 < sampling.top_k < len(scaled) or sampling.top_p < 1:
        order = np.argsort(-scaled, kind="stable")
        order = order[: sampling.top_k or len(order)]
        if sampling.top_p < 1:
            order = order[: _nucleus(scaled[order], sampling.top_p)]
        keep[:] = False
        keep[order] = True
    return keep


def _nucleus(descending: Logits, top_p: float) -> int:
    """The fewest tokens that together reach `top_p`; at least one."""
    weights = np.exp(descending - descending[0])
    return int(np.searchsorted(np.cumsum(weights), top_p * weights.sum())) + 1


def _gumbel(seed: int, position: int, count: int) -> Logits:
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, position], dtype=np.uint64)))
    uniform = 1.0 - generator.random(count)  # in (0, 1], so that the logarithm exists
    with np.errstate(
        divide="ignore"
    ):  # exactly 1 gives infinite noise once in 2**53 draws: that token is taken
        noise: Logits = -np.log(-np.log(uniform))
    return noise
