"""From tokens to the text that may be shown: incremental decoding, and stop strings found at the entry.

What could be the beginning of a stop string is held back until it is clear. The stop string itself is never shown.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol


class Decoder(Protocol):
    """Implemented by `inference.model.text.TextStream`."""

    def feed(self, token: int) -> str:
        """The text that this token completes."""

    def finish(self) -> str:
        """What is left when no token follows."""


@dataclass(slots=True)
class Completion:
    """`ending` holds the ids that are not text."""

    decoder: Decoder
    stop: tuple[str, ...] = ()
    ending: frozenset[int] = frozenset()
    shown: list[str] = field(default_factory=list)
    _held: str = ""
    has_stopped: bool = False
    _begins: deque[int] = field(default_factory=deque)  # in the text, of the tokens that are not settled
    _decoded: int = 0
    _shown: int = 0

    def add(self, token: int) -> str:
        """The text that may be shown now; `has_stopped` is set if a stop string came."""
        if token in self.ending or self.has_stopped:
            return ""
        self._begins.append(self._decoded)
        return self._take(self.decoder.feed(token))

    def finish(self) -> str:
        """What was held back and turned out to be text."""
        shown = "" if self.has_stopped else self._take(self.decoder.finish())
        held, self._held = self._held, ""
        return shown + self._show(held)

    def settled(self) -> int:
        """How many more tokens have come to stand in what is shown; those that only a stop string is made of never do."""
        before = len(self._begins)
        while self._begins and self._begins[0] < self._shown:
            self._begins.popleft()
        return before - len(self._begins)

    def _take(self, more: str) -> str:
        self._decoded += len(more)
        text = self._held + more
        found = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        if found:
            self.has_stopped = True
            self._held = ""
            return self._show(text[: min(found)])
        kept = self._beginning_of_a_stop(text)
        self._held = text[len(text) - kept :]
        return self._show(text[: len(text) - kept])

    @property
    def text(self) -> str:
        return "".join(self.shown)

    def _show(self, text: str) -> str:
        if text:
            self.shown.append(text)
            self._shown += len(text)
        return text

    def _beginning_of_a_stop(self, text: str) -> int:
        """How many characters at the end could still become a stop string."""
        longest = max((len(stop) - 1 for stop in self.stop), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self.stop):
                return length
        return 0
