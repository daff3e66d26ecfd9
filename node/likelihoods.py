"""Log-probabilities on their way to a reader: each token's once, when its text is shown.

The rule of the file: they go by the tokens of the session's log, which has each position once, so that no failover loses or
doubles any.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from node.api import LikelyToken, TokenLogprobs
from protocols.logprobs import Logprobs


class Vocabulary(Protocol):
    """Implemented by `inference.model.text.Text`."""

    def token_bytes(self, token: int) -> bytes: ...


class Likelihoods:
    """Of one answer, in the order of its tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._waiting: deque[tuple[int, int, Logprobs]] = deque()

    def add(self, position: int, token: int, logprobs: Logprobs | None) -> None:
        if logprobs is not None:
            self._waiting.append((position, token, logprobs))

    def take(self, count: int) -> tuple[TokenLogprobs, ...]:
        """Of the next `count` tokens; nothing if none were asked for."""
        count = min(count, len(self._waiting))
        return tuple(self._told(*self._waiting.popleft()) for _ in range(count))

    def _told(self, position: int, token: int, logprobs: Logprobs) -> TokenLogprobs:
        text, data = self._written(token)
        likeliest = tuple(
            LikelyToken(each, *self._written(each), logprob) for each, logprob in logprobs.likeliest
        )
        return TokenLogprobs(token, text, data, logprobs.chosen, position, likeliest)

    def _written(self, token: int) -> tuple[str, tuple[int, ...]]:
        data = self._vocabulary.token_bytes(token)
        return data.decode(errors="replace"), tuple(data)
