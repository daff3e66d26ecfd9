"""Log-probabilities that travel with a token: of the one that was drawn, and of the likeliest at its position.

    4 bytes  float32      log-probability of the token that was drawn
    8 bytes  uint32, float32, up to `LOGPROBS_MAX` times: a token id and its log-probability, the likeliest first

All little-endian. They are those of the model itself, the log-softmax of its raw logits: before penalties, bias, a grammar,
temperature and filters, so that they do not depend on how a token was asked for.
"""

from __future__ import annotations

import math
import struct
from typing import Final

import msgspec

from protocols import limits
from protocols.errors import Malformed

_CHOSEN: Final = struct.Struct("<f")
_LIKELY: Final = struct.Struct("<If")
LOGPROBS_BYTES_MAX: Final = _CHOSEN.size + limits.LOGPROBS_MAX * _LIKELY.size
ROUNDING: Final = 1e-3  # by which a sum of float32 may exceed what is certain


class Logprobs(msgspec.Struct, frozen=True):
    """`likeliest`: token ids with their log-probabilities, in descending order."""

    chosen: float
    likeliest: tuple[tuple[int, float], ...] = ()


def encode_logprobs(logprobs: Logprobs) -> bytes:
    return _CHOSEN.pack(logprobs.chosen) + b"".join(_LIKELY.pack(*each) for each in logprobs.likeliest)


def decode_logprobs(data: bytes, count: int, vocabulary: int) -> Logprobs:
    """Where `count` of the likeliest were asked for. Raises `Malformed` for anything that can't be the answer."""
    if len(data) != _CHOSEN.size + min(count, vocabulary) * _LIKELY.size:
        raise Malformed(
            f"{len(data)} bytes of log-probabilities where {count} of the likeliest were asked for"
        )
    (chosen,) = _CHOSEN.unpack_from(data)
    likeliest = tuple(_LIKELY.iter_unpack(data[_CHOSEN.size :]))
    values = [chosen, *(value for _, value in likeliest)]
    if not all(math.isfinite(value) and value <= ROUNDING for value in values):
        raise Malformed("log-probabilities that are none")
    ids = {token for token, _ in likeliest}
    if len(ids) < len(likeliest) or any(token >= vocabulary for token in ids):
        raise Malformed(f"log-probabilities of tokens twice, or outside a vocabulary of {vocabulary}")
    if values[1:] != sorted(values[1:], reverse=True):
        raise Malformed("log-probabilities that do not descend")
    return Logprobs(chosen, likeliest)
