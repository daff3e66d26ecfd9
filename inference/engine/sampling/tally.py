"""The tokens of one session so far, by what penalties ask of them.

Each row of a cache carries its token id, so that the tally follows the cache: rows that are written again take back the ones
they replace, and a replay leads to the same counts whatever frames it comes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_ROOM: Final = 64  # distinct tokens at first; doubles

Ids = NDArray[np.int64]
Counts = NDArray[np.int64]


class Tally:
    """Rows from `prompt_rows` on are the answer's."""

    def __init__(self, prompt_rows: int) -> None:
        self._prompt_rows = prompt_rows
        self._tokens: list[int] = []
        self._slots: dict[int, int] = {}  # of each token that ever came
        self._ids = np.zeros(_ROOM, dtype=np.int64)
        self._counts = np.zeros((2, _ROOM), dtype=np.int64)  # in the prompt, in the answer

    @property
    def tokens(self) -> Sequence[int]:
        return self._tokens

    def write(self, position: int, tokens: Sequence[int]) -> None:
        """Rows `position` and on are these tokens; there is nothing behind them."""
        assert position <= len(self._tokens)
        for row in range(position, len(self._tokens)):
            self._counts[int(row >= self._prompt_rows), self._slots[self._tokens[row]]] -= 1
        del self._tokens[position:]
        for row, token in enumerate(tokens, position):
            slot = self._slot(token)  # first, since it may make new arrays
            self._counts[int(row >= self._prompt_rows), slot] += 1
            self._tokens.append(token)

    def seen(self) -> Ids:
        """The distinct tokens of prompt and answer."""
        used = len(self._slots)
        found: Ids = self._ids[:used][self._counts[:, :used].any(axis=0)]
        return found

    def generated(self) -> tuple[Ids, Counts]:
        """The distinct tokens of the answer, and how often each is in it."""
        used = len(self._slots)
        counts = self._counts[1, :used]
        return self._ids[:used][counts > 0], counts[counts > 0]

    def _slot(self, token: int) -> int:
        slot = self._slots.get(token)
        if slot is None:
            slot = self._slots[token] = len(self._slots)
            if slot == len(self._ids):
                self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)], axis=1)
            self._ids[slot] = token
        return slot
