"""What an invariant is: a sentence, and a function that finds what contradicts it.

    @always("S1", "What a client sees has dense positions: no token is lost, none comes twice.")
    def positions_are_dense(mesh: Mesh) -> Iterator[Breach]: ...

A check is asked again and again. It yields every breach that it sees now; one that may stand for a while says so with
`within_s`, and counts only when every look in that time has seen it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from simulations.invariants.mesh import Mesh

LOOK_S: Final = 0.1
"""Between two looks at what is cheap to look at."""


@dataclass(frozen=True, slots=True)
class Breach:
    """Something that contradicts an invariant. `key` tells breaches of the same nodes apart for `within_s`."""

    nodes: tuple[str, ...]
    detail: str
    key: Hashable = None
    within_s: float = 0.0


Check = Callable[[Mesh], Iterator[Breach]]


class When(Enum):
    ALWAYS = auto()
    SETTLED = auto()  # once no new fault comes, of the nodes that were healed
    END = auto()


@dataclass(frozen=True, slots=True)
class Invariant:
    id: str
    sentence: str
    check: Check
    when: When
    every_s: float

    @property
    def name(self) -> str:
        return self.check.__name__


CATALOGUE: Final[list[Invariant]] = []
"""In the order in which the modules of this package are read, see `catalogue`."""


def always(id_: str, sentence: str, every_s: float = LOOK_S) -> Callable[[Check], Check]:
    """Safety: holds whatever happens."""
    return _registered(id_, sentence, When.ALWAYS, every_s)


def settled(id_: str, sentence: str, every_s: float = 1.0) -> Callable[[Check], Check]:
    """Liveness: holds within a bound, from `script.settled_at_s` on."""
    return _registered(id_, sentence, When.SETTLED, every_s)


def at_the_end(id_: str, sentence: str) -> Callable[[Check], Check]:
    """Holds when the run is over."""
    return _registered(id_, sentence, When.END, LOOK_S)


def _registered(id_: str, sentence: str, when: When, every_s: float) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        CATALOGUE.append(Invariant(id_, sentence, check, when, every_s))
        return check

    return register
