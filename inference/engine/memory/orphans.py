"""Caches in the worker that no session of this node has any more. Pure.

One that is opened or closed just now is on one side and not yet on the other: only what is unknown at two looks in a row is an
orphan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from protocols.seams import CacheKey


class Orphans:
    """Compares what the worker has with what is known to be in use, look by look."""

    def __init__(self) -> None:
        self._unknown: frozenset[CacheKey] = frozenset()

    def look(self, held: Iterable[CacheKey], is_known: Callable[[CacheKey], bool]) -> list[CacheKey]:
        """Those to close, in the order in which the worker has them."""
        unknown = [key for key in held if not is_known(key)]
        found = [key for key in unknown if key in self._unknown]
        self._unknown = frozenset(unknown)
        return found
