"""What this node has refused or failed at since it was started, and how often: one table of all that counts such things.

The rule of the file: names are what an operator reads. Errors that peers set off go by the name of the error, everything else
by where it was seen and what it was: "gossip forged", "mdns too many", "book not written".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

Counts = Callable[[], Mapping[str, int]]

GOSSIP: Final = (
    "forged",  # signatures that do not hold
    "refused",  # words that their topic does not allow
    "limited",  # past the rate of a neighbour or author
    "replayed",  # older than what is known
    "future",  # dated further ahead than clocks may differ
    "ahead",  # taken, and so far ahead that they take this node's shortest words for expired
    "expired",
    "stranger",  # of nobody known as a member
    "full",  # more authors than members can be
    "equivocation",  # two bundles under one number
    "cut_off",  # neighbours that broke the rules
    "contested",  # own words that another with this node's key unsaid
)


class Faults:
    """Reads counters that others keep; a name that two of them count is added up."""

    def __init__(self) -> None:
        self._sources: list[tuple[str, Counts, tuple[str, ...] | None]] = []

    def add(self, where: str, counts: Counts, only: tuple[str, ...] | None = None) -> None:
        """`counts` is asked every time; of it `only` these, if given, named with `where` in front unless that is empty."""
        self._sources.append((where, counts, only))

    def all(self) -> dict[str, int]:
        """What has happened at least once."""
        found: dict[str, int] = {}
        for where, counts, only in self._sources:
            for what, times in counts().items():
                if times and (only is None or what in only):
                    name = f"{where} {what}".strip().replace("_", " ")
                    found[name] = found.get(name, 0) + times
        return found
